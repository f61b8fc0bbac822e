/* A slice: rows a:b and columns c:d of one head's attention graph, in CSR, with what a reader needs to tell
 * what it shows. Everything that leaves the graph code (JSON, safetensors, files, pictures) is written from
 * this one structure; whoever writes a format needs no capture, no engine and no lock.
 *
 * Rows are queries, columns are keys, both absolute positions of the capture. An edge (i, j) says: query i
 * reads key j with this weight. Within a row the keys rise. A causal graph has no edge with j > i; such a
 * pair is masked, which is not the same as empty.
 *
 * Ownership: a slice owns its four arrays (sp_slice_fini frees them). source and tokens are borrowed: they
 * live as long as the capture or the copy that the caller holds (sp_capture_hold), at least as long as the
 * slice is read. All texts end with a NUL, also those with a size. No field changes once a slice is
 * filled. Tests: tests/unit/engine/test_graph_slice.c */
#ifndef SPARSED_ENGINE_GRAPH_SLICE_H
#define SPARSED_ENGINE_GRAPH_SLICE_H

#include "kernels/base.h"

/* gold: dense attention with the gold normalizer and its cut. pred: the backend's plan. both, missed, extra:
 * gold and pred, gold without pred, pred without gold. after: pred's edges whose weight is not zero. gold,
 * both and missed carry the gold weight, pred, extra and after the weight normalized over pred. */
typedef enum sp_graph {
    SP_GRAPH_GOLD,
    SP_GRAPH_PRED,
    SP_GRAPH_BOTH,
    SP_GRAPH_MISSED,
    SP_GRAPH_EXTRA,
    SP_GRAPH_AFTER,
    SP_N_GRAPHS
} sp_graph;
/* "gold", "pred", ... */
const char *sp_graph_name(sp_graph graph);
bool sp_graph_find(const char *name, sp_graph *out) SP_MUST_CHECK;

/* One position of the input. A token may be part of a character: bytes are exact and may be ill-formed UTF-8
 * (exports write U+FFFD in text forms); text is the same with every ill-formed part replaced. */
typedef struct sp_graph_token {
    int32_t id;
    bool special;
    const char *bytes, *text;
    size_t n_bytes, n_text;
} sp_graph_token;

/* Where a graph comes from: what a caption or a provenance field says. Texts, never NULL; "" where there is
 * nothing to say. */
typedef struct sp_graph_source {
    const char *capture; /* id: "attn-..." */
    const char *model;   /* the model's id, an adapter's as BASE:NAME */
    const char *arch;    /* "llama" */
    const char *hash;    /* hex SHA-256 of its query and key projections (engine/README.md); "": not known */
    const char *backend; /* "sparsefinder" */
    const char *params;  /* all parameters, resolved, as a JSON object: {"window":33} */
    const char *decode_backend; /* of generated positions where they have a pattern of their own; "": none */
    const char *decode_params;
    bool sees_later;        /* the backend chose among all positions of the prompt, later ones too */
    const char *normalizer; /* JSON: "softmax" (with its quotes) or {"alpha":1.5}: over pred */
    const char *gold;       /* JSON: {"normalizer":{"alpha":1.5}} or {"normalizer":"softmax","mass":0.95} */
    const char *heads;      /* "merged", "interleaved" or "multihead" */
    const char *dtype;      /* of q and k: "bf16", "f32" */
    const char *software;   /* "sparsed 0.1.0" */
    const char *block;      /* "self", "enc", "dec" or "cross" */
    int64_t created;        /* unix seconds */
} sp_graph_source;

/* The numbers of one head. Counts are exact over all rows and columns, whatever the slice. "weight" is the
 * gold weight, in double, summed over the gold edges. A ratio 0 / 0 is NaN here and null in JSON. */
typedef struct sp_head_record {
    uint64_t edges_gold, edges_pred, edges_both, edges_after, pairs_valid;
    uint64_t rows_valid, rows_exact; /* exact: every gold key of the row is predicted */
    uint64_t rows_empty;             /* rows without a predicted edge */
    uint64_t max_degree;             /* gold edges of a row at most */
    double recall, precision, f1, sparsity, sparsity_gold;
    double mass_recall;                                /* gold weight on both / gold weight */
    double mean_distance;                              /* gold-weighted |i - j| */
    double entropy;                                    /* nats, mean over rows, of the kept gold weights */
    double self, previous, sink, duplicate, induction; /* shares of the gold weight: sum(A D) / sum(A) */
} sp_head_record;

typedef struct sp_slice {
    sp_graph graph;
    const char *name; /* sp_graph_name(graph), or an aggregate's: "mean", "rollout"; static */
    /* Query head and the KV head it reads; SP_NO_HEAD in both for a graph over several. */
    uint32_t layer, head, kv_head;
    uint32_t n_query, n_key;       /* of the whole graph */
    bool causal;                   /* pairs with key > query are masked */
    uint32_t row_begin, row_end;   /* a:b, the rows held here: 0 <= a < b <= n_query */
    uint32_t col_begin, col_end;   /* c:d */
    uint32_t *indptr;              /* (row_end - row_begin + 1) from 0 */
    uint32_t *indices;             /* (edges) absolute key positions, rising within a row */
    float *weights;                /* (edges) >= 0; 0 only in pred and extra */
    float *left_out;               /* (row_end - row_begin) the row's full mass minus the mass held here */
    uint64_t edges_total;          /* edges that match the filters over all pages */
    bool truncated;                /* the filters match rows behind row_end */
    const sp_head_record *metrics; /* borrowed; NULL: an aggregate has none */
    const sp_graph_source *source; /* borrowed */
    const sp_graph_token *tokens;  /* (max(n_query, n_key)) borrowed; self-attention: of both axes */
} sp_slice;
#define SP_NO_HEAD UINT32_MAX

static inline uint32_t sp_slice_rows(const sp_slice *slice)
{
    return slice->row_end - slice->row_begin;
}
static inline uint32_t sp_slice_edges(const sp_slice *slice)
{
    return slice->indptr ? slice->indptr[slice->row_end - slice->row_begin] : 0;
}
/* Edges that it holds, or where it holds none those of its graph. */
static inline uint64_t sp_slice_count(const sp_slice *slice)
{
    return slice->indptr ? sp_slice_edges(slice) : slice->edges_total;
}
/* Frees the arrays; a zeroed slice is fine. */
void sp_slice_fini(sp_slice *slice);

/* Weight as fixed point: max(1, round(65,535 w)) for w > 0, 0 for 0; w is clamped to 1. */
uint16_t sp_weight_to_u16(float weight);
float sp_weight_from_u16(uint16_t weight); /* u / 65,535 */

/* All heads at a glance: a 64 x 64 picture a head, row-major by query. Cell (y, x) holds the edges with
 * floor(64 i / n_query) = y and floor(64 j / n_key) = x: 0 no edge, else 1 .. 255, rising with the logarithm
 * of the density (edges / valid pairs of the cell): value = 1 + round(254 (1 + log10(density) / 6)), clamped;
 * so 255 is density 1 and 1 is density 1e-6 or less. */
#define SP_OVERVIEW_SIDE 64
#define SP_OVERVIEW_SCALE "log10 density, 1e-6 to 1"
typedef struct sp_overview {
    sp_graph graph;
    uint32_t n_layers, n_heads; /* of this overview */
    const uint32_t *layers;     /* (n_layers) borrowed */
    const uint32_t *heads;      /* (n_heads) borrowed */
    uint32_t n_query, n_key;
    bool causal;
    const uint8_t *cells;          /* (n_layers, n_heads, 64, 64) borrowed */
    const uint8_t *done;           /* (n_layers, n_heads) 0: not computed yet; borrowed */
    const sp_head_record *records; /* (n_layers, n_heads) borrowed; NULL: none */
    const sp_graph_source *source; /* borrowed */
} sp_overview;

#endif
