/* Bytes as a PyTorch save, and as the pickle inside of one. Whatever is accepted must have tensors that can
 * be read or are refused by name, and may be imported as projections. Corpus:
 * tests/support/make_import_corpus.py. */
#include <assert.h>
#include <string.h>

#include "engine/sparsefinder/import_fit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_VALUES 4096u
#define MAX_VISITS 10000u

/* Walks values breadth first without following loops for ever. */
static void walk(sp_torch_file *file, const sp_value *root)
{
    const sp_value *queue[256];
    size_t begin = 0, end = 0, visits = 0;
    queue[end++ % 256] = root;
    while (begin < end && visits++ < MAX_VISITS) {
        const sp_value *value = queue[begin++ % 256];
        bool holds =
            value->type == SP_VALUE_LIST || value->type == SP_VALUE_TUPLE || value->type == SP_VALUE_DICT;
        for (size_t i = 0; holds && i < value->n && end - begin < 256; i++)
            queue[end++ % 256] = value->items[i];
        if (value->type == SP_VALUE_TEXT) assert(sp_utf8_valid(value->text, value->size));
        if (value->type != SP_VALUE_TENSOR || !file) continue;
        float out[MAX_VALUES];
        sp_error error = {0};
        size_t n;
        if (!sp_torch_count(value->tensor, &n) || n > MAX_VALUES) continue;
        sp_status status = sp_torch_floats(file, value->tensor, "a tensor", out, &error);
        assert(status == SP_OK || (status == SP_DATA && strstr(error.message, "fuzz.pt")));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sp_torch_file file;
    sp_error error = {0};
    sp_status status = sp_torch_parse("fuzz.pt", data, size, &file, &error);
    if (status == SP_OK) {
        sp_fit *fit = NULL;
        walk(&file, file.root);
        status = sp_fit_import(&file, &file, &(sp_import_options){.alpha = 1.5}, &fit, &error);
        if (status != SP_OK)
            status = sp_fit_import(&file, NULL, &(sp_import_options){.alpha = 1.5}, &fit, &error);
        if (status == SP_OK) sp_fit_close(fit);
    }
    assert(status == SP_OK || status == SP_UNSUPPORTED ||
           (status == SP_DATA && strstr(error.message, "fuzz.pt")));
    sp_torch_close(&file);

    sp_arena arena;
    sp_value *value = NULL;
    sp_arena_init(&arena, SP_PICKLE_ARENA_BYTES);
    status = sp_pickle_read("fuzz.pkl", data, size, &arena, &value, &error);
    assert(status == SP_OK || (status == SP_DATA && strstr(error.message, "fuzz.pkl")));
    if (status == SP_OK) walk(NULL, value);
    sp_arena_fini(&arena);
    return 0;
}
