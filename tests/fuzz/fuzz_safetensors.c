/* Bytes as a safetensors file. Whatever is accepted must be readable to the last byte, aligned, findable by
 * its name, and the data sections must tile the file. Corpus: tests/support/make_model_corpus.py. */
#include <assert.h>
#include <string.h>

#include "models/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sp_weights *weights;
    sp_error error = {0};
    sp_status status = sp_weights_parse("fuzz.safetensors", data, size, &weights, &error);
    if (status != SP_OK) {
        assert(status == SP_DATA && strstr(error.message, "fuzz.safetensors"));
        return 0;
    }
    size_t total = 0;
    unsigned sum = 0;
    for (size_t i = 0; i < sp_weights_count(weights); i++) {
        const sp_tensor *tensor = sp_weights_at(weights, i);
        const char *name = sp_weights_name(weights, i);
        assert(sp_weights_find(weights, name) == tensor);
        assert(tensor->bytes == sp_tensor_count(tensor) * sp_dtype_size(tensor->dtype));
        assert(tensor->bytes == 0 || (uintptr_t)tensor->data % sp_dtype_size(tensor->dtype) == 0);
        for (size_t k = 0; k < tensor->bytes; k++) sum += ((const uint8_t *)tensor->data)[k];
        total += tensor->bytes;
        sp_tensor taken;
        status = sp_weights_take(weights, name, tensor->rank, tensor->shape, &taken, &error);
        assert(status == SP_OK || status == SP_DATA);
    }
    assert(total <= size - 8 && sp_weights_metadata(weights, "\xff") == NULL);
    sp_weights_close(weights);
    return sum == 1 && total == 0; /* the bytes are read for good */
}
