/* Header checks, the Host list and percent decoding (gate.h). */
#include "server/gate.h"

#include <string.h>
#include <strings.h>

void sp_gate_init(sp_gate *gate)
{
    memset(gate, 0, sizeof *gate);
}

/* RFC 9110 5.6.2 */
static bool is_token(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        if (!alnum && (c == 0 || !strchr("!#$%&'*+-.^_`|~", c))) return false;
    }
    return n > 0;
}

static bool has_control(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if ((c < 32 && c != '\t') || c == 127) return true;
    }
    return false;
}

static bool is_name(const char *name, size_t n, const char *literal)
{
    return n == strlen(literal) && strncasecmp(name, literal, n) == 0;
}

static void fault(sp_gate *gate, const char *what)
{
    if (!gate->fault) gate->fault = what;
}

static void take_length(sp_gate *gate, const char *value, size_t n)
{
    gate->lengths++;
    gate->length = 0;
    if (n == 0 || n > 19) fault(gate, "Content-Length is not 1 to 19 digits");
    for (size_t i = 0; i < n && i < 19; i++) {
        if (value[i] < '0' || value[i] > '9') {
            fault(gate, "Content-Length is not 1 to 19 digits");
            return;
        }
        gate->length = gate->length * 10 + (uint64_t)(value[i] - '0');
    }
}

static void take_type(sp_gate *gate, const char *value, size_t n)
{
    size_t end = 0;
    while (end < n && value[end] != ';') end++;
    while (end > 0 && (value[end - 1] == ' ' || value[end - 1] == '\t')) end--;
    gate->types++;
    if (end >= sizeof gate->type) end = sizeof gate->type - 1;
    for (size_t i = 0; i < end; i++) {
        char c = value[i];
        gate->type[i] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
    }
    gate->type[end] = 0;
}

static void take_request_id(sp_gate *gate, const char *value, size_t n)
{
    if (n == 0 || n >= sizeof gate->request_id) return;
    for (size_t i = 0; i < n; i++) {
        if (value[i] <= ' ' || value[i] > '~') return;
    }
    memcpy(gate->request_id, value, n);
    gate->request_id[n] = 0;
}

static void take_text(char *out, size_t capacity, const char *value, size_t n)
{
    out[0] = 0;
    if (n >= capacity) return;
    if (n) memcpy(out, value, n);
    out[n] = 0;
}

/* The key behind the scheme, if it is Bearer. Of two such headers none counts. */
static void take_bearer(sp_gate *gate, const char *value, size_t n)
{
    size_t at = 6;
    gate->bearer.size = 0;
    if (++gate->authorizations > 1 || n <= at || strncasecmp(value, "Bearer", at) != 0 || value[at] != ' ')
        return;
    while (at < n && value[at] == ' ') at++;
    if (n - at > sizeof gate->bearer.text) return;
    memcpy(gate->bearer.text, value + at, n - at);
    gate->bearer.size = n - at;
}

static void take_api_key(sp_gate *gate, const char *value, size_t n)
{
    gate->api_key.size = 0;
    if (++gate->api_keys > 1 || n > sizeof gate->api_key.text) return;
    memcpy(gate->api_key.text, value, n);
    gate->api_key.size = n;
}

static void take_origin(sp_gate *gate, const char *value, size_t n)
{
    gate->origin[0] = 0;
    if (++gate->origins > 1 || n >= sizeof gate->origin) return;
    memcpy(gate->origin, value, n);
    gate->origin[n] = 0;
}

static void take_wanted(sp_gate *gate, const char *value, size_t n)
{
    gate->wanted[0] = 0;
    if (n >= sizeof gate->wanted) return;
    for (size_t i = 0; i < n; i++) {
        if (value[i] != ',' && value[i] != ' ' && !is_token(value + i, 1)) return;
    }
    memcpy(gate->wanted, value, n);
    gate->wanted[n] = 0;
}

void sp_gate_header(sp_gate *gate, const char *name, size_t name_size, const char *value, size_t value_size)
{
    if (!value) value_size = 0;
    if (!is_token(name, name_size)) fault(gate, "a header name is not a token");
    if (has_control(value, value_size)) fault(gate, "a header value holds a control byte");
    if (is_name(name, name_size, "Host")) {
        gate->hosts++;
        if (value_size >= sizeof gate->host) {
            fault(gate, "Host is too long");
        } else {
            memcpy(gate->host, value ? value : "", value_size);
            gate->host[value_size] = 0;
        }
    } else if (is_name(name, name_size, "Content-Length")) {
        take_length(gate, value, value_size);
    } else if (is_name(name, name_size, "Transfer-Encoding")) {
        gate->codings++;
        gate->chunked = is_name(value ? value : "", value_size, "chunked");
        if (!gate->chunked) fault(gate, "Transfer-Encoding is not chunked");
    } else if (is_name(name, name_size, "Content-Type")) {
        take_type(gate, value ? value : "", value_size);
    } else if (is_name(name, name_size, "Content-Encoding")) {
        if (!is_name(value ? value : "", value_size, "identity")) gate->encoded = true;
    } else if (is_name(name, name_size, "X-Request-Id")) {
        take_request_id(gate, value ? value : "", value_size);
    } else if (is_name(name, name_size, "Accept")) {
        take_text(gate->accept, sizeof gate->accept, value, value_size);
    } else if (is_name(name, name_size, "If-None-Match")) {
        take_text(gate->if_none_match, sizeof gate->if_none_match, value, value_size);
    } else if (is_name(name, name_size, "Authorization")) {
        take_bearer(gate, value ? value : "", value_size);
    } else if (is_name(name, name_size, "X-Api-Key")) {
        take_api_key(gate, value ? value : "", value_size);
    } else if (is_name(name, name_size, "Origin")) {
        take_origin(gate, value ? value : "", value_size);
    } else if (is_name(name, name_size, "Access-Control-Request-Headers")) {
        take_wanted(gate, value ? value : "", value_size);
    }
}

const char *sp_gate_finish(sp_gate *gate, bool http_1_1)
{
    if (gate->hosts != 1) fault(gate, "there must be exactly one Host");
    if (gate->lengths > 1) fault(gate, "more than one Content-Length");
    if (gate->codings > 1) fault(gate, "more than one Transfer-Encoding");
    if (gate->lengths && gate->codings) fault(gate, "Content-Length beside Transfer-Encoding");
    if (gate->codings && !http_1_1) fault(gate, "Transfer-Encoding before HTTP/1.1");
    return gate->fault;
}

bool sp_gate_has_body(const sp_gate *gate)
{
    return gate->codings > 0 || gate->lengths > 1 || gate->length > 0;
}

/* Length of the host part: without a port. */
static size_t host_length(const char *host)
{
    size_t n = strlen(host);
    const char *end = host[0] == '[' ? strchr(host, ']') : NULL;
    size_t bare = end ? (size_t)(end - host) + 1 : strcspn(host, ":");
    if (bare == n) return n;
    if (host[bare] != ':') return 0;
    for (size_t i = bare + 1; i < n; i++) {
        if (host[i] < '0' || host[i] > '9') return 0;
    }
    return bare;
}

static bool host_is(const char *host, size_t n, const char *name, size_t name_size)
{
    if (n == name_size && strncasecmp(host, name, n) == 0) return true;
    /* [::1] in the header, ::1 as an option */
    return n >= 2 && host[0] == '[' && n - 2 == name_size && strncasecmp(host + 1, name, n - 2) == 0;
}

bool sp_gate_host_allowed(const char *host, const char *allowed, const char *own)
{
    static const char *const loopback[] = {"localhost", "127.0.0.1", "[::1]"};
    size_t n = host_length(host);
    if (n == 0) return false;
    if (!allowed || !*allowed) {
        for (size_t i = 0; i < sizeof loopback / sizeof *loopback; i++) {
            if (host_is(host, n, loopback[i], strlen(loopback[i]))) return true;
        }
        return own && host_is(host, n, own, strlen(own));
    }
    while (*allowed) {
        while (*allowed == ' ' || *allowed == ',') allowed++;
        size_t size = strcspn(allowed, ", ");
        if (size == 1 && *allowed == '*') return true;
        if (size && host_is(host, n, allowed, size)) return true;
        allowed += size;
    }
    return false;
}

bool sp_gate_is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 || strcmp(host, "[::1]") == 0 ||
           strcasecmp(host, "localhost") == 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static bool has_dot_dot(const char *path)
{
    for (const char *part = path; part; part = strchr(part, '/')) {
        if (*part == '/') part++;
        size_t n = strcspn(part, "/");
        if (n == 2 && part[0] == '.' && part[1] == '.') return true;
    }
    return false;
}

bool sp_gate_decode(const char *raw, size_t size, bool form, char *out, size_t capacity)
{
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        int c = (unsigned char)raw[i];
        if (c == '%') {
            int high = i + 2 < size ? hex_digit(raw[i + 1]) : -1;
            int low = high >= 0 ? hex_digit(raw[i + 2]) : -1;
            if (low < 0) return false;
            c = high * 16 + low;
            i += 2;
        } else if (c == '+' && form) {
            c = ' ';
        }
        if (c < 32 || c == 127 || (c == '\\' && !form) || n + 1 >= capacity) return false;
        out[n++] = (char)c;
    }
    out[n] = 0;
    return sp_utf8_valid(out, n) && (form || !has_dot_dot(out));
}
