/* Scans of one block of rows over one part of the keys, in steps of up to 128 tiles: scores, what is above
 * the rows' floors, and for the nearest the candidates.
 *
 * A row of which nothing is known yet guesses its floor: every eighth tile that all rows may take is scored
 * first, and the floor set so that some more than `keep` keys of the step exceed it if they are like those.
 * All other tiles are compared with it while their scores are in registers. Where fewer exceed it the guess
 * is dropped and the step taken from its scores, so that guesses change the time and no result. Tests:
 * tests/kernels/test_predict.c */
#include "kernels/cpu/predict_scan.h"

#define FEW_ROWS 4     /* rows that compute less than it takes to bring a tile */
#define GUESS_TILES 16 /* least whole tiles of a step whose floors are guessed */
#define GUESS_EVERY 8

/* Tiles first .. first + n - 1; n: none behind has a key that a row may take. */
typedef struct step {
    uint32_t first, n;
    uint32_t whole[2]; /* of which every row may take all keys: from, to; counted from first */
    float floors[SP_SCAN_ROWS];
    uint64_t allowed[SP_SCAN_ROWS][SP_SCAN_STEP], words[SP_SCAN_ROWS][SP_SCAN_STEP];
} step;

static uint64_t interval_bits(uint32_t tile, uint32_t begin, uint32_t end)
{
    uint64_t low = (uint64_t)tile * SP_TILE, high = low + SP_TILE;
    uint64_t from = begin > low ? begin : low, to = end < high ? end : high;
    if (from >= to) return 0;
    return UINT64_MAX >> (SP_TILE - (to - from)) << (from - low);
}

static uint64_t allowed_bits(const sp_scan_row *row, uint32_t tile)
{
    return interval_bits(tile, row->begin[0], row->end[0]) | interval_bits(tile, row->begin[1], row->end[1]);
}

/* Which keys of tiles from .. to - 1 of a step the rows may take; at->n: up to which tile there are any. */
static void allow_tiles(const sp_scan_block *b, step *at, uint32_t from, uint32_t to)
{
    for (size_t i = 0; i < b->n; i++)
        for (uint32_t j = from; j < to; j++) {
            at->allowed[i][j] = allowed_bits(&b->rows[i], at->first + j);
            if (at->allowed[i][j] && j >= at->n) at->n = j + 1;
        }
}

static uint32_t clip(uint32_t tile, uint32_t first, uint32_t n)
{
    return tile < first ? 0 : tile - first < n ? tile - first : n;
}

/* A step of at most n tiles. */
static void allow_step(const sp_scan_block *b, uint32_t first, uint32_t n, step *at)
{
    at->first = first;
    at->whole[0] = clip(b->whole[0], first, n);
    at->whole[1] = clip(b->whole[1], first, n);
    if (at->whole[0] > at->whole[1]) at->whole[0] = at->whole[1];
    for (size_t i = 0; i < b->n; i++)
        for (uint32_t j = at->whole[0]; j < at->whole[1]; j++) at->allowed[i][j] = UINT64_MAX;
    at->n = at->whole[1] > at->whole[0] ? at->whole[1] : 0;
    allow_tiles(b, at, 0, at->whole[0]);
    allow_tiles(b, at, at->whole[1], n);
}

static bool dots_bf16(const sp_scan *s)
{
    return s->args->keys.dtype == SP_BF16 && s->args->metric == SP_METRIC_DOT && s->slots->dot_run_bf16;
}

static void score(const sp_scan *s, const sp_scan_run *run)
{
    if (dots_bf16(s)) {
        s->slots->dot_run_bf16(run);
        return;
    }
    for (uint32_t t = run->first; t < run->end; t += run->every) {
        if (sp_scan_scored(run, t)) continue;
        sp_scan_tile tile = run->tile;
        sp_scan_ask(run, t);
        tile.k = run->pages[t] + run->offset;
        tile.near = run->near + (size_t)t * SP_TILE;
        if (s->args->keys.dtype == SP_BF16)
            s->slots->near_bf16(&tile);
        else
            s->slots->near_f32(&tile);
        for (size_t i = 0; i < tile.rows && run->floors; i++)
            run->marks[i * SP_SCAN_STEP + t] =
                s->slots->above(tile.near + i * tile.near_stride, run->floors[i]);
    }
}

/* All tiles of a step. */
static sp_scan_run run_of(const sp_scan *s, const sp_scan_block *b, step *at)
{
    const sp_scan_args *args = s->args;
    bool rootless = args->metric == SP_METRIC_EUCLIDEAN && s->top; /* the root would only make ties */
    return (sp_scan_run){.tile = {.rows = b->n,
                                  .rank = args->keys.rank,
                                  .stride = s->stride,
                                  .metric = rootless ? SP_METRIC_L2 : args->metric,
                                  .q = b->scratch.q,
                                  .pairs = b->scratch.pairs,
                                  .lengths = b->scratch.lengths,
                                  .near_stride = SP_SCAN_STEP * SP_TILE},
                         .end = at->n,
                         .every = 1,
                         .pages = args->keys.pages + at->first,
                         .offset = b->map * args->keys.map_bytes,
                         .ahead = b->n <= FEW_ROWS ? args->keys.map_bytes : 0,
                         .near = b->scratch.near,
                         .marks = at->words[0]};
}

void sp_scan_mask_part(const sp_scan *s, const sp_scan_block *b, uint32_t begin, uint32_t end)
{
    const sp_scan_args *args = s->args;
    step at;
    for (size_t i = 0; i < b->n; i++) {
        float threshold = args->thresholds[b->rows[i].head];
        at.floors[i] = args->metric == SP_METRIC_DOT ? threshold : -threshold;
    }
    for (uint32_t t = begin; t < end; t += SP_SCAN_STEP) {
        uint32_t n = end - t < SP_SCAN_STEP ? end - t : SP_SCAN_STEP;
        allow_step(b, t, n, &at);
        sp_scan_run run = run_of(s, b, &at);
        run.floors = at.floors;
        if (dots_bf16(s)) run.near = NULL;
        score(s, &run);
        for (size_t i = 0; i < b->n; i++) {
            size_t row = (size_t)b->rows[i].head * args->rows + b->rows[i].row;
            uint64_t *words = args->words + row * s->tiles + t;
            for (uint32_t j = 0; j < at.n; j++) words[j] = at.allowed[i][j] & at.words[i][j];
            memset(words + at.n, 0, (n - at.n) * sizeof *words);
        }
    }
}

/* --- the nearest --- */

/* Scores every eighth of the tiles that all rows may take, guesses the floors of the rows that have none by
 * them, and marks what is above. run: of the step; takes them as scored. */
static void guess_floors(const sp_scan *s, step *at, sp_scan_run *run)
{
    sp_scan_run sample = *run;
    sample.first = at->whole[0];
    sample.end = at->whole[1];
    sample.every = GUESS_EVERY;
    score(s, &sample);
    s->slots->guess(&sample, s->args->keep, at->floors);
    for (uint32_t t = sample.first; t < sample.end; t += GUESS_EVERY) {
        run->scored[t / 64] |= (uint64_t)1 << t % 64;
        for (size_t i = 0; i < run->tile.rows; i++)
            at->words[i][t] =
                s->slots->above(run->near + i * run->tile.near_stride + (size_t)t * SP_TILE, at->floors[i]);
    }
}

/* Scores a step and marks what is above the floors, guessed where rows have none; false: nothing is marked.
 */
static bool score_step(const sp_scan *s, const sp_scan_block *b, step *at)
{
    sp_scan_run run = run_of(s, b, at);
    bool open = false;
    for (size_t i = 0; i < b->n; i++) {
        at->floors[i] = b->best[i].floor;
        open |= at->floors[i] == -INFINITY;
    }
    const bool marked = s->slots->guess && (!open || at->whole[1] - at->whole[0] >= GUESS_TILES);
    if (marked && open) guess_floors(s, at, &run);
    if (marked) run.floors = at->floors;
    score(s, &run);
    for (size_t i = 0; i < b->n && marked; i++) {
        for (uint32_t j = 0; j < at->whole[0]; j++) at->words[i][j] &= at->allowed[i][j];
        for (uint32_t j = at->whole[1]; j < at->n; j++) at->words[i][j] &= at->allowed[i][j];
    }
    return marked;
}

/* A floor that was guessed holds if it leaves enough keys. */
static bool floor_holds(const sp_scan *s, const sp_scan_best *best, const step *at, size_t i)
{
    if (best->floor > -INFINITY) return true;
    return at->floors[i] > -INFINITY && s->slots->count_bits(at->words[i], at->n) >= s->args->keep;
}

void sp_scan_top_part(const sp_scan *s, sp_scan_block *b, uint32_t begin, uint32_t end)
{
    size_t keep = s->args->keep;
    step at;
    for (uint32_t t = begin; t < end; t += SP_SCAN_STEP) {
        allow_step(b, t, end - t < SP_SCAN_STEP ? end - t : SP_SCAN_STEP, &at);
        if (!at.n) continue;
        bool marked = score_step(s, b, &at);
        for (size_t i = 0; i < b->n; i++) {
            const float *near = b->scratch.near + i * SP_SCAN_STEP * SP_TILE;
            sp_scan_best *best = &b->best[i];
            if (marked && floor_holds(s, best, &at, i)) {
                best->floor = at.floors[i];
                s->slots->gather(near, at.words[i], at.n, t * SP_TILE, best);
            } else {
                s->slots->take(near, at.allowed[i], at.n, t * SP_TILE, keep, best);
            }
            if (best->n > s->full) s->slots->shrink(best, keep, keep + keep / 4);
            if (s->parts > 1) sp_scan_share(s, b, i);
        }
    }
}
