/* See chat_template.h. The text of each family is that of the templates its models were published with. */
#include "models/chat_template.h"

#include <string.h>

#define MAX_CHAT_BYTES ((size_t)1 << 30)

static const char *const names[] = {"none",   "chatml", "llama2",  "llama3",
                                    "zephyr", "phi3",   "mistral", "plain"};

const char *sp_chat_name(sp_chat_family family)
{
    return names[family];
}

/* --- which family --- */

static bool has(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

static sp_chat_family recognise(const char *t)
{
    if (has(t, "<|im_start|>") && has(t, "<|im_end|>") && !has(t, "<|im_sep|>")) return SP_CHAT_CHATML;
    if (has(t, "<|start_header_id|>") && has(t, "<|eot_id|>")) return SP_CHAT_LLAMA3;
    if (has(t, "[INST]") && has(t, "[/INST]")) return has(t, "<<SYS>>") ? SP_CHAT_LLAMA2 : SP_CHAT_MISTRAL;
    if (!has(t, "<|user|>") || !has(t, "<|assistant|>") || has(t, "[gMASK]")) return SP_CHAT_NONE;
    if (has(t, "<|end|>")) return SP_CHAT_PHI3;
    return has(t, "eos_token") ? SP_CHAT_ZEPHYR : SP_CHAT_NONE;
}

/* The text between begin and end of a template's string, where nothing of Jinja stands in it; "\n" may be
 * spelled. */
static bool copy_literal(const char *begin, const char *end, char *out, size_t capacity)
{
    size_t n = 0;
    for (const char *c = begin; c < end; c++) {
        bool newline = c[0] == '\\' && c[1] == 'n';
        if (n + 1 >= capacity || *c == '{' || *c == '}' || *c == '"') return false;
        if (*c == '\'' && (c == begin || c + 1 == end || c[1] == ' ' || c[-1] == ' ')) return false;
        out[n++] = newline ? '\n' : *c;
        c += newline;
    }
    out[n] = 0;
    return n > 0;
}

/* A default system prompt stands between these in the template's own text. */
static void find_system(sp_chat *chat, const char *text)
{
    static const char mark[] = "<|im_start|>system", close[] = "<|im_end|>";
    for (const char *at = text; chat->family == SP_CHAT_CHATML && (at = strstr(at, mark));) {
        at += sizeof mark - 1;
        const char *begin = at, *end = strstr(at, close);
        if (!end) return;
        if (begin[0] == '\n')
            begin++;
        else if (begin[0] == '\\' && begin[1] == 'n')
            begin += 2;
        else
            continue;
        if (copy_literal(begin, end, chat->system, sizeof chat->system)) return;
        chat->system[0] = 0;
    }
}

/* Llama 3.1 and later tell the model its dates; without a clock in the template they name this day. */
static void find_preamble(sp_chat *chat, const char *text)
{
    static const char dates[] = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
    if (chat->family == SP_CHAT_LLAMA3 && has(text, "Cutting Knowledge Date: December 2023"))
        memcpy(chat->preamble, dates, sizeof dates);
}

static int32_t find_special(const sp_tokenizer *tokenizer, const char *text)
{
    sp_tokens tokens = {0};
    int32_t id = -1;
    if (sp_tokenizer_encode_template(tokenizer, text, strlen(text), NULL, 0, &tokens, NULL) == SP_OK &&
        tokens.count == 1 && sp_tokenizer_is_special(tokenizer, tokens.data[0].id))
        id = tokens.data[0].id;
    sp_tokens_fini(&tokens);
    return id;
}

static const char *end_of(sp_chat_family family)
{
    switch (family) {
    case SP_CHAT_CHATML:
        return "<|im_end|>";
    case SP_CHAT_LLAMA3:
        return "<|eot_id|>";
    case SP_CHAT_PHI3:
        return "<|end|>";
    default:
        return NULL;
    }
}

sp_status sp_chat_open(const char *text, const char *name, const sp_tokenizer *tokenizer, sp_chat *out,
                       sp_error *error)
{
    sp_chat_family family = text ? recognise(text) : SP_CHAT_NONE;
    bool named = name != NULL;
    *out = (sp_chat){.tokenizer = tokenizer, .has_template = text != NULL, .end = -1};
    for (size_t i = 1; named && i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0) out->family = (sp_chat_family)i;
    if (named && out->family == SP_CHAT_NONE)
        return sp_fail_param(error, SP_USAGE, "chat-template",
                             "--chat-template: unknown family \"%.60s\"; there are chatml, llama2, llama3, "
                             "zephyr, phi3, mistral, plain",
                             name);
    if (!named) out->family = family;
    bool own = text && family == out->family; /* the template speaks about this family */
    bool begins = out->family == SP_CHAT_LLAMA2 || out->family == SP_CHAT_LLAMA3 ||
                  out->family == SP_CHAT_MISTRAL || sp_tokenizer_adds_bos(tokenizer);
    out->adds_bos =
        own ? has(text, "bos_token") || has(text, "<|begin_of_text|>") || has(text, "<s>") : begins;
    out->spaced_close = !own || has(text, " [/INST]");
    out->spaced_answer = own && (has(text, "' ' + message") || has(text, "\" \" + message"));
    out->system_last = own && has(text, "loop.last and system_message");
    if (own) find_system(out, text);
    if (own) find_preamble(out, text);
    if (end_of(out->family)) out->end = find_special(tokenizer, end_of(out->family));
    if (out->family == SP_CHAT_PLAIN) out->stop = "\nUser:";
    return SP_OK;
}

/* --- writing --- */

typedef struct render {
    const sp_chat *chat;
    sp_buffer *out;
    sp_span *spans;
    size_t n_spans;
} render;

/* What the template writes: texts up to NULL. */
#define WRITE(r, ...) write_parts((r), (const char *const[]){__VA_ARGS__, NULL})
static void write_parts(render *r, const char *const *parts)
{
    for (; *parts; parts++) sp_buffer_text(r->out, *parts);
}

static void write_piece(render *r, int32_t id)
{
    if (id >= 0) sp_buffer_text(r->out, sp_tokenizer_piece(r->chat->tokenizer, id));
}

static void write_bos(render *r)
{
    if (r->chat->adds_bos) write_piece(r, sp_tokenizer_bos(r->chat->tokenizer));
}

static void write_eos(render *r)
{
    write_piece(r, sp_tokenizer_eos(r->chat->tokenizer));
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* What a person wrote. */
static void write_text(render *r, const sp_chat_message *message, bool trim)
{
    size_t begin = 0, end = message->size;
    while (trim && begin < end && is_blank(message->text[begin])) begin++;
    while (trim && end > begin && is_blank(message->text[end - 1])) end--;
    size_t from = r->out->size;
    sp_buffer_append(r->out, message->text + begin, end - begin);
    r->spans[r->n_spans++] = (sp_span){from, r->out->size};
}

static const char *role_name(sp_chat_role role)
{
    return role == SP_CHAT_SYSTEM ? "system" : role == SP_CHAT_USER ? "user" : "assistant";
}

static void render_chatml(render *r, const sp_chat_message *messages, size_t n)
{
    write_bos(r);
    if (messages[0].role != SP_CHAT_SYSTEM && r->chat->system[0])
        WRITE(r, "<|im_start|>system\n", r->chat->system, "<|im_end|>\n");
    for (size_t i = 0; i < n; i++) {
        WRITE(r, "<|im_start|>", role_name(messages[i].role), "\n");
        write_text(r, &messages[i], false);
        WRITE(r, "<|im_end|>\n");
    }
    WRITE(r, "<|im_start|>assistant\n");
}

static void render_llama3(render *r, const sp_chat_message *messages, size_t n)
{
    bool preamble = r->chat->preamble[0];
    write_bos(r);
    if (preamble && messages[0].role != SP_CHAT_SYSTEM)
        WRITE(r, "<|start_header_id|>system<|end_header_id|>\n\n", r->chat->preamble, "<|eot_id|>");
    for (size_t i = 0; i < n; i++) {
        WRITE(r, "<|start_header_id|>", role_name(messages[i].role), "<|end_header_id|>\n\n");
        if (i == 0 && preamble && messages[0].role == SP_CHAT_SYSTEM) WRITE(r, r->chat->preamble);
        write_text(r, &messages[i], true);
        WRITE(r, "<|eot_id|>");
    }
    WRITE(r, "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

/* zephyr and phi3 differ in what ends a turn. */
static void render_tagged(render *r, const sp_chat_message *messages, size_t n)
{
    write_bos(r);
    for (size_t i = 0; i < n; i++) {
        WRITE(r, "<|", role_name(messages[i].role), "|>\n");
        write_text(r, &messages[i], false);
        if (r->chat->family == SP_CHAT_PHI3)
            WRITE(r, "<|end|>");
        else
            write_eos(r);
        WRITE(r, "\n");
    }
    WRITE(r, "<|assistant|>\n");
}

static void render_llama2(render *r, const sp_chat_message *messages, size_t n)
{
    size_t first = messages[0].role == SP_CHAT_SYSTEM;
    for (size_t i = first; i < n; i++) {
        if (messages[i].role == SP_CHAT_ASSISTANT) {
            WRITE(r, " ");
            write_text(r, &messages[i], true);
            WRITE(r, " ");
            write_eos(r);
            continue;
        }
        write_bos(r);
        WRITE(r, "[INST] ");
        if (first && i == first) {
            WRITE(r, "<<SYS>>\n");
            write_text(r, &messages[0], false);
            WRITE(r, "\n<</SYS>>\n\n");
        }
        write_text(r, &messages[i], true);
        WRITE(r, " [/INST]");
    }
}

static void render_mistral(render *r, const sp_chat_message *messages, size_t n)
{
    size_t first = messages[0].role == SP_CHAT_SYSTEM, bearer = r->chat->system_last ? n - 1 : first;
    write_bos(r);
    for (size_t i = first; i < n; i++) {
        if (messages[i].role == SP_CHAT_ASSISTANT) {
            if (r->chat->spaced_answer) WRITE(r, " ");
            write_text(r, &messages[i], false);
            write_eos(r);
            continue;
        }
        WRITE(r, "[INST] ");
        if (first && i == bearer) {
            write_text(r, &messages[0], false);
            WRITE(r, "\n\n");
        }
        write_text(r, &messages[i], false);
        WRITE(r, r->chat->spaced_close ? " [/INST]" : "[/INST]");
    }
}

static void render_plain(render *r, const sp_chat_message *messages, size_t n)
{
    static const char *const titles[] = {"System: ", "User: ", "Assistant: "};
    write_bos(r);
    for (size_t i = 0; i < n; i++) {
        WRITE(r, titles[messages[i].role]);
        write_text(r, &messages[i], false);
        WRITE(r, "\n");
    }
    WRITE(r, "Assistant:");
}

/* llama2 and mistral: perhaps one system prompt, then user and assistant in turn, the user last. */
static bool alternates(const sp_chat_message *messages, size_t n)
{
    size_t first = messages[0].role == SP_CHAT_SYSTEM;
    for (size_t i = first; i < n; i++)
        if (messages[i].role != ((i - first) % 2 ? SP_CHAT_ASSISTANT : SP_CHAT_USER)) return false;
    return (n - first) % 2 == 1;
}

sp_status sp_chat_render(const sp_chat *chat, const sp_chat_message *messages, size_t n, sp_buffer *text,
                         sp_span *spans, sp_error *error)
{
    render r = {.chat = chat, .out = text, .spans = spans};
    if (n == 0) return sp_fail_param(error, SP_INVALID, "messages", "messages is empty");
    if (chat->family == SP_CHAT_NONE)
        return sp_fail_param(error, SP_INVALID, "messages",
                             chat->has_template
                                 ? "the model's chat template is of no known family; the server's "
                                   "--chat-template FAMILY chooses one"
                                 : "the model has no chat template; the server's --chat-template FAMILY "
                                   "chooses one");
    bool turns = chat->family == SP_CHAT_LLAMA2 || chat->family == SP_CHAT_MISTRAL;
    if (turns && !alternates(messages, n))
        return sp_fail_param(error, SP_INVALID, "messages",
                             "messages: this model's template takes one system prompt at most, then user and "
                             "assistant in turn, the user last");
    if (chat->family == SP_CHAT_CHATML) render_chatml(&r, messages, n);
    if (chat->family == SP_CHAT_LLAMA2) render_llama2(&r, messages, n);
    if (chat->family == SP_CHAT_LLAMA3) render_llama3(&r, messages, n);
    if (chat->family == SP_CHAT_ZEPHYR || chat->family == SP_CHAT_PHI3) render_tagged(&r, messages, n);
    if (chat->family == SP_CHAT_MISTRAL) render_mistral(&r, messages, n);
    if (chat->family == SP_CHAT_PLAIN) render_plain(&r, messages, n);
    return text->failed ? sp_fail(error, SP_NO_MEMORY, "no memory for the text of a chat") : SP_OK;
}

sp_status sp_chat_encode(const sp_chat *chat, const sp_chat_message *messages, size_t n, sp_tokens *out,
                         sp_error *error)
{
    sp_buffer text;
    sp_span *spans = sp_alloc_zero(n + 1, sizeof *spans);
    if (!spans) return sp_fail(error, SP_NO_MEMORY, "no memory for %zu messages", n);
    sp_buffer_init(&text, MAX_CHAT_BYTES);
    sp_status status = sp_chat_render(chat, messages, n, &text, spans, error);
    if (status == SP_OK)
        status = sp_tokenizer_encode_template(chat->tokenizer, text.data, text.size, spans, n, out, error);
    if (status == SP_INVALID && error && !error->param[0])
        memcpy(error->param, "messages", sizeof "messages");
    sp_buffer_fini(&text);
    sp_free(spans);
    return status;
}
