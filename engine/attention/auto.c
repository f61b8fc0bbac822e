/* auto: the attention that a sweep of this model found fastest within the request's budgets (choose.h).
 *
 * It is put in the place of `auto` when a request comes, before anything is planned (sp_attention_choose),
 * and reported with the reason. Where no request is, as in `sparsed attend`, auto is dense. Tests:
 * tests/unit/engine/test_choose.c, tests/golden/test_auto.py */
#include "engine/attention/auto.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const sp_param params[] = {
    {.name = "max_recall_loss",
     .summary = "how much of the gold graph may be missed, as measured by sparsed sweep",
     .type = SP_PARAM_NUMBER,
     .fallback = (double)NAN,
     .min = 0,
     .max = 1},
    {.name = "max_perplexity_increase",
     .summary = "how much the perplexity may exceed that of dense attention; .02 is 2 %; without a budget "
                "not at all",
     .type = SP_PARAM_NUMBER,
     .fallback = (double)NAN,
     .min = 0,
     .max = 1000},
};

static sp_status plan_dense(const sp_plan_request *request, sp_plan *out, sp_error *error)
{
    return sp_backend_find("dense", 5)->plan(request, out, error);
}

const sp_backend sp_backend_auto = {
    .name = "auto",
    .summary = "the fastest within a budget, by sweep.json beside the model; without it dense",
    .caps = SP_CAP_STATIC | SP_CAP_STREAMING | SP_CAP_BIDIRECTIONAL | SP_CAP_CROSS,
    .params = params,
    .n_params = sizeof params / sizeof *params,
    .plan = plan_dense,
};

static void be_dense(sp_attention *attention)
{
    attention->backend = sp_backend_find("dense", 5);
    memset(attention->params, 0, sizeof attention->params);
}

typedef struct chooser {
    const sp_auto_request *request;
    sp_attention parsed; /* of the point that was found usable last */
    sp_status status;    /* SP_NO_MEMORY: whether a point is usable is not known */
} chooser;

/* Whether this model can generate with the point's attention: its fit has what it asks for. */
static bool is_usable(void *context, const sp_sweep_point *point)
{
    chooser *self = context;
    const sp_auto_request *request = self->request;
    sp_attention parsed;
    sp_status status =
        sp_attention_parse(point->attention, strlen(point->attention), request->host, &parsed, NULL);
    if (status == SP_OK)
        status = sp_attention_resolve(&parsed, request->fit, 0, request->n_layers, SP_ATTEND_SELF, NULL);
    if (status == SP_NO_MEMORY) self->status = status;
    if (status != SP_OK || parsed.backend == &sp_backend_auto || !sp_attention_streams(&parsed)) return false;
    self->parsed = parsed;
    return true;
}

sp_status sp_attention_choose(sp_attention *attention, const sp_auto_request *request, sp_error *error)
{
    if (attention->backend != &sp_backend_auto) return SP_OK;
    chooser self = {.request = request};
    const sp_choice choice = {.n_prompt = request->n_prompt,
                              .n_new = request->n_new,
                              .max_recall_loss = attention->params[0],
                              .max_perplexity_increase = attention->params[1],
                              .device = request->device,
                              .usable = is_usable,
                              .context = &self};
    const sp_sweep_point *point = NULL;
    if (attention->normalizer.alpha != request->measured.alpha)
        (void)snprintf(attention->reason, sizeof attention->reason,
                       "a sweep measures the model's own normalizer, the request has another");
    else
        point = sp_choose(request->sweep, &choice, attention->reason, sizeof attention->reason);
    if (self.status != SP_OK) return sp_fail(error, self.status, "no memory for the choice of auto");
    if (!point) {
        be_dense(attention);
        return SP_OK;
    }
    attention->backend = self.parsed.backend;
    attention->heads = self.parsed.heads;
    attention->seed = self.parsed.seed;
    memcpy(attention->params, self.parsed.params, sizeof attention->params);
    memcpy(attention->notes, self.parsed.notes, sizeof attention->notes);
    return SP_OK;
}

void sp_attention_settle(sp_attention *attention)
{
    if (attention->backend != &sp_backend_auto) return;
    (void)snprintf(attention->reason, sizeof attention->reason, "no sweep.json");
    be_dense(attention);
}
