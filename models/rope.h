/* Rotary position embedding (Su et al. 2021) and its scalings.
 *
 * Pair i of a head of d numbers turns by position * f_i, f_i = theta^(-2 i / d), changed by the scaling:
 *   linear   f_i / factor
 *   llama3   by wavelength 2 pi / f_i: f_i below original / high, f_i / factor above original / low, between
 *            them blended linearly in the number of turns
 *   yarn     (Peng et al. 2023) f_i and f_i / factor blended along the pair index, between the pairs that
 *            make beta_fast and beta_slow turns over the original context; cos and sin times
 *            0.1 ln(factor) + 1
 *   dynamic  theta (factor n / N - (factor - 1))^(d / (d - 2)) for a sequence of n > N tokens
 *   longrope (Ding et al. 2024) f_i / long_factor[i] for a sequence longer than the original context, else
 *            f_i / short_factor[i]; cos and sin times sqrt(1 + ln(s) / ln(original)), s = context / original
 * Angles, cosines and sines are made in double and rounded once: in float32 an angle at position 300 has lost
 * five digits. Where n counts, it is the length that a sequence is planned for, prompt and max_tokens, and
 * never changes while it runs. Tests: tests/unit/models/test_rope.c, tests/golden/test_models.c */
#ifndef SPARSED_MODELS_ROPE_H
#define SPARSED_MODELS_ROPE_H

#include "models/config.h"

#define SP_MAX_HEAD_DIM 1024u

typedef enum sp_rope_kind {
    SP_ROPE_FIXED,   /* the same for every length */
    SP_ROPE_DYNAMIC, /* theta grows with the length beyond original */
    SP_ROPE_LONG     /* other frequencies beyond original */
} sp_rope_kind;

typedef struct sp_rope {
    sp_rope_kind kind;
    uint32_t head_dim;
    double theta, factor;
    double scale;             /* of cos and sin */
    uint32_t original;        /* DYNAMIC, LONG */
    uint32_t context;         /* what the scaling makes of max_position_embeddings */
    double *frequencies;      /* (head_dim / 2) radians a position; LONG: of short sequences */
    double *long_frequencies; /* (head_dim / 2), LONG only */
} sp_rope;

/* Reads rope_theta, rope_scaling or rope_parameters, partial_rotary_factor, max_position_embeddings and
 * original_max_position_embeddings. head_dim is even, at most SP_MAX_HEAD_DIM. SP_DATA names the key. */
sp_status sp_rope_open(sp_config *config, uint32_t head_dim, sp_rope **out, sp_error *error) SP_MUST_CHECK;
void sp_rope_close(sp_rope *rope);

/* Two lengths of one variant have the same angles. rope NULL: 0. */
uint32_t sp_rope_variant(const sp_rope *rope, uint32_t length);
/* A sentence for attention_report on what was chosen for this length; "" where length means nothing. */
void sp_rope_note(const sp_rope *rope, uint32_t length, char *text, size_t size);

/* positions (rows), lengths (rows) or NULL for short sequences; cosines, sines (rows, head_dim / 2). */
void sp_rope_fill(const sp_rope *rope, size_t rows, const uint32_t *positions, const uint32_t *lengths,
                  float *cosines, float *sines);

#endif
