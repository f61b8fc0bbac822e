/* See rows.h. */
#include "engine/rows.h"

static uint32_t tile_of(const sp_step *step)
{
    uint32_t most = step->options.max_chunk;
    return most < SP_TILE ? most : SP_TILE;
}

/* Rows that take so many seconds: a tile at least, a chunk at most. */
static uint32_t rows_in(const sp_step *step, double seconds, double row_seconds)
{
    uint32_t least = tile_of(step), most = step->options.max_chunk;
    if (!(row_seconds > 0)) return least;
    double rows = seconds / row_seconds;
    return rows <= least ? least : rows >= most ? most : (uint32_t)rows;
}

static uint32_t rest_of(const sp_sequence *sequence)
{
    return sequence->n_prompt - sequence->position;
}

/* Rows of the next chunk of a prompt: ends at a multiple of 64 where it does not end the prompt. */
static uint32_t chunk_rows(const sp_step *step, const sp_sequence *sequence, uint32_t budget, bool first)
{
    uint32_t left = rest_of(sequence), room = sp_step_room(step, sequence);
    uint32_t rows = budget < room ? budget : room;
    if (rows >= left) return left;
    uint32_t end = (sequence->position + rows) / SP_TILE * SP_TILE;
    if (end > sequence->position) return end - sequence->position;
    return first ? rows : 0;
}

/* The prompts that have a place: among running[begin .. end). */
typedef struct prompts {
    sp_sequence *const *running;
    uint32_t end;
    sp_sequence *oldest; /* NULL: there are none */
    uint64_t others;     /* rows that the others still need */
} prompts;

static bool takes_rows(const sp_sequence *sequence)
{
    return sp_sequence_prefills(sequence) && !sequence->whole;
}

/* The one with the shortest rest behind (rest, at) in the order of rests, then of admission; NULL: none. */
static sp_sequence *next_shortest(const prompts *p, uint32_t *rest, uint32_t *at)
{
    sp_sequence *best = NULL;
    uint32_t best_rest = 0, best_at = 0;
    for (uint32_t i = 0; i < p->end; i++) {
        sp_sequence *sequence = p->running[i];
        if (!takes_rows(sequence) || sequence == p->oldest) continue;
        uint32_t own = rest_of(sequence);
        if (own < *rest || (own == *rest && i <= *at)) continue;
        if (best && own >= best_rest) continue;
        best = sequence;
        best_rest = own;
        best_at = i;
    }
    *rest = best_rest;
    *at = best_at;
    return best;
}

/* Gives the others up to budget rows, the shortest first. */
static uint32_t add_others(sp_step *step, const prompts *p, uint32_t budget, bool first)
{
    uint32_t rest = 0, at = 0, given = 0;
    for (sp_sequence *next; given < budget && (next = next_shortest(p, &rest, &at));) {
        uint32_t rows = chunk_rows(step, next, budget - given, first && given == 0);
        if (rows == 0) break;
        sp_step_add(step, next, rows);
        given += rows;
    }
    return given;
}

static uint32_t add_oldest(sp_step *step, const prompts *p, uint32_t budget, bool first)
{
    uint32_t rows = budget > 0 ? chunk_rows(step, p->oldest, budget, first) : 0;
    if (rows > 0) sp_step_add(step, p->oldest, rows);
    return rows;
}

static int64_t clip(int64_t value, int64_t bound)
{
    return value < -bound ? -bound : value > bound ? bound : value;
}

/* Gives prompts budget rows; returns how many they took. The oldest one's share is half of them and what it
 * is behind, for chunks are cut at tiles; where less than a tile is left of its share, as after a step of a
 * single tile, it is the others' turn. */
static uint32_t add_prompts(sp_pace *pace, sp_step *step, const prompts *p, uint32_t budget)
{
    if (p->others == 0) return add_oldest(step, p, budget, true);
    int64_t half = budget / 2 > tile_of(step) ? budget / 2 : tile_of(step), share = half + pace->owed;
    uint32_t mine, given;
    if (share >= tile_of(step)) {
        uint32_t spare = p->others < budget ? budget - (uint32_t)p->others : 0;
        uint32_t limit = share > budget ? budget : share > spare ? (uint32_t)share : spare;
        mine = add_oldest(step, p, limit, true);
        given = mine < budget ? add_others(step, p, budget - mine, false) : 0;
        pace->owed += (int64_t)given - (mine < share ? mine : share);
    } else {
        given = add_others(step, p, budget, true);
        mine = add_oldest(step, p, given < budget ? budget - given : 0, false);
        pace->owed += given;
    }
    pace->owed = clip(pace->owed, step->options.max_chunk);
    return mine + given;
}

void sp_rows_fill(sp_pace *pace, sp_step *step, sp_sequence *const *running, uint32_t n_running, bool awaited,
                  sp_step_rows *out)
{
    prompts p = {.running = running};
    *out = (sp_step_rows){0};
    for (; p.end < n_running && out->n_active < step->options.max_sequences; p.end++) {
        sp_sequence *sequence = running[p.end];
        bool prefills = sp_sequence_prefills(sequence);
        if (!prefills && !sequence->completing && !sp_stream_has_room(sequence->stream)) continue;
        out->n_active++;
        if (!prefills)
            sp_step_add(step, sequence, 1);
        else if (!sequence->whole && !p.oldest)
            p.oldest = sequence;
        else if (!sequence->whole)
            p.others += rest_of(sequence);
    }
    if (!p.oldest) return;
    double left = pace->step_seconds - (step->n_entries > 0 ? pace->decode_seconds : 0);
    if (out->n_active == 1 && !awaited) left *= SP_ALONE_STEPS;
    out->n_prefill = add_prompts(pace, step, &p, rows_in(step, left, pace->prefill_row_seconds));
}

/* --- what rows take --- */

static void smooth(double *mean, double value)
{
    *mean = *mean > 0 ? *mean + 0.3 * (value - *mean) : value;
}

void sp_rows_learn(sp_pace *pace, const sp_step *step, uint32_t n_prefill, double seconds)
{
    if (n_prefill == 0) {
        smooth(&pace->decode_seconds, seconds);
        return;
    }
    bool decodes = step->n_rows > n_prefill;
    double prefill = seconds - (decodes ? pace->decode_seconds : 0);
    if (prefill < 0.25 * seconds) prefill = 0.25 * seconds;
    smooth(&pace->prefill_row_seconds, prefill / n_prefill);
}

uint32_t sp_rows_part(const sp_pace *pace, const sp_step *step, const sp_sequence *sequence)
{
    uint32_t left = rest_of(sequence), most = step->options.max_chunk;
    uint32_t n_layers = step->options.model->hparams.n_layers;
    uint32_t rows = rows_in(step, pace->step_seconds, pace->part_row_seconds[sequence->whole_attends]);
    bool ends = sequence->whole_attends && sequence->whole_layer + 1 == n_layers;
    if (ends && sp_step_room(step, sequence) < most) most = sp_step_room(step, sequence);
    if (rows > most) rows = most;
    if (rows >= left) return left;
    return rows < SP_TILE ? rows : rows / SP_TILE * SP_TILE;
}

void sp_rows_learn_part(sp_pace *pace, bool attends, uint32_t rows, double seconds)
{
    smooth(&pace->part_row_seconds[attends], seconds / rows);
}
