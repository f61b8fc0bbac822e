/* See patterns.h. */
#include "tests/support/patterns.h"

#define DENSE(text)                                                                                          \
    {                                                                                                        \
        .backend = "dense", .json = text, .stride = 1, .summary = 1, .distinct = 1                           \
    }
#define AUTO(text)                                                                                           \
    {                                                                                                        \
        .backend = "auto", .json = text, .stride = 1, .summary = 1, .distinct = 1                            \
    }
#define STRIDED(text, mode, l, g)                                                                            \
    {                                                                                                        \
        .backend = "strided", .json = text, .heads = mode, .stride = l, .first = g, .distinct = 1            \
    }
#define FIXED(text, mode, l, c, v, g)                                                                        \
    {                                                                                                        \
        .backend = "fixed", .json = text, .heads = mode, .stride = l, .summary = c, .distinct = v,           \
        .first = g                                                                                           \
    }
#define WINDOW(text, w, g, e)                                                                                \
    {                                                                                                        \
        .backend = "window", .json = text, .window = w, .first = g, .last = e                                \
    }
#define LONGFORMER(text, w, g, r, s)                                                                         \
    {                                                                                                        \
        .backend = "longformer", .json = text, .window = w, .first = g, .random = r, .seed = s               \
    }

const oracle_pattern test_patterns[] = {
    DENSE("\"dense\""),
    AUTO("{\"backend\":\"auto\",\"params\":{\"max_recall_loss\":0.1}}"),
    STRIDED("\"strided\"", ORACLE_MERGED, 128, 0),
    STRIDED("{\"backend\":\"strided\",\"params\":{\"stride\":8}}", ORACLE_MERGED, 8, 0),
    STRIDED("{\"backend\":\"strided\",\"params\":{\"stride\":1}}", ORACLE_MERGED, 1, 0),
    STRIDED("{\"backend\":\"strided\",\"params\":{\"stride\":1048576}}", ORACLE_MERGED, 1048576, 0),
    STRIDED("{\"backend\":\"strided\",\"params\":{\"stride\":13,\"global_first\":30}}", ORACLE_MERGED, 13,
            30),
    STRIDED(
        "{\"backend\":\"strided\",\"params\":{\"stride\":64,\"global_first\":70},\"heads\":\"multihead\"}",
        ORACLE_MULTIHEAD, 64, 70),
    STRIDED(
        "{\"backend\":\"strided\",\"params\":{\"stride\":5,\"global_first\":1},\"heads\":\"interleaved\"}",
        ORACLE_INTERLEAVED, 5, 1),
    FIXED("\"fixed\"", ORACLE_MERGED, 128, 32, 1, 0),
    FIXED("{\"backend\":\"fixed\",\"params\":{\"stride\":8,\"summary\":2}}", ORACLE_MERGED, 8, 2, 1, 0),
    FIXED("{\"backend\":\"fixed\",\"params\":{\"stride\":7,\"summary\":3,\"global_first\":3}}", ORACLE_MERGED,
          7, 3, 1, 3),
    FIXED("{\"backend\":\"fixed\",\"params\":{\"stride\":1,\"summary\":1}}", ORACLE_MERGED, 1, 1, 1, 0),
    FIXED("{\"backend\":\"fixed\",\"params\":{\"stride\":200,\"summary\":70,\"distinct\":2}}", ORACLE_MERGED,
          200, 70, 2, 0),
    FIXED(
        "{\"backend\":\"fixed\",\"params\":{\"stride\":33,\"summary\":8,\"distinct\":4,\"global_first\":40},"
        "\"heads\":\"interleaved\"}",
        ORACLE_INTERLEAVED, 33, 8, 4, 40),
    FIXED("{\"backend\":\"fixed\",\"params\":{\"stride\":16,\"summary\":3,\"distinct\":4,\"global_first\":1},"
          "\"heads\":\"multihead\"}",
          ORACLE_MULTIHEAD, 16, 3, 4, 1),
    FIXED("{\"backend\":\"fixed\",\"params\":{\"stride\":16,\"summary\":5,\"distinct\":2},\"heads\":"
          "\"multihead\"}",
          ORACLE_MULTIHEAD, 16, 5, 2, 0),
    WINDOW("\"window\"", 257, 0, 0),
    WINDOW("{\"backend\":\"window\",\"params\":{\"window\":0,\"global_first\":2}}", 0, 2, 0),
    WINDOW("{\"backend\":\"window\",\"params\":{\"window\":1}}", 1, 0, 0),
    WINDOW("{\"backend\":\"window\",\"params\":{\"window\":31,\"global_first\":5,\"global_last\":4}}", 31, 5,
           4),
    LONGFORMER("\"longformer\"", 257, 1, 0, 0),
    LONGFORMER("{\"backend\":\"longformer\",\"params\":{\"window\":3,\"global_first\":2}}", 3, 2, 0, 0),
    LONGFORMER(
        "{\"backend\":\"longformer\",\"params\":{\"window\":9,\"global_random\":7,\"seed\":123456789012345}}",
        9, 1, 7, 123456789012345),
    LONGFORMER(
        "{\"backend\":\"longformer\",\"params\":{\"window\":0,\"global_first\":0,\"global_random\":70}}", 0,
        0, 70, 0),
};
const size_t n_test_patterns = sizeof test_patterns / sizeof *test_patterns;
