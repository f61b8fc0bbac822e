/* One step: rows of several sequences through the model at once, and a token for those that are due.
 *
 * The scheduler decides who takes part and with how many rows; the step lays out the batch, runs the forward
 * pass and samples. All its memory is taken at open: nothing is allocated while it runs. What a sequence gets
 * does not depend on the others in the step (DESIGN 7). Owner: the engine thread. Tests:
 * tests/unit/engine/test_scheduler.c */
#ifndef SPARSED_ENGINE_STEP_H
#define SPARSED_ENGINE_STEP_H

#include "engine/attention/attend.h"
#include "engine/sequence.h"

typedef struct sp_step_entry {
    sp_sequence *sequence;
    uint32_t rows, first_row;
    bool samples; /* its last row gives a token: sampled */
    sp_sampled sampled;
} sp_step_entry;

typedef struct sp_step_options {
    sp_model *model;
    sp_kv *kv;
    uint32_t context, max_sequences, max_chunk; /* max_chunk: prefill rows of one step */
    uint32_t max_whole;                         /* longest prompt run layer by layer; 0: none */
    const sp_fit *const *fits;                  /* (n_fits) by sp_sequence.adapter; entries may be NULL */
    size_t n_fits;
} sp_step_options;

typedef struct sp_step {
    sp_step_options options;
    sp_attender *attender;
    sp_vocab_mask mask;
    size_t max_rows, max_logits, scratch_bytes; /* scratch_bytes: all of it, plans included */

    sp_step_entry *entries; /* (max_sequences) */
    sp_attend_job *jobs;    /* (max_sequences) */
    size_t n_entries;
    size_t n_rows, n_logits;
    int32_t *tokens; /* (max_rows), as positions, slots, lengths, adapters, wants */
    uint32_t *positions, *slots, *lengths, *adapters;
    uint8_t *wants;
    struct sp_logits_row *logits_rows; /* (max_logits) */
    float *logits;                     /* (max_logits, vocab) */
    float *hidden;                     /* (max_rows, hidden) */
    float *plain_q, *plain_k;   /* (max_rows, n_heads or n_kv_heads, head_dim); NULL: no fit wants them */
    bool pools;                 /* a sequence of the step wants hidden states */
    void *scratch;              /* of the forward pass */
    sp_whole whole;             /* of the one prompt that is run layer by layer */
    float *states;              /* (max_whole, hidden) of it; with whole's arrays made when first used */
    const sp_sequence *part_of; /* this step is a part of a layer of this sequence; or NULL */
    sp_candidate *candidates;   /* (workers, vocab) */
} sp_step;

sp_status sp_step_open(const sp_step_options *options, sp_step *out, sp_error *error) SP_MUST_CHECK;
void sp_step_close(sp_step *step);

void sp_step_begin(sp_step *step);
/* Rows that may still be added for this sequence: bounded by rows and, where its prompt is scored, by logits.
 */
uint32_t sp_step_room(const sp_step *step, const sp_sequence *sequence);
/* Adds the next rows of a sequence: 1 when it decodes, 1 .. sp_step_room() when it prefills. Once a step. */
void sp_step_add(sp_step *step, sp_sequence *sequence, uint32_t rows);
/* In place of add: the next rows of a prompt that is run layer by layer. They make a step of their own.
 * SP_NO_MEMORY. */
sp_status sp_step_add_part(sp_step *step, sp_sequence *sequence, uint32_t rows,
                           sp_error *error) SP_MUST_CHECK;
/* Whether that was of the last layer's second pass: the rows are done. */
bool sp_step_part_ends(const sp_step *step);
/* Runs the model and samples. An error is that of the whole step; those of one sequence are in its job
 * (failed). */
sp_status sp_step_run(sp_step *step, sp_error *error) SP_MUST_CHECK;

#endif
