/* A plain main for fuzz targets where libFuzzer is not at hand: replays a corpus, then seeded mutations of
 * it.
 *
 *     fuzz_json [FOLDER|FILE ...]     folders are read one level deep; what is absent is passed over
 *
 * Each input runs from memory of exactly its size, so the address sanitizer sees an overrun by one byte. The
 * mutations are the same at every run (xorshift64*, fixed seed); FUZZ_RUNS changes their number. A crash
 * prints nothing itself: the input that ran last is kept in fuzz-last.bin when FUZZ_KEEP is set. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_LIMIT = 1 << 20, MUTATIONS = 2000 };
#define MAX_SECONDS 5.0

struct input {
    uint8_t *data;
    size_t size;
};

static struct input *corpus;
static size_t n_inputs;
static uint64_t random_state = 0x5eed5eed5eed5eedu;

static size_t random_below(size_t n)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return n == 0 ? 0 : (size_t)((random_state * 0x2545f4914f6cdd1du) >> 16) % n;
}

static void *checked(void *memory)
{
    if (memory) return memory;
    fputs("fuzz_main: out of memory\n", stderr);
    exit(2);
}

static void add_input(const uint8_t *data, size_t size)
{
    corpus = checked(realloc(corpus, (n_inputs + 1) * sizeof *corpus));
    uint8_t *copy = checked(malloc(size + 1));
    if (size > 0) memcpy(copy, data, size);
    corpus[n_inputs++] = (struct input){copy, size};
}

static void add_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file) return;
    uint8_t *data = checked(malloc(INPUT_LIMIT));
    add_input(data, fread(data, 1, INPUT_LIMIT, file));
    free(data);
    fclose(file);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name); /* not the locale's order: the same everywhere */
}

static void add_path(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0) return;
    if (!S_ISDIR(info.st_mode)) {
        add_file(path);
        return;
    }
    struct dirent **names = NULL;
    int n = scandir(path, &names, NULL, by_name);
    for (int i = 0; i < n; i++) {
        char child[4096];
        int length = snprintf(child, sizeof child, "%s/%s", path, names[i]->d_name);
        if (length > 0 && (size_t)length < sizeof child && stat(child, &info) == 0 && S_ISREG(info.st_mode))
            add_file(child);
        free(names[i]);
    }
    free(names);
}

static void run_input(const uint8_t *data, size_t size)
{
    uint8_t *exact = size > 0 ? checked(malloc(size)) : NULL;
    if (size > 0) memcpy(exact, data, size);
    if (getenv("FUZZ_KEEP")) {
        FILE *file = fopen("fuzz-last.bin", "wb");
        if (file) {
            if (size > 0) fwrite(exact, 1, size, file);
            fclose(file);
        }
    }
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

/* Puts n bytes of source, from a random place, into data at a random place: over what is there, or in
 * between. */
static size_t splice(uint8_t *data, size_t size, size_t capacity, const struct input *source, int insert)
{
    if (source->size == 0) return size;
    size_t n = 1 + random_below(source->size < 64 ? source->size : 64);
    size_t from = random_below(source->size - n + 1 > 0 ? source->size - n + 1 : 1),
           at = random_below(size + 1);
    if (n > source->size - from) n = source->size - from;
    if (insert) {
        if (n > capacity - size) n = capacity - size;
        memmove(data + at + n, data + at, size - at);
        size += n;
    } else if (n > size - at) {
        n = size - at;
    }
    memcpy(data + at, source->data + from, n);
    return size;
}

static size_t mutate(uint8_t *data, size_t size, size_t capacity)
{
    static const uint8_t magic[] = {0,   1,   0x7f, 0x80, 0xff, '"', '\\', '{',
                                    '[', ']', '}',  ',',  ':',  '-', '0',  '9'};
    size_t at = random_below(size);
    switch (random_below(7)) {
    case 0:
        if (size > 0) data[at] ^= (uint8_t)(1u << random_below(8));
        break;
    case 1:
        if (size > 0) data[at] = (uint8_t)random_below(256);
        break;
    case 2:
        if (size > 0) data[at] = magic[random_below(sizeof magic)];
        break;
    case 3:
        size = random_below(size + 1);
        break;
    case 4:
        if (size > 0) { /* drop a few bytes */
            size_t n = 1 + random_below(size - at < 16 ? size - at : 16);
            if (n > size - at) n = size - at;
            memmove(data + at, data + at + n, size - at - n);
            size -= n;
        }
        break;
    default:
        size = splice(data, size, capacity, &corpus[random_below(n_inputs)], (int)random_below(2));
        break;
    }
    return size;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) add_path(argv[i]);
    size_t n_files = n_inputs;
    add_input(NULL, 0); /* always among the inputs, and enough to start from */
    for (size_t i = 0; i < n_inputs; i++) run_input(corpus[i].data, corpus[i].size);

    const char *wanted = getenv("FUZZ_RUNS");
    long runs = wanted ? strtol(wanted, NULL, 10) : MUTATIONS, done = 0;
    double until = seconds() + (wanted ? 3600.0 : MAX_SECONDS);
    uint8_t *data = checked(malloc(2 * INPUT_LIMIT));
    for (; done < runs && seconds() < until; done++) {
        const struct input *start = &corpus[random_below(n_inputs)];
        size_t size = start->size;
        if (size > 0) memcpy(data, start->data, size);
        for (size_t n = 1 + random_below(4); n > 0; n--) size = mutate(data, size, 2 * INPUT_LIMIT);
        run_input(data, size);
    }
    printf("%zu corpus files, %ld mutations\n", n_files, done);
    free(data);
    for (size_t i = 0; i < n_inputs; i++) free(corpus[i].data);
    free(corpus);
    return 0;
}
