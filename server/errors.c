/* Statuses, types and texts of the error envelope (errors.h). */
#include "server/errors.h"

static const struct {
    unsigned status;
    const char *type, *reason;
} table[] = {
    {200, "", "OK"},
    {201, "", "Created"},
    {202, "", "Accepted"},
    {204, "", "No Content"},
    {304, "", "Not Modified"},
    {400, "invalid_request_error", "Bad Request"},
    {401, "authentication_error", "Unauthorized"},
    {403, "permission_error", "Forbidden"},
    {404, "not_found_error", "Not Found"},
    {405, "not_found_error", "Method Not Allowed"},
    {408, "invalid_request_error", "Request Timeout"},
    {409, "conflict_error", "Conflict"},
    {410, "not_found_error", "Gone"},
    {411, "invalid_request_error", "Length Required"},
    {413, "invalid_request_error", "Content Too Large"},
    {414, "invalid_request_error", "URI Too Long"},
    {415, "invalid_request_error", "Unsupported Media Type"},
    {429, "rate_limit_error", "Too Many Requests"},
    {431, "invalid_request_error", "Request Header Fields Too Large"},
    {500, "server_error", "Internal Server Error"},
    {501, "not_supported_error", "Not Implemented"},
    {503, "unavailable_error", "Service Unavailable"},
};

unsigned sp_error_http_status(sp_status status)
{
    switch (status) {
    case SP_OK:
        return 200;
    case SP_USAGE:
    case SP_INVALID:
    case SP_DATA:
    case SP_TOO_LONG:
        return 400;
    case SP_NOT_FOUND:
        return 404;
    case SP_TOO_LARGE:
        return 413;
    case SP_BUSY:
        return 429;
    case SP_UNAVAILABLE:
    case SP_NO_MEMORY:
        return 503;
    case SP_CANCELLED:
        return 409;
    case SP_UNSUPPORTED:
        return 501;
    case SP_IO:
    case SP_INTERNAL:
        return 500;
    }
    return 500;
}

const char *sp_error_type(unsigned http_status)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (table[i].status == http_status) return table[i].type;
    }
    return "server_error";
}

const char *sp_http_reason(unsigned http_status)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (table[i].status == http_status) return table[i].reason;
    }
    return "Error";
}

static void open_envelope(sp_json_writer *out, unsigned http_status, const char *type, const char *param,
                          const char *message)
{
    sp_json_open(out, '{');
    sp_json_key(out, "error");
    sp_json_open(out, '{');
    sp_json_key(out, "message");
    sp_json_cstring(out, message);
    sp_json_key(out, "type");
    sp_json_cstring(out, type ? type : sp_error_type(http_status));
    sp_json_key(out, "param");
    sp_json_cstring(out, param && *param ? param : NULL);
    sp_json_key(out, "code");
    sp_json_uint(out, http_status);
}

static void close_envelope(sp_json_writer *out)
{
    sp_json_close(out, '}');
    sp_json_close(out, '}');
}

void sp_error_write(sp_json_writer *out, unsigned http_status, const char *type, const char *param,
                    const char *message)
{
    open_envelope(out, http_status, type, param, message);
    close_envelope(out);
}

void sp_error_write_context(sp_json_writer *out, const char *param, const char *message,
                            uint64_t n_prompt_tokens, uint64_t n_ctx)
{
    open_envelope(out, 400, "exceed_context_size_error", param, message);
    sp_json_key(out, "n_prompt_tokens");
    sp_json_uint(out, n_prompt_tokens);
    sp_json_key(out, "n_ctx");
    sp_json_uint(out, n_ctx);
    close_envelope(out);
}
