/* Reading and checking a chat request (chat_request.h). */
#include "server/chat_request.h"

#include <string.h>

static sp_status bad_content(size_t i, sp_error *error)
{
    return sp_fail_param(
        error, SP_INVALID, "messages",
        "messages[%zu].content must be a string or an array of {\"type\": \"text\", \"text\": "
        "string}",
        i);
}

static sp_status no_memory(sp_error *error)
{
    return sp_fail_param(error, SP_NO_MEMORY, "messages", "messages do not fit the memory of a request");
}

static bool is_text_part(sp_item *part)
{
    sp_item *type = sp_item_is_object(part) ? sp_item_find(part, "type") : NULL;
    sp_item *text = type ? sp_item_find(part, "text") : NULL;
    return sp_item_is_word(type, "text") && text && sp_item_is_text(text);
}

/* Parts are joined without anything between. */
static sp_status read_parts(const sp_body *body, sp_item *parts, size_t i, sp_chat_message *out,
                            sp_error *error)
{
    sp_buffer joined;
    sp_buffer_init(&joined, SIZE_MAX / 2);
    bool good = true;
    for (sp_item *part = sp_item_first(parts); part && good; part = sp_item_next(part)) {
        size_t size = 0;
        good = is_text_part(part);
        const char *text = good ? sp_item_text(body, sp_item_find(part, "text"), &size) : NULL;
        if (text)
            sp_buffer_append(&joined, text, size);
        else
            sp_buffer_break(&joined);
    }
    out->text = sp_arena_copy(body->arena, joined.data ? joined.data : "", joined.size);
    out->size = joined.size;
    bool enough = out->text && !joined.failed;
    sp_buffer_fini(&joined);
    if (!good) return bad_content(i, error);
    return enough ? SP_OK : no_memory(error);
}

static sp_status read_role(sp_item *message, size_t i, sp_chat_role *role, sp_error *error)
{
    static const struct {
        const char *name;
        sp_chat_role role;
    } roles[] = {{"system", SP_CHAT_SYSTEM},
                 {"developer", SP_CHAT_SYSTEM},
                 {"user", SP_CHAT_USER},
                 {"assistant", SP_CHAT_ASSISTANT}};
    sp_item *item = sp_item_find(message, "role");
    for (size_t k = 0; k < sizeof roles / sizeof *roles; k++) {
        if (!sp_item_is_word(item, roles[k].name)) continue;
        *role = roles[k].role;
        return SP_OK;
    }
    return sp_fail_param(error, SP_INVALID, "messages",
                         "messages[%zu].role must be system, developer, user or assistant", i);
}

static sp_status read_message(const sp_body *body, sp_item *message, size_t i, sp_chat_message *out,
                              sp_error *error)
{
    if (!sp_item_is_object(message))
        return sp_fail_param(error, SP_INVALID, "messages", "messages[%zu] must be an object", i);
    sp_status status = read_role(message, i, &out->role, error);
    if (status) return status;
    sp_item *calls = sp_item_find(message, "tool_calls");
    bool none = !calls || (sp_item_is_array(calls) && !sp_item_first(calls));
    if (!none || sp_item_find(message, "function_call"))
        return sp_fail_param(error, SP_INVALID, "messages", "messages[%zu]: tools are not supported", i);
    sp_item *content = sp_item_find(message, "content");
    if (!content) return bad_content(i, error);
    if (sp_item_is_array(content)) return read_parts(body, content, i, out, error);
    if (!sp_item_is_text(content)) return bad_content(i, error);
    out->text = sp_item_text(body, content, &out->size);
    return out->text ? SP_OK : no_memory(error);
}

/* messages as ids. */
static sp_status read_chat(const sp_body *body, const sp_engine_info *info, sp_asked *out, sp_error *error)
{
    sp_item *item = sp_body_find(body, "messages");
    if (!item) return sp_fail_param(error, SP_INVALID, "messages", "messages is missing");
    if (!sp_item_is_array(item) || !sp_item_first(item))
        return sp_fail_param(error, SP_INVALID, "messages", "messages must be an array of messages");
    size_t n = sp_item_count(item), i = 0;
    sp_chat_message *messages = sp_arena_alloc(body->arena, n, sizeof *messages); /* (n) */
    out->prompts = sp_arena_alloc(body->arena, 1, sizeof *out->prompts);
    if (!messages || !out->prompts) return no_memory(error);
    for (sp_item *one = sp_item_first(item); one; one = sp_item_next(one), i++) {
        sp_status status = read_message(body, one, i, &messages[i], error);
        if (status) return status;
    }
    sp_tokens tokens = {0};
    sp_status status = sp_chat_encode(info->chat, messages, n, &tokens, error);
    int32_t *ids = status ? NULL : sp_arena_alloc(body->arena, tokens.count + 1, sizeof *ids);
    for (i = 0; ids && i < tokens.count; i++) ids[i] = tokens.data[i].id;
    out->n_prompts = 1;
    out->prompts[0] = (sp_prompt){.ids = ids, .n_ids = tokens.count};
    sp_tokens_fini(&tokens);
    return status || ids ? status : no_memory(error);
}

/* max_completion_tokens, or max_tokens, or what there is room for. */
static sp_status read_length(const sp_body *body, const sp_engine_info *info, const sp_options *options,
                             sp_asked *out, sp_error *error)
{
    int64_t rest = (int64_t)info->context - (int64_t)out->prompts[0].n_ids, tokens = -1, completion = -1;
    sp_status status = sp_body_int(body, "max_tokens", 0, info->context, &tokens, error);
    if (!status) status = sp_body_int(body, "max_completion_tokens", 0, info->context, &completion, error);
    if (status) return status;
    if (completion >= 0) tokens = completion;
    if (tokens < 0) tokens = rest < options->max_output_tokens ? rest : options->max_output_tokens;
    out->request.max_tokens = tokens > 0 ? (uint32_t)tokens : 0;
    if (out->request.min_tokens > out->request.max_tokens)
        return sp_fail_param(error, SP_INVALID, "min_tokens", "min_tokens must be at most max_tokens (%u)",
                             (unsigned)out->request.max_tokens);
    return SP_OK;
}

static sp_status read_logprobs(const sp_body *body, sp_asked *out, sp_error *error)
{
    int64_t top = 0;
    sp_status status = sp_body_bool(body, "logprobs", &out->logprobs, error);
    if (!status) status = sp_body_int(body, "top_logprobs", 0, SP_MAX_LOGPROBS, &top, error);
    if (status) return status;
    if (sp_body_find(body, "top_logprobs") && !out->logprobs)
        return sp_fail_param(error, SP_INVALID, "top_logprobs", "top_logprobs needs \"logprobs\": true");
    out->request.logprobs = (uint32_t)top;
    return SP_OK;
}

/* What ends a turn of the model's family ends the answer. */
static void add_ends(const sp_body *body, const sp_chat *chat, sp_request *request)
{
    if (chat->stop && request->n_stops < SP_MAX_STOPS) {
        request->stops[request->n_stops] = chat->stop;
        request->stop_sizes[request->n_stops++] = strlen(chat->stop);
    }
    if (chat->end < 0 || request->ignore_eos || request->n_stop_ids == SP_MAX_STOP_IDS) return;
    int32_t *ids = sp_arena_alloc(body->arena, request->n_stop_ids + 1, sizeof *ids);
    if (!ids) return;
    for (size_t i = 0; i < request->n_stop_ids; i++) ids[i] = request->stop_ids[i];
    ids[request->n_stop_ids++] = chat->end;
    request->stop_ids = ids;
}

sp_status sp_chat_read(const sp_body *body, const sp_engine_info *info, const sp_options *options,
                       sp_asked *out, sp_error *error)
{
    static const char *const known[] = {"messages", "max_completion_tokens", "top_logprobs", NULL};
    memset(out, 0, sizeof *out);
    sp_request_init(&out->request);
    sp_status status = sp_asked_read(body, info, out, error);
    if (!status) status = read_chat(body, info, out, error);
    if (!status) status = read_length(body, info, options, out, error);
    if (!status) status = read_logprobs(body, out, error);
    if (status) return status;
    add_ends(body, info->chat, &out->request);
    sp_asked_note_unknown(body, "chat", known);
    return SP_OK;
}
