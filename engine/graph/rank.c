/* See rank.h. */
#include "engine/graph/rank.h"

#include <stdlib.h>
#include <string.h>

#define FEW 24u /* so many are sorted */

uint64_t sp_rank_pack(float weight, uint32_t place)
{
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return (uint64_t)bits << 32 | (UINT32_MAX - place);
}

uint32_t sp_rank_place(uint64_t entry)
{
    return UINT32_MAX - (uint32_t)entry;
}

float sp_rank_weight(uint64_t entry)
{
    uint32_t bits = (uint32_t)(entry >> 32);
    float weight;
    memcpy(&weight, &bits, sizeof weight);
    return weight;
}

static int descending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

void sp_rank_sort(uint64_t *entries, size_t n)
{
    qsort(entries, n, sizeof *entries, descending);
}

static void swap(uint64_t *entries, size_t a, size_t b)
{
    uint64_t held = entries[a];
    entries[a] = entries[b];
    entries[b] = held;
}

static uint64_t middle_of(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t low = a < b ? a : b, high = a < b ? b : a;
    return c < low ? low : c > high ? high : c;
}

/* Places of the pivot are drawn, so that no row is slow by its shape; the result does not depend on them. */
static uint64_t draw_pivot(const uint64_t *entries, size_t low, size_t high, uint64_t *state)
{
    uint64_t drawn[3];
    for (int i = 0; i < 3; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        drawn[i] = entries[low + (*state >> 33) % (high - low)];
    }
    return middle_of(drawn[0], drawn[1], drawn[2]);
}

/* Larger entries before the pivot, smaller ones behind it; returns its place. All entries differ. */
static size_t part(uint64_t *entries, size_t low, size_t high, uint64_t pivot)
{
    size_t middle = low, place = low;
    for (size_t i = low; i < high; i++) {
        if (entries[i] < pivot) continue;
        swap(entries, i, middle);
        if (entries[middle] == pivot) place = middle;
        middle++;
    }
    swap(entries, place, middle - 1);
    return middle - 1;
}

uint64_t sp_rank_find(uint64_t *entries, size_t n, size_t k)
{
    size_t low = 0, high = n;
    uint64_t state = n;
    while (high - low > FEW) {
        size_t place = part(entries, low, high, draw_pivot(entries, low, high, &state));
        if (place + 1 == k) return entries[place];
        if (place + 1 < k)
            low = place + 1;
        else
            high = place;
    }
    sp_rank_sort(entries + low, high - low);
    return entries[k - 1];
}

uint64_t sp_rank_find_mass(uint64_t *entries, size_t n, double mass)
{
    size_t low = 0, high = n;
    uint64_t state = n;
    double before = 0; /* of the entries below low */
    while (high - low > FEW) {
        size_t place = part(entries, low, high, draw_pivot(entries, low, high, &state));
        double upper = 0;
        for (size_t i = low; i < place; i++) upper += (double)sp_rank_weight(entries[i]);
        if (before + upper >= mass) {
            high = place;
            continue;
        }
        before += upper + (double)sp_rank_weight(entries[place]);
        if (before >= mass) return entries[place];
        low = place + 1;
    }
    sp_rank_sort(entries + low, high - low);
    for (size_t i = low; i < n; i++) {
        before += (double)sp_rank_weight(entries[i]);
        if (before >= mass) return entries[i];
    }
    return 0;
}
