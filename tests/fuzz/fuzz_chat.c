/* Fuzz target: a model's chat template and a chat, from bytes to ids. Input: TEMPLATE NUL REST, where REST is
 * the body of a request if it begins with "{", else messages, each a byte for the role and a text up to a
 * NUL.
 *
 * The template is opened as it is and with every family by name. What is promised, whatever the bytes:
 * people's parts lie in the text in order and hold what they wrote (trimmed, where the family trims); their
 * text makes no special token, so that there are as many as in the same chat with every text "a"; ids are
 * below the vocabulary; every refusal has a reason; a request that is accepted obeys the published ranges.
 * Corpus: tests/support/make_model_corpus.py. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/chat_request.h"
#include "tests/support/byte_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MESSAGES 12
static const char *const families[] = {NULL,     "chatml", "llama2",  "llama3",
                                       "zephyr", "phi3",   "mistral", "plain"};
#define FAMILIES (sizeof families / sizeof *families)
static const char *const specials[] = {"<s>",
                                       "</s>",
                                       "<|im_start|>",
                                       "<|im_end|>",
                                       "<|user|>",
                                       "<|assistant|>",
                                       "<|start_header_id|>",
                                       "<|end_header_id|>",
                                       "<|eot_id|>",
                                       "[INST]",
                                       "[/INST]",
                                       "<|system|>"};
#define FIRST_SPECIAL 300
#define VOCAB ((int32_t)(FIRST_SPECIAL + sizeof specials / sizeof *specials))

static void require(bool condition, const char *what)
{
    if (condition) return;
    fprintf(stderr, "fuzz_chat: %s\n", what);
    abort();
}

static sp_tokenizer *make_tokenizer(void)
{
    static const char config[] = "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}";
    static const char *const merges[] = {"u s", "\xc4\xa0 t", "\xc4\x8a \xc4\x8a", "< |", "| >", NULL};
    sp_tokenizer *tokenizer = NULL;
    sp_buffer text, added;
    sp_buffer_init(&text, 1 << 20);
    sp_buffer_init(&added, 1 << 16);
    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++)
        sp_buffer_format(&added, ",{\"id\":%zu,\"content\":\"%s\",\"special\":true}", FIRST_SPECIAL + i,
                         specials[i]);
    sp_buffer_append(&added, "", 1);
    test_byte_tokenizer(&text, merges, NULL, added.data, "");
    sp_status status =
        sp_tokenizer_parse("t", text.data, text.size, config, sizeof config - 1, &tokenizer, NULL);
    require(status == SP_OK && !text.failed, "the tokenizer of the test");
    sp_buffer_fini(&text);
    sp_buffer_fini(&added);
    return tokenizer;
}

/* --- templates and messages --- */
static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The part is the message's text, or that without blanks around it. */
static void check_part(const char *part, size_t size, const sp_chat_message *message)
{
    const char *begin = message->text, *end = begin + message->size;
    bool whole = size == message->size && (size == 0 || memcmp(part, begin, size) == 0);
    while (begin < end && is_blank(*begin)) begin++;
    while (end > begin && is_blank(end[-1])) end--;
    bool trimmed = size == (size_t)(end - begin) && (size == 0 || memcmp(part, begin, size) == 0);
    require(whole || trimmed, "a part is not what was written");
}

static size_t count_specials(const sp_chat *chat, const sp_chat_message *messages, size_t n,
                             sp_status *status)
{
    sp_tokens tokens = {0};
    sp_error error = {0};
    size_t count = 0;
    *status = sp_chat_encode(chat, messages, n, &tokens, &error);
    require(!*status || (error.status == *status && error.message[0]), "refused without a reason");
    for (size_t i = 0; !*status && i < tokens.count; i++) {
        int32_t id = tokens.data[i].id;
        require(id >= 0 && id < VOCAB, "id");
        count += id == TEST_END_ID || id >= FIRST_SPECIAL;
    }
    sp_tokens_fini(&tokens);
    return count;
}

static void check_messages(const sp_chat *chat, const sp_chat_message *messages, size_t n)
{
    sp_chat_message plain[MESSAGES];
    sp_span spans[MESSAGES] = {0};
    sp_error error = {0};
    sp_buffer text;
    size_t end = 0, at = 0;
    /* the system prompt stands before the last message's text */
    bool late = chat->family == SP_CHAT_MISTRAL && chat->system_last && messages[0].role == SP_CHAT_SYSTEM;
    sp_buffer_init(&text, 1 << 22);
    sp_status status = sp_chat_render(chat, messages, n, &text, spans, &error);
    require(!status || (status == SP_INVALID && error.message[0]), "an odd status");
    for (size_t i = 0; !status && i < n; i++) {
        require(spans[i].begin >= end && spans[i].end >= spans[i].begin && spans[i].end <= text.size,
                "spans");
        end = spans[i].end;
        size_t own = i;
        if (late && i + 2 < n) own = i + 1;
        if (late && i + 2 == n) own = 0;
        check_part(text.data + spans[i].begin, spans[i].end - spans[i].begin, &messages[own]);
    }
    sp_buffer_fini(&text);
    bool valid = true;
    for (size_t i = 0; i < n; i++) {
        plain[i] = (sp_chat_message){messages[i].role, "a", 1};
        valid = valid && sp_utf8_valid(messages[i].text, messages[i].size);
    }
    sp_status encoded, simple;
    size_t count = count_specials(chat, messages, n, &encoded);
    at = count_specials(chat, plain, n, &simple);
    require(valid || encoded == SP_INVALID, "ill-formed text");
    require(!valid || encoded == simple, "a text decides whether a chat is refused");
    require(encoded || count == at, "people wrote a special token");
}

static size_t split_messages(const char *text, size_t size, sp_chat_message *messages)
{
    size_t n = 0;
    for (size_t at = 0; at < size && n < MESSAGES; n++) {
        const char *begin = text + at + 1;
        size_t left = size - at - 1;
        const char *end = left ? memchr(begin, 0, left) : NULL;
        size_t length = end ? (size_t)(end - begin) : left;
        messages[n] = (sp_chat_message){(sp_chat_role)((unsigned char)text[at] % 3), begin, length};
        at += 1 + length + 1;
    }
    return n;
}

/* --- bodies --- */
static void check_body(const sp_chat *chat, const char *data, size_t size)
{
    static const sp_options options = {.max_output_tokens = 40};
    const char *const ids[] = {"m"};
    const sp_engine_info info = {.model_name = "m",
                                 .model_ids = ids,
                                 .context = 2048,
                                 .hparams = {.vocab = (uint32_t)VOCAB},
                                 .tokenizer = chat->tokenizer,
                                 .chat = chat};
    char *text = malloc(size + 1);
    sp_asked asked;
    sp_error error = {0};
    sp_arena arena;
    sp_body body;
    if (!text) return;
    memcpy(text, data, size);
    text[size] = 0;
    sp_arena_init(&arena, 64 * size + 65536);
    sp_status status = sp_body_open(&body, text, size, &arena, &error);
    if (!status) {
        status = sp_chat_read(&body, &info, &options, &asked, &error);
        sp_body_close(&body);
    }
    require(!status || (error.status == status && error.message[0]), "refused without a reason");
    require(!status || status == SP_INVALID || status == SP_NOT_FOUND, "an odd status");
    if (!status) {
        const sp_request *r = &asked.request;
        require(asked.n_prompts == 1 && asked.n >= 1 && asked.n <= 16, "choices");
        for (size_t i = 0; i < asked.prompts[0].n_ids; i++)
            require(asked.prompts[0].ids[i] >= 0 && asked.prompts[0].ids[i] < VOCAB, "prompt id");
        require(r->max_tokens <= info.context && r->min_tokens <= r->max_tokens, "lengths");
        require(r->logprobs <= SP_MAX_LOGPROBS && (asked.logprobs || !r->logprobs), "logprobs");
        require(r->n_stops <= SP_MAX_STOPS && r->n_stop_ids <= SP_MAX_STOP_IDS, "stops");
        for (size_t i = 0; i < r->n_stop_ids; i++)
            require(r->stop_ids[i] >= 0 && r->stop_ids[i] < VOCAB, "stop id");
    }
    sp_arena_fini(&arena);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static sp_tokenizer *tokenizer;
    static sp_chat_message messages[MESSAGES];
    if (!tokenizer) tokenizer = make_tokenizer();
    sp_log_set_level(SP_LOG_ERROR);
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    size_t template_size = end ? (size_t)(end - data) : size;
    char *template = malloc(template_size + 1);
    if (!template) return 0;
    if (template_size) memcpy(template, data, template_size);
    template[template_size] = 0;
    const char *rest = end ? (const char *)end + 1 : "";
    size_t rest_size = end ? size - template_size - 1 : 0;
    size_t n = split_messages(rest, rest_size, messages);
    for (size_t i = 0; i < FAMILIES; i++) {
        sp_chat chat;
        sp_error error;
        sp_status status = sp_chat_open(template, families[i], tokenizer, &chat, &error);
        require(status == SP_OK, "a template is no error");
        require(memchr(chat.system, 0, sizeof chat.system) &&
                    memchr(chat.preamble, 0, sizeof chat.preamble) && chat.end < VOCAB,
                "an open text");
        if (rest_size && rest[0] == '{')
            check_body(&chat, rest, rest_size);
        else if (n)
            check_messages(&chat, messages, n);
    }
    free(template);
    return 0;
}
