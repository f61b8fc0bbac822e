/* Loads thousands of damaged copies of a model in one process; test_hostile.py starts it.
 *
 *     hostile_loader FOLDER | FILE.gguf      a two-layer model that may be written to (and is restored)
 *
 * Memory must stay below 1 GiB. Damage: model.safetensors cut at every length up to behind the header and
 * around every tensor's borders, one byte appended, every byte of its header replaced by 00, FF, itself xor
 * 80 and itself + 1, by " and }; the same replacements in config.json and, every seventh byte, in
 * tokenizer.json. A GGUF file is treated as model.safetensors is, all in front of its data being header;
 * among its tokens and merges every seventh byte is replaced. Each load must end within a second in SP_DATA
 * that names the file, and the tensor or key, or in a model that runs a token. Any other end prints the
 * damage and makes the exit status 1. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "models/model.h"

static sp_device *device;
static const char *folder;
static size_t n_loads, n_refused, n_served, n_wrong;
static double slowest;

/* Gives every position its own value back: enough to run a layer. */
static sp_status attend(void *context, const sp_attend_call *call, sp_error *error)
{
    const sp_hparams *h = context;
    (void)error;
    memset(call->out, 0, call->batch->n_rows * h->n_heads * h->head_dim * sizeof *call->out);
    return SP_OK;
}

static bool run_token(sp_model *model)
{
    const int32_t token = 1;
    const uint32_t zero = 0;
    const uint8_t one = 1;
    sp_batch batch = {
        .n_rows = 1, .tokens = &token, .positions = &zero, .slots = &zero, .wants_logits = &one};
    size_t bytes;
    if (!sp_model_scratch_bytes(model, 1, 1, &bytes)) return false;
    void *scratch = sp_alloc(bytes, 1);
    float *logits = sp_alloc(model->hparams.vocab, sizeof *logits);
    bool fine = scratch && logits &&
                sp_model_forward(model, &batch, attend, &model->hparams, scratch, logits, NULL) == SP_OK;
    sp_free(scratch);
    sp_free(logits);
    return fine;
}

static double processor_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void load(const char *file, const char *damage, size_t place, unsigned byte)
{
    sp_model *model;
    sp_error error = {0};
    double start = processor_seconds();
    sp_status status = sp_model_open(folder, device, NULL, &model, &error);
    double seconds = processor_seconds() - start;
    for (int i = 0; i < 4 && seconds >= 1.0; i++) { /* a processor taken from this machine counts as used */
        if (status == SP_OK) sp_model_close(model);
        start = processor_seconds();
        status = sp_model_open(folder, device, NULL, &model, &error);
        seconds = fmin(seconds, processor_seconds() - start);
    }
    if (seconds > slowest) slowest = seconds;
    n_loads++;
    bool fine;
    if (status == SP_OK) {
        fine = run_token(model);
        n_served++;
        sp_model_close(model);
    } else {
        bool named = error.param[0] || strstr(error.message, "byte");
        fine = status == SP_DATA && named && strstr(error.message, *file ? file : folder);
        n_refused++;
    }
    if (fine && seconds < 1.0) return;
    n_wrong++;
    printf("WRONG: %s %s at %zu (%02x): %s, %.2f s: [%s] %s\n", file, damage, place, byte,
           sp_status_name(status), seconds, error.param, error.message);
}

typedef struct target {
    const char *name;
    char path[4096];
    char *bytes;
    size_t size;
    int fd;
} target;

static void stop(const char *what)
{
    fprintf(stderr, "hostile_loader: %s failed\n", what);
    exit(2);
}

static void open_target(target *t, const char *name)
{
    t->name = name;
    if (*name)
        snprintf(t->path, sizeof t->path, "%s/%s", folder, name);
    else
        snprintf(t->path, sizeof t->path, "%s", folder);
    if (sp_read_file(t->path, (size_t)1 << 20, &t->bytes, &t->size, NULL) != SP_OK) stop("reading");
    t->fd = open(t->path, O_RDWR);
    if (t->fd < 0) stop("opening");
}

static void put(const target *t, size_t place, const void *bytes, size_t n)
{
    if (pwrite(t->fd, bytes, n, (off_t)place) != (ssize_t)n) stop("writing");
}

static void close_target(target *t)
{
    if (ftruncate(t->fd, 0) != 0) stop("restoring");
    put(t, 0, t->bytes, t->size);
    close(t->fd);
    sp_free(t->bytes);
}

static void replace_bytes(const target *t, size_t begin, size_t end, size_t step)
{
    for (size_t place = begin; place < end; place += step) {
        uint8_t old = (uint8_t)t->bytes[place];
        const uint8_t values[] = {0x00, 0xff, old ^ 0x80, (uint8_t)(old + 1), '"', '}'};
        for (size_t i = 0; i < sizeof values; i++) {
            if (values[i] == old) continue;
            put(t, place, &values[i], 1);
            load(t->name, "byte replaced", place, values[i]);
        }
        put(t, place, &old, 1);
    }
}

static void cut(const target *t, size_t size)
{
    if (size >= t->size) return;
    if (ftruncate(t->fd, (off_t)size) != 0) stop("cutting");
    load(t->name, "cut", size, 0);
    put(t, size, t->bytes + size, t->size - size);
}

/* Cuts at the borders of every tensor, one byte before and behind them. Takes weights. */
static void cut_at_tensors(const target *t, sp_weights *weights, size_t data)
{
    size_t n = sp_weights_count(weights), *borders = sp_alloc(n, sizeof *borders);
    if (!borders) stop("memory");
    for (size_t i = 0; i < n; i++) {
        const sp_tensor *tensor = sp_weights_at(weights, i);
        borders[i] = (size_t)((const char *)tensor->data - t->bytes);
    }
    sp_weights_close(weights);
    for (size_t i = 0; i < n; i++)
        for (size_t near = borders[i] - 1; near <= borders[i] + 1; near++)
            if (near > data) cut(t, near);
    sp_free(borders);
}

static void append_byte(const target *t)
{
    put(t, t->size, "", 1);
    load(t->name, "byte appended", t->size, 0);
    if (ftruncate(t->fd, (off_t)t->size) != 0) stop("restoring");
}

static void damage_weights(void)
{
    target t;
    open_target(&t, "model.safetensors");
    size_t header = 8;
    for (size_t i = 0; i < 4; i++) header += (size_t)(uint8_t)t.bytes[i] << (8 * i);
    sp_weights *weights;
    if (sp_weights_parse(t.name, t.bytes, t.size, &weights, NULL) != SP_OK)
        stop("parsing the undamaged file");
    for (size_t size = 0; size <= header + 64; size++) cut(&t, size);
    cut_at_tensors(&t, weights, header + 64);
    cut(&t, t.size - 1);
    append_byte(&t);
    replace_bytes(&t, 0, header, 1);
    close_target(&t);
}

/* Where a name stands in the file; its end when absent. */
static size_t find_name(const target *t, const char *name)
{
    const char *found = memmem(t->bytes, t->size, name, strlen(name));
    return found ? (size_t)(found - t->bytes) : t->size;
}

static void damage_gguf(void)
{
    target t;
    sp_gguf *gguf;
    sp_weights *weights;
    open_target(&t, "");
    if (sp_gguf_parse("file", t.bytes, t.size, &gguf, NULL) != SP_OK ||
        sp_weights_from_gguf(gguf, NULL, &weights, NULL) != SP_OK)
        stop("parsing the undamaged file");
    size_t data = t.size;
    for (size_t i = 0; i < sp_weights_count(weights); i++) {
        size_t begin = (size_t)((const char *)sp_weights_at(weights, i)->data - t.bytes);
        if (begin < data) data = begin;
    }
    size_t texts = find_name(&t, "tokenizer.ggml.tokens") + 48,
           ids = find_name(&t, "tokenizer.ggml.bos_token_id");
    if (ids < texts || data < ids) stop("finding the tokens");
    for (size_t size = 0; size <= data + 64; size++) cut(&t, size);
    cut_at_tensors(&t, weights, data + 64);
    cut(&t, t.size - 1);
    append_byte(&t);
    replace_bytes(&t, 0, texts, 1);
    replace_bytes(&t, texts, ids, 7);
    replace_bytes(&t, ids, data, 1);
    sp_gguf_close(gguf);
    close_target(&t);
}

static void damage_text(const char *name, size_t step)
{
    target t;
    open_target(&t, name);
    for (size_t size = 0; size < t.size; size += 5 * step) cut(&t, size);
    replace_bytes(&t, 0, t.size, step);
    close_target(&t);
}

int main(int argc, char **argv)
{
    sp_device_options options = {.n_threads = 1};
    if (argc != 2 || sp_device_open("cpu", &options, &device, NULL) != SP_OK) return 2;
    sp_log_set_level(SP_LOG_ERROR);
    folder = argv[1];
    if (sp_gguf_is_file(folder)) {
        damage_gguf();
    } else {
        damage_weights();
        damage_text("config.json", 1);
        damage_text("tokenizer.json", 7);
    }
    load("none", "undamaged", 0, 0);
    sp_device_close(device);
    struct rusage used;
    if (getrusage(RUSAGE_SELF, &used) != 0) return 2;
    printf("%zu loads: %zu refused, %zu served, %zu wrong, slowest %.3f s, %ld KiB at most\n", n_loads,
           n_refused, n_served, n_wrong, slowest, used.ru_maxrss);
    if (used.ru_maxrss >= 1L << 20) return 1;
    return n_wrong || n_served == 0 ? 1 : 0;
}
