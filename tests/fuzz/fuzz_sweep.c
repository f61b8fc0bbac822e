/* Bytes as sweep.json. What is accepted is written as it was read, and its fronts are monotone. */
#include <assert.h>
#include <string.h>

#include "engine/evaluate/sweep.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sp_sweep sweep, again;
    sp_error error = {0};
    sp_sweep_init(&sweep);
    sp_status status = sp_sweep_parse("fuzz.json", (const char *)data, size, &sweep, &error);
    assert(status == SP_OK || (status == SP_DATA && strstr(error.message, "fuzz.json")));
    if (status == SP_OK) {
        sp_buffer text, page;
        sp_buffer_init(&text, (size_t)16 << 20);
        sp_buffer_init(&page, (size_t)16 << 20);
        sp_sweep_init(&again);
        sp_sweep_write_json(&sweep, &text);
        assert(!text.failed);
        assert(sp_sweep_parse("again", text.data, text.size, &again, &error) == SP_OK);
        assert(again.n_points == sweep.n_points);
        for (size_t i = 0; i < sweep.n_points; i++)
            assert(again.points[i].recall_front == sweep.points[i].recall_front &&
                   again.points[i].length == sweep.points[i].length);
        sp_sweep_write_html(&sweep, &page);
        sp_sweep_write_csv(&sweep, &page);
        assert(!page.failed);
        sp_buffer_fini(&text);
        sp_buffer_fini(&page);
        sp_sweep_fini(&again);
    }
    sp_sweep_fini(&sweep);
    return 0;
}
