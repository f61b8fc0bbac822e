/* See byte_tokenizer.h. */
#include "tests/support/byte_tokenizer.h"

#include <stdio.h>
#include <string.h>

/* "x": with the spelling of a byte as GPT-2 has it: printable ones stand for themselves, the others follow
 * from U+0100. */
static void write_byte(sp_buffer *out, unsigned byte)
{
    unsigned code = 256;
    bool printable = false;
    for (unsigned b = 0; b <= byte; b++) {
        printable = (b > 32 && b < 127) || (b > 160 && b != 173);
        code += !printable && b < byte;
    }
    if (printable) code = byte;
    if (code == '"' || code == '\\')
        sp_buffer_format(out, "\"\\%c\"", (int)code);
    else
        sp_buffer_format(out, "\"\\u%04x\"", code);
    sp_buffer_format(out, ":%u,", byte);
}

void test_byte_tokenizer(sp_buffer *out, const char *const *merges, const char *pre_tokenizer,
                         const char *added, const char *extra)
{
    sp_buffer_format(
        out,
        "{\"added_tokens\":[{\"id\":%d,\"content\":\"<|end|>\",\"special\":true}%s],\"pre_tokenizer\":%s,"
        "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\"%s,\"vocab\":{",
        TEST_END_ID, added, pre_tokenizer ? pre_tokenizer : TEST_BYTE_LEVEL("true"), extra);
    for (unsigned byte = 0; byte < 256; byte++) write_byte(out, byte);
    for (size_t i = 0; merges[i]; i++) {
        const char *space = strchr(merges[i], ' ');
        sp_buffer_format(out, "\"%.*s%s\":%zu,", (int)(space - merges[i]), merges[i], space + 1,
                         TEST_END_ID + 1 + i);
    }
    sp_buffer_format(out, "\"<|end|>\":%d},\"merges\":[", TEST_END_ID);
    for (size_t i = 0; merges[i]; i++) sp_buffer_format(out, "%s\"%s\"", i ? "," : "", merges[i]);
    sp_buffer_text(out, "]}}");
}
