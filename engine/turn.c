/* One turn of the scheduler (scheduler_parts.h): rows are chosen (rows.h), run (step.h), and what came of
 * them goes to the sequences; then one piece of a call, or of a prompt that is run layer by layer. Tests:
 * tests/unit/engine/test_scheduler.c, test_scheduler_time.c and test_rows.c there */
#include "engine/scheduler_parts.h"

#include "engine/graph/capture.h"
#include "engine/stats.h"

/* Fills the step; returns the number of prefill rows. */
static uint32_t fill_step(sp_scheduler *s)
{
    sp_step_rows rows;
    pthread_mutex_lock(&s->lock);
    bool awaited = s->calls || s->n_waiting > 0;
    pthread_mutex_unlock(&s->lock);
    sp_step_begin(&s->step);
    sp_rows_fill(&s->pace, &s->step, s->running, s->n_running, awaited, &rows);
    pthread_mutex_lock(&s->lock);
    s->n_active = rows.n_active;
    pthread_mutex_unlock(&s->lock);
    return rows.n_prefill;
}

/* Hands the sampled token on. */
static sp_status give_token(sp_scheduler *s, sp_sequence *sequence, const sp_sampled *sampled, double now,
                            bool *finished, sp_finish *finish, sp_error *error)
{
    bool first = sequence->first_token == 0;
    pthread_mutex_lock(&s->lock);
    s->stats.generation_tokens++;
    if (first)
        sp_histogram_add(&s->stats.time_to_first_token, now - sequence->submitted);
    else
        sp_histogram_add(&s->stats.inter_token, now - sequence->last_token);
    pthread_mutex_unlock(&s->lock);
    if (first) {
        sequence->first_token = now;
        sequence->usage.first_token_seconds = now - sequence->submitted;
    }
    sequence->last_token = now;
    return sp_sequence_accept(sequence, sampled, finished, finish, error);
}

/* What the step means to one of its sequences. */
static void deliver(sp_scheduler *s, sp_step_entry *entry, sp_attend_job *job, double now)
{
    sp_sequence *sequence = entry->sequence;
    bool prefilled = sp_sequence_prefills(sequence), finished = false;
    sp_finish finish = SP_FINISH_LENGTH;
    sequence->position += entry->rows;
    if (!job->failed) sp_pages_publish(&s->kv, s->prefix, sequence);
    if (sequence->capture && !job->failed)
        sp_capture_grow(sequence->capture, sequence->tokens, sequence->position);
    if (sequence->completing) {
        finished = true;
        finish = sequence->finish;
    }
    job->phase->tokens += entry->rows;
    if (prefilled) {
        pthread_mutex_lock(&s->lock);
        s->stats.prompt_tokens += entry->rows;
        pthread_mutex_unlock(&s->lock);
        sequence->usage.prefill_seconds = now - sequence->admitted;
        if (!job->failed) sp_stream_push_progress(sequence->stream, sequence->position, sequence->n_prompt);
        if (!sp_sequence_prefills(sequence) && !job->failed) sp_sequence_end_prompt(sequence);
        finished = !sp_sequence_prefills(sequence) && sequence->max_tokens == 0;
    }
    if (!job->failed && entry->samples)
        job->failed = give_token(s, sequence, &entry->sampled, now, &finished, &finish, &job->error) != SP_OK;
    if (job->failed)
        sp_scheduler_end_badly(s, sequence, &job->error);
    else if (finished && sequence->capture && sequence->position < sequence->n_tokens) {
        sequence->completing = true;
        sequence->finish = finish;
    } else if (finished)
        sp_scheduler_end_well(s, sequence, finish);
}

/* Moves a prompt that is run layer by layer on by the rows of a part that was not its last layer's end. */
static void advance(sp_sequence *sequence, uint32_t rows)
{
    sequence->position += rows;
    if (sequence->position < sequence->n_prompt) return;
    sequence->position = 0;
    if (sequence->whole_attends) sequence->whole_layer++;
    sequence->whole_attends = !sequence->whole_attends;
}

/* A part of the oldest prompt that is run layer by layer: some rows through half a layer. Others' steps run
 * in between. */
static bool run_part(sp_scheduler *s)
{
    sp_sequence *sequence = NULL;
    for (uint32_t i = 0; i < s->n_running && !sequence; i++)
        if (s->running[i]->whole && sp_sequence_prefills(s->running[i])) sequence = s->running[i];
    if (!sequence) return false;
    sp_step_begin(&s->step);
    uint32_t rows = sp_rows_part(&s->pace, &s->step, sequence);
    bool attends = sequence->whole_attends;
    double start = s->options.clock();
    sp_error error;
    sp_status status = sp_step_add_part(&s->step, sequence, rows, &error);
    if (status == SP_OK) status = sp_step_run(&s->step, &error);
    if (status == SP_OK) sp_rows_learn_part(&s->pace, attends, rows, s->options.clock() - start);
    sp_attend_job *job = &s->step.jobs[0];
    if (status != SP_OK) {
        job->failed = true;
        job->error = error;
    }
    if (job->failed)
        sp_scheduler_end_badly(s, sequence, &job->error);
    else if (sp_step_part_ends(&s->step))
        deliver(s, &s->step.entries[0], job, s->options.clock());
    else
        advance(sequence, rows);
    return true;
}

/* Runs the oldest call, if there is one. */
static bool run_call(sp_scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    sp_call *entry = s->calls;
    if (entry) s->calls = entry->next;
    pthread_mutex_unlock(&s->lock);
    if (!entry) return false;
    entry->call(entry->context);
    pthread_mutex_lock(&s->lock);
    entry->done = entry->ran = true;
    pthread_cond_broadcast(&s->called);
    pthread_mutex_unlock(&s->lock);
    return true;
}

/* One piece of what runs between steps, a call's or a prompt's that is run layer by layer, in turns where
 * there are both: so decoding waits for one of them at most. */
static bool run_between(sp_scheduler *s)
{
    bool parts = s->part_first;
    s->part_first = !parts;
    if (parts) return run_part(s) || run_call(s);
    return run_call(s) || run_part(s);
}

/* What others published since the last step. */
static void share_pages(sp_scheduler *s)
{
    for (uint32_t i = 0; i < s->n_running; i++) sp_pages_share(&s->kv, s->prefix, s->running[i]);
    pthread_mutex_lock(&s->lock);
    sp_scheduler_note_pages(s);
    pthread_mutex_unlock(&s->lock);
}

bool sp_scheduler_turn(sp_scheduler *s)
{
    share_pages(s);
    uint32_t n_prefill = fill_step(s);
    if (s->step.n_entries == 0) return run_between(s);

    sp_error error;
    double start = s->options.clock();
    sp_status status = sp_step_run(&s->step, &error);
    if (status == SP_OK) sp_rows_learn(&s->pace, &s->step, n_prefill, s->options.clock() - start);
    pthread_mutex_lock(&s->lock);
    sp_stats_step(&s->stats, (uint32_t)s->step.n_rows);
    pthread_mutex_unlock(&s->lock);
    double now = s->options.clock();
    for (size_t i = 0; i < s->step.n_entries; i++) {
        sp_attend_job *job = &s->step.jobs[i];
        if (status != SP_OK) {
            job->failed = true;
            job->error = error;
        }
        deliver(s, &s->step.entries[i], job, now);
    }
    (void)run_between(s);
    return true;
}
