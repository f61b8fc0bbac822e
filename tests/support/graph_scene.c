/* See graph_scene.h. */
#include "tests/support/graph_scene.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define WINDOW 3u
#define LONG_TOKEN 10240u

static const char *const words[] = {
    "It", " is",     " a",   " truth", " universally", " acknowledged", ",",  " that",
    " a", " single", " man", " in",    " possession",  " of",           "\n", " \xc3\xa9t\xc3\xa9"};
#define N_WORDS (sizeof words / sizeof words[0])
static const struct {
    const char *bytes, *text;
    size_t n;
} hostile_tokens[] = {
    {NULL, NULL, 0},
    {"</script><img src=x onerror=alert(1)>", "</script><img src=x onerror=alert(1)>", 37},
    {"\"'&amp;<b>]]>", "\"'&amp;<b>]]>", 13},
    {"\x01\x1b[31m\x7f\0z", "\x01\x1b[31m\x7f", 9},
    {"\xff\xfe\xc3", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", 3},
};

void sp_graph_scene_init(sp_graph_scene *scene, uint32_t n, uint32_t m, bool hostile)
{
    uint32_t most = n > m ? n : m;
    *scene = (sp_graph_scene){.n = n,
                              .m = m,
                              .source = {.capture = "attn-0123456789abcdef",
                                         .model = "austen",
                                         .arch = "llama",
                                         .hash = "",
                                         .backend = "window",
                                         .params = "{\"window\":3}",
                                         .decode_backend = "",
                                         .decode_params = "",
                                         .normalizer = "{\"alpha\":1.5}",
                                         .gold = "{\"normalizer\":{\"alpha\":1.5}}",
                                         .heads = "merged",
                                         .dtype = "f32",
                                         .software = "sparsed 0.1.0",
                                         .block = "self",
                                         .created = 1795381821}};
    scene->tokens = sp_alloc_zero(most, sizeof *scene->tokens);
    scene->long_token = sp_alloc(LONG_TOKEN + 1, 1);
    assert(scene->tokens && scene->long_token);
    memset(scene->long_token, 'x', LONG_TOKEN);
    scene->long_token[LONG_TOKEN] = 0;
    for (uint32_t i = 0; i < most; i++) {
        sp_graph_token *token = &scene->tokens[i];
        token->id = (int32_t)(i % N_WORDS);
        token->bytes = token->text = words[i % N_WORDS];
        token->n_bytes = token->n_text = strlen(token->bytes);
        if (!hostile || i < 1 || i > 5) continue;
        token->bytes = i == 5 ? scene->long_token : hostile_tokens[i].bytes;
        token->text = i == 5 ? scene->long_token : hostile_tokens[i].text;
        token->n_bytes = i == 5 ? LONG_TOKEN : hostile_tokens[i].n;
        token->n_text = i == 3 ? token->n_bytes : strlen(token->text);
        if (i == 3) token->text = token->bytes;
    }
}

void sp_graph_scene_fini(sp_graph_scene *scene)
{
    sp_free(scene->tokens);
    sp_free(scene->long_token);
}

/* A score that depends on the pair alone, with a sink at key 0 and a bent towards near keys. */
static double score_of(uint32_t i, uint32_t j)
{
    uint64_t h = (uint64_t)i * 2654435761u + (uint64_t)j * 40503u + 12345;
    h = (h ^ (h >> 15)) * 2246822519u;
    h = (h ^ (h >> 13)) * 3266489917u;
    double noise = (double)((h ^ (h >> 16)) & 0xffff) / 65535.0, distance = fabs((double)i - j);
    return 2.2 * noise + (j == 0 ? 1.2 : 0) + 1.3 / (1 + 0.4 * distance) + (distance == 7 ? 0.9 : 0);
}

/* Weights of 1.5-entmax by bisection of tau: p = max(0, s / 2 - tau)^2. allowed: the keys that take part. */
static void weigh_row(uint32_t i, const bool *allowed, uint32_t m, double *weights)
{
    double low = -1, high = 4;
    for (int step = 0; step < 60; step++) {
        double tau = (low + high) / 2, sum = 0;
        for (uint32_t j = 0; j < m; j++) {
            double p = allowed[j] ? fmax(score_of(i, j) / 2 - tau, 0) : 0;
            weights[j] = p * p;
            sum += weights[j];
        }
        *(sum > 1 ? &low : &high) = tau;
    }
}

static bool is_predicted(uint32_t i, uint32_t j)
{
    return j == 0 || (i > j ? i - j : j - i) <= WINDOW;
}

void sp_graph_scene_slice(const sp_graph_scene *scene, sp_graph graph, bool causal, const uint32_t rows[2],
                          const uint32_t columns[2], sp_slice *out)
{
    size_t most = (size_t)(rows[1] - rows[0]) * (columns[1] - columns[0]);
    *out = (sp_slice){.graph = graph,
                      .name = sp_graph_name(graph),
                      .layer = 1,
                      .head = 2,
                      .kv_head = 1,
                      .n_query = scene->n,
                      .n_key = scene->m,
                      .causal = causal,
                      .row_begin = rows[0],
                      .row_end = rows[1],
                      .col_begin = columns[0],
                      .col_end = columns[1],
                      .source = &scene->source,
                      .tokens = scene->tokens};
    out->indptr = sp_alloc_zero(rows[1] - rows[0] + 1, sizeof *out->indptr);
    out->indices = sp_alloc(most, sizeof *out->indices);
    out->weights = sp_alloc(most, sizeof *out->weights);
    out->left_out = sp_alloc_zero(rows[1] - rows[0], sizeof *out->left_out);
    bool *allowed = sp_alloc(scene->m, sizeof *allowed);
    double *weights = sp_alloc(scene->m, sizeof *weights);
    assert(out->indptr && out->indices && out->weights && out->left_out && allowed && weights);
    uint32_t edges = 0;
    for (uint32_t i = rows[0]; i < rows[1]; i++) {
        for (uint32_t j = 0; j < scene->m; j++)
            allowed[j] = (!causal || j <= i) && (graph == SP_GRAPH_GOLD || is_predicted(i, j));
        weigh_row(i, allowed, scene->m, weights);
        for (uint32_t j = columns[0]; j < columns[1]; j++) {
            if (!allowed[j] || (graph != SP_GRAPH_PRED && !(weights[j] > 1e-9))) continue;
            out->indices[edges] = j;
            out->weights[edges++] = (float)weights[j];
        }
        out->indptr[i - rows[0] + 1] = edges;
    }
    out->edges_total = edges;
    sp_free(allowed);
    sp_free(weights);
}

void sp_graph_scene_whole(const sp_graph_scene *scene, sp_graph graph, bool causal, sp_slice *out)
{
    sp_graph_scene_slice(scene, graph, causal, (uint32_t[]){0, scene->n}, (uint32_t[]){0, scene->m}, out);
}
