/* What a plain reply keeps while its choices are computed, and how many bytes that is (generation.h).
 *
 * A choice that is done gives its stream back: of the stream's memory only the report stays, and what was
 * scored of the prompt, once for all choices of that prompt. What is kept counts against the server's budget
 * for replies (sp_exchange_hold), in steps of HOLD_STEP, so that a request of many choices with large
 * logprobs is refused before it breaks the memory ceiling. Tests: tests/http/test_ceiling.py */
#include <string.h>

#include "server/generation.h"

#define HOLD_STEP ((size_t)64 << 10)

static void *copy(const void *from, size_t count, size_t size)
{
    void *to = from ? sp_alloc(count, size) : NULL;
    if (to) memcpy(to, from, count * size);
    return to;
}

sp_status sp_generation_keep(sp_generation *g, sp_choice *c, sp_error *error)
{
    sp_scored *scored = &g->scored[c->prompt - g->asked.prompts];
    sp_event *last = &c->last;
    size_t n = c->prompt->n_ids, n_top = g->asked.request.logprobs;
    bool first = last->prompt_logprobs && !scored->logprobs;
    if (first) scored->logprobs = copy(last->prompt_logprobs, n, sizeof *scored->logprobs);
    if (first) scored->top = copy(last->prompt_top, n * n_top, sizeof *scored->top);
    sp_buffer_append(&c->report, last->report, last->report_size);
    bool enough = !c->report.failed && (!last->prompt_logprobs || scored->logprobs) &&
                  (!last->prompt_top || scored->top);
    last->report = last->report ? c->report.data : NULL;
    last->prompt_logprobs = scored->logprobs;
    last->prompt_top = scored->top;
    last->text = NULL;
    last->text_size = 0;
    last->prompt_ids = NULL;
    sp_stream_free(c->stream);
    c->stream = NULL;
    return enough ? SP_OK : sp_fail(error, SP_NO_MEMORY, "no memory for the reply");
}

void sp_generation_drop_captures(sp_generation *g)
{
    for (size_t i = 0; g->choices && i < g->n_started; i++) {
        const sp_choice *c = &g->choices[i];
        if (c->attention_id[0] && !c->told)
            sp_captures_drop(g->captures, c->attention_id, g->asked.request.owner);
    }
}

static size_t choice_bytes(const sp_choice *c)
{
    return sizeof *c + c->text.capacity + c->rows.tokens.capacity + c->rows.logprobs.capacity +
           c->rows.tops.capacity + c->report.capacity;
}

sp_status sp_generation_count(sp_exchange *exchange, sp_generation *g, sp_choice *c, sp_error *error)
{
    size_t row = sizeof(float) + g->asked.request.logprobs * sizeof(sp_token_logprob);
    size_t held = choice_bytes(c);
    /* the first choice stands for its prompt */
    if (c->index % g->asked.n == 0) {
        held += g->texts[c->prompt - g->asked.prompts].capacity + c->prompt->n_ids * sizeof(int32_t);
        if (g->asked.request.prompt_logprobs) held += c->prompt->n_ids * row;
    }
    g->held += held - c->held;
    c->held = held;
    if (g->held <= g->reserved) return SP_OK;
    size_t wanted = (g->held / HOLD_STEP + 1) * HOLD_STEP;
    if (!sp_exchange_hold(exchange, wanted))
        return sp_fail(error, SP_UNAVAILABLE,
                       "replies take too much memory just now; ask for fewer choices or logprobs at once, or "
                       "\"stream\": true");
    g->reserved = wanted;
    return SP_OK;
}
