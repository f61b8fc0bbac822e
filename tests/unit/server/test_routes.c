/* Dispatch, the error envelope and stream frames (server/routes.h, errors.h, sse.h). */
#include "tests/support/test.h"

#include <string.h>

#include "server/errors.h"
#include "server/routes.h"
#include "server/sse.h"
#include "server/state.h"

static void finds_every_route(void **state)
{
    (void)state;
    char allow[32];
    const char *rest = NULL;
    assert_true(sp_route_count <= SP_MAX_ROUTES);
    for (size_t i = 0; i < sp_route_count; i++) {
        if (strchr(sp_routes[i].path, '{')) continue;
        assert_ptr_equal(sp_route_find(sp_routes[i].method, sp_routes[i].path, &rest, allow, sizeof allow),
                         &sp_routes[i]);
        assert_null(sp_route_find("PATCH", sp_routes[i].path, &rest, allow, sizeof allow));
        assert_true(strncmp(allow, sp_routes[i].method, strlen(sp_routes[i].method)) == 0);
    }
    assert_non_null(sp_route_find("HEAD", "/health", &rest, allow, sizeof allow));
    assert_null(sp_route_find("HEAD", "/v1/completions", &rest, allow, sizeof allow));
    assert_string_equal(allow, "POST");
    assert_null(sp_route_find("get", "/health", &rest, allow, sizeof allow));
    assert_string_equal(allow, "GET, HEAD");
    const char *const absent[] = {"/", "", "/health/", "/v1", "/v1/models/", "/v1/completions/x", "/HEALTH"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        assert_null(sp_route_find("GET", absent[i], &rest, allow, sizeof allow));
        assert_string_equal(allow, "");
    }
    assert_non_null(sp_route_find("GET", "/v1/models/a/b:c", &rest, allow, sizeof allow));
    assert_string_equal(rest, "a/b:c");
    assert_non_null(sp_route_find("DELETE", "/v1/requests/cmpl-1", &rest, allow, sizeof allow));
    assert_string_equal(rest, "cmpl-1");
    assert_non_null(sp_route_find("POST", "/v1/attention/captures/a/sweep", &rest, allow, sizeof allow));
    assert_null(sp_route_find("POST", "/v1/attention/captures/a/edges", &rest, allow, sizeof allow));
    assert_string_equal(allow, "GET, HEAD");
    assert_null(sp_route_find("POST", "/v1/attention/captures//sweep", &rest, allow, sizeof allow));
    assert_null(sp_route_find("DELETE", "/v1/requests/cmpl-1/x", &rest, allow, sizeof allow));
    assert_string_equal(allow, "");
}

static void writes_envelopes(void **state)
{
    (void)state;
    sp_buffer out;
    sp_json_writer writer;
    sp_buffer_init(&out, 4096);
    sp_json_writer_init(&writer, &out);
    sp_error_write(&writer, 503, NULL, "", "a \"b\"");
    sp_buffer_append(&out, "", 1);
    assert_string_equal(
        out.data, "{\"error\":{\"message\":\"a \\\"b\\\"\",\"type\":\"unavailable_error\",\"param\":null,"
                  "\"code\":503}}");
    sp_buffer_clear(&out);
    sp_json_writer_init(&writer, &out);
    sp_error_write_context(&writer, "prompt", "long", 12, 10);
    sp_buffer_append(&out, "", 1);
    assert_string_equal(out.data,
                        "{\"error\":{\"message\":\"long\",\"type\":\"exceed_context_size_error\",\"param\":"
                        "\"prompt\",\"code\":400,\"n_prompt_tokens\":12,\"n_ctx\":10}}");
    sp_buffer_fini(&out);
    assert_int_equal(sp_error_http_status(SP_BUSY), 429);
    assert_int_equal(sp_error_http_status(SP_TOO_LARGE), 413);
    assert_int_equal(sp_error_http_status(SP_DATA), 400);
    assert_int_equal(sp_error_http_status(SP_INTERNAL), 500);
    assert_int_equal(sp_error_http_status(SP_UNSUPPORTED), 501);
    assert_string_equal(sp_error_type(429), "rate_limit_error");
    assert_string_equal(sp_error_type(405), "not_found_error");
    assert_string_equal(sp_error_type(501), "not_supported_error");
}

static void frames_are_one_line(void **state)
{
    (void)state;
    sp_buffer out;
    sp_json_writer writer;
    sp_buffer_init(&out, 4096);
    sp_sse_ping(&out);
    size_t begin = sp_sse_begin(&out, &writer);
    sp_json_raw(&writer, "{\r\n\"a\":\n1\n\n}", 12);
    sp_sse_end(&out, begin);
    sp_sse_done(&out);
    sp_buffer_append(&out, "", 1);
    assert_string_equal(out.data, ": ping\n\ndata: {  \"a\": 1  }\n\ndata: [DONE]\n\n");
    sp_buffer_fini(&out);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(finds_every_route),
                                          cmocka_unit_test(writes_envelopes),
                                          cmocka_unit_test(frames_are_one_line)};
TEST_MAIN(tests)
