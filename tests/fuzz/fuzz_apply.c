/* `sparsed attend` on bytes: a safetensors file of q, k, v with any metadata.
 *
 * Oracle: nothing crashes or reads outside; a failure has a message; an answer is a safetensors file that can
 * be read back with `out` in it. Jobs are stopped after some steps, answers bounded. */
#include <stdint.h>
#include <stdlib.h>

#include "engine/attention/apply.h"
#include "models/weights.h"

static bool stop_late(void *context)
{
    return --*(int *)context < 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static sp_device *device;
    const sp_device_options device_options = {.n_threads = 1};
    if (!device && sp_device_open("cpu", &device_options, &device, NULL) != SP_OK) abort();
    int steps = 12;
    const sp_apply_options options = {
        .metrics = size % 2, .max_bytes = 1 << 20, .stop = stop_late, .stop_context = &steps};
    sp_buffer out;
    sp_error error = {0};
    sp_buffer_init(&out, (size_t)1 << 21);
    sp_status status = sp_apply(device, "body", data, size, &options, &out, &error);
    if (status != SP_OK) {
        if (!error.message[0] || status == SP_INTERNAL) abort();
    } else {
        sp_weights *answer;
        if (sp_weights_parse("answer", out.data, out.size, &answer, &error) != SP_OK) abort();
        if (!sp_weights_find(answer, "out")) abort();
        sp_weights_close(answer);
    }
    sp_buffer_fini(&out);
    return 0;
}
