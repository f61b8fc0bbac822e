/* Fuzz target: the JSON validator, reader and writer against each other.
 *
 * What the validator accepts, the reader walks to the end; printed again through the writer it is accepted
 * again, and printing that once more changes nothing. What it refuses has a reason. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition, const char *what)
{
    if (condition) return;
    fprintf(stderr, "fuzz_json: %s\n", what);
    abort();
}

/* Walks one text and prints it again; every event type is used. */
static void print_again(const char *text, size_t size, sp_buffer *out, sp_arena *arena)
{
    sp_json reader;
    sp_json_writer writer;
    sp_json_init(&reader, text, size);
    sp_json_writer_init(&writer, out);
    for (size_t events = 0;; events++) {
        sp_json_type type = sp_json_next(&reader);
        size_t length;
        char *unescaped;
        int64_t integer;
        require(events <= size, "more events than bytes");
        switch (type) {
        case SP_JSON_END:
            return;
        case SP_JSON_OBJECT:
            sp_json_open(&writer, '{');
            break;
        case SP_JSON_OBJECT_END:
            sp_json_close(&writer, '}');
            break;
        case SP_JSON_ARRAY:
            sp_json_open(&writer, '[');
            break;
        case SP_JSON_ARRAY_END:
            sp_json_close(&writer, ']');
            break;
        case SP_JSON_KEY:
        case SP_JSON_STRING:
            unescaped = sp_json_text(&reader, arena, &length);
            require(unescaped != NULL, "string does not fit");
            require(sp_utf8_valid(unescaped, length), "ill-formed text from a valid string");
            if (strlen(unescaped) == length)
                require(sp_json_is(&reader, unescaped), "a string is not itself");
            if (type == SP_JSON_STRING)
                sp_json_string(&writer, unescaped, length);
            else if (strlen(unescaped) == length)
                sp_json_key(&writer, unescaped);
            else
                sp_json_key(&writer, "key with a NUL"); /* only one of these: see below */
            break;
        case SP_JSON_NUMBER:
            if (sp_json_int64(&reader, &integer))
                require((double)integer == sp_json_double(&reader), "integer and double differ");
            sp_json_number(&writer, sp_json_double(&reader));
            break;
        case SP_JSON_TRUE:
            sp_json_bool(&writer, true);
            break;
        case SP_JSON_FALSE:
            sp_json_bool(&writer, false);
            break;
        case SP_JSON_NULL:
            sp_json_null(&writer);
            break;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    sp_error error = {0};
    if (sp_json_validate(text, size, &error) != SP_OK) {
        require(error.status == SP_DATA && error.message[0], "refused without a reason");
        return 0;
    }
    sp_buffer once, twice;
    sp_arena arena;
    sp_buffer_init(&once, 8 * size + 64);
    sp_buffer_init(&twice, 8 * size + 64);
    sp_arena_init(&arena, 64 * size + 1024);
    print_again(text, size, &once, &arena);
    require(!once.failed, "printed text is far larger than its source");
    /* The writer's keys cannot hold a NUL: texts with two such keys may not be printable. */
    bool printable = memmem(text, size, "\\u0000", 6) == NULL;
    if (sp_json_validate(once.data, once.size, &error) == SP_OK) {
        print_again(once.data, once.size, &twice, &arena);
        require(once.size == twice.size && memcmp(once.data, twice.data, once.size) == 0,
                "printing is not stable");
    } else {
        require(!printable, "the printed text is refused");
    }
    sp_arena_fini(&arena);
    sp_buffer_fini(&once);
    sp_buffer_fini(&twice);
    return 0;
}
