/* See choose.h. */
#include "engine/attention/choose.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define WORTH 0.95 /* of dense's seconds: what costs more is not worth another output */

/* Seconds a token of dense attention: means over the points of one length. */
typedef struct dense_costs {
    double prompt, answer;
} dense_costs;

static uint32_t nearest_length(const sp_sweep *sweep, const sp_choice *choice)
{
    double wanted = (double)choice->n_prompt + choice->n_new, best = INFINITY;
    uint32_t length = 0;
    for (size_t i = 0; i < sweep->n_points; i++) {
        uint32_t measured = sweep->points[i].length;
        double distance = fabs(log((double)measured / wanted));
        if (distance > best || (distance == best && measured <= length)) continue;
        best = distance;
        length = measured;
    }
    return length;
}

static dense_costs mean_costs(const sp_sweep *sweep, uint32_t length)
{
    dense_costs sum = {0, 0};
    double prompts = 0, answers = 0;
    for (size_t i = 0; i < sweep->n_points; i++) {
        const sp_sweep_point *point = &sweep->points[i];
        if (point->length != length) continue;
        sum.prompt += point->prefill_seconds_dense / length;
        prompts++;
        if (isnan(point->decode_seconds_dense)) continue;
        sum.answer += point->decode_seconds_dense;
        answers++;
    }
    return (dense_costs){sum.prompt / prompts, answers > 0 ? sum.answer / answers : 0};
}

static bool in_budget(const sp_sweep_point *point, const sp_choice *choice)
{
    double increase = point->perplexity / point->perplexity_dense - 1;
    bool free = isnan(choice->max_recall_loss) && isnan(choice->max_perplexity_increase);
    if (free) return increase <= 0;
    if (!isnan(choice->max_recall_loss) && !(1 - point->recall <= choice->max_recall_loss)) return false;
    return isnan(choice->max_perplexity_increase) || increase <= choice->max_perplexity_increase;
}

/* Expected seconds as a share of dense's; infinite where the point can't do what is asked. */
static double share_of_dense(const sp_sweep_point *point, const sp_choice *choice, const dense_costs *dense)
{
    double prompt = choice->n_prompt * dense->prompt, answer = choice->n_new * dense->answer;
    double own = prompt * point->prefill_seconds / point->prefill_seconds_dense;
    if (choice->n_new > 0) own += answer * point->decode_seconds / point->decode_seconds_dense;
    double share = own / (prompt + answer);
    return isnan(share) ? INFINITY : share;
}

const sp_sweep_point *sp_choose(const sp_sweep *sweep, const sp_choice *choice, char *reason, size_t room)
{
    if (!sweep || sweep->n_points == 0) {
        (void)snprintf(reason, room, "no sweep.json");
        return NULL;
    }
    uint32_t length = nearest_length(sweep, choice);
    const dense_costs dense = mean_costs(sweep, length);
    const sp_sweep_point *best = NULL;
    double least = WORTH;
    for (size_t i = 0; i < sweep->n_points; i++) {
        const sp_sweep_point *point = &sweep->points[i];
        if (point->length != length || point->sees_later || point->density >= 1 ||
            strcmp(point->device, choice->device) != 0 || !in_budget(point, choice))
            continue;
        double share = share_of_dense(point, choice, &dense);
        if (share >= least || !choice->usable(choice->context, point)) continue;
        least = share;
        best = point;
    }
    if (!best) {
        (void)snprintf(reason, room,
                       "nothing within the budget saves a twentieth of dense's time at %u tokens", length);
        return NULL;
    }
    char value[32] = "", recall[32] = "";
    if (!isnan(best->value)) (void)snprintf(value, sizeof value, " %.6g", best->value);
    if (!isnan(best->recall)) (void)snprintf(recall, sizeof recall, ", recall %.3f", best->recall);
    (void)snprintf(reason, room,
                   "%.40s%s: %.2f of dense's time, perplexity %+.2f %%%s, measured at %u tokens", best->grid,
                   value, least, 100 * (best->perplexity / best->perplexity_dense - 1), recall, length);
    return best;
}
