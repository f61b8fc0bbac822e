/* A copy of a model folder of tests/golden/models in a temporary folder, with changes made to its texts or to
 * its weights, and what opening it must say. Everything is static: one test program, one folder. */
#ifndef SPARSED_TESTS_SUPPORT_MODEL_FOLDER_H
#define SPARSED_TESTS_SUPPORT_MODEL_FOLDER_H

#include "tests/support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "models/model.h"

enum { MODEL_ENTRIES = 64 };

static sp_device *device;                      /* the program's to open */
static char folder[64];                        /* the copy */
static const char *source = "tiny-llama-tied"; /* of what */

static inline const char *inside(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static inline void write_file(const char *name, const void *bytes, size_t size)
{
    FILE *file = fopen(inside(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

static inline void copy_file(const char *name)
{
    char path[512], *bytes;
    size_t size;
    sp_error error = {0};
    snprintf(path, sizeof path, SPARSED_ROOT "/tests/golden/models/%s/%s", source, name);
    assert_ok(sp_read_file(path, (size_t)1 << 24, &bytes, &size, &error), error);
    write_file(name, bytes, size);
    sp_free(bytes);
}

static inline void copy_all(void)
{
    copy_file("config.json");
    copy_file("tokenizer.json");
    copy_file("tokenizer_config.json");
    copy_file("model.safetensors");
}

static inline int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/sparsed-test-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    copy_all();
    return 0;
}

static inline int remove_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
                                        "model.safetensors"};
    for (size_t i = 0; i < COUNT_OF(names); i++) unlink(inside(names[i]));
    return rmdir(folder);
}

/* config.json with a key set to a JSON value (NULL: taken out). */
static inline void set_key(const char *key, const char *value)
{
    char path[512], *text, out[4096];
    size_t size;
    sp_error error = {0};
    snprintf(path, sizeof path, SPARSED_ROOT "/tests/golden/models/%s/config.json", source);
    assert_ok(sp_read_file(path, 4096, &text, &size, &error), error);
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    char *place = strstr(text, quoted);
    if (place) memcpy(place, "\"_", 2); /* renamed: unknown keys are accepted */
    char *brace = strchr(text, '{');
    if (value)
        snprintf(out, sizeof out, "{\"%s\":%s,%s", key, value, brace + 1);
    else
        snprintf(out, sizeof out, "%s", text);
    write_file("config.json", out, strlen(out));
    sp_free(text);
}

static inline sp_status open_model(sp_model **model, sp_error *error)
{
    memset(error, 0, sizeof *error);
    return sp_model_open(folder, device, NULL, model, error);
}

static inline void check_refused(const char *param, const char *says)
{
    sp_model *model;
    sp_error error;
    sp_status status = open_model(&model, &error);
    if (status != SP_DATA || model || strcmp(error.param, param) != 0 || !strstr(error.message, says))
        fail_msg("[%s] wanted: %s [%s] %s", param, sp_status_name(status), error.param, error.message);
}

typedef struct edited {
    sp_weights *weights;
    sp_tensor_entry entries[MODEL_ENTRIES];
    size_t n;
} edited;

static inline void begin_edit(edited *e)
{
    sp_error error = {0};
    char path[512];
    snprintf(path, sizeof path, SPARSED_ROOT "/tests/golden/models/%s", source);
    assert_ok(sp_weights_open(path, NULL, &e->weights, &error), error);
    for (e->n = 0; e->n < sp_weights_count(e->weights); e->n++) {
        assert_true(e->n + 2 < MODEL_ENTRIES);
        e->entries[e->n].name = sp_weights_name(e->weights, e->n);
        e->entries[e->n].tensor = *sp_weights_at(e->weights, e->n);
    }
}

static inline void end_edit(edited *e)
{
    sp_buffer out;
    sp_error error = {0};
    sp_buffer_init(&out, (size_t)1 << 24);
    assert_ok(sp_safetensors_write(e->entries, e->n, NULL, 0, &out, &error), error);
    write_file("model.safetensors", out.data, out.size);
    sp_buffer_fini(&out);
    sp_weights_close(e->weights);
}

#endif
