/* Unigram language model segmentation (Kudo 2018): of all ways to cut a piece into tokens the one with the
 * largest sum of log probabilities, found by dynamic programming from left to right (Viterbi).
 *
 * best(e) = max over tokens t that end at e of best(e - |t|) + score(t); a character that is no token by
 * itself may be unknown for the least score of all minus 10. Among equals the one found first, from the left
 * and the shortest, stays. Scores are added in double, as the Hugging Face library does. The work is the
 * length times that of walking the prefixes at a place. Tests: tests/unit/models/test_tokenizer_models.c,
 * tests/golden/test_tokenizers.c */
#include "models/unigram.h"

#include <string.h>

#include "models/unicode.h"

#define UNKNOWN_PENALTY 10.0
#define UNREACHED UINT32_MAX

typedef struct sp_unigram_node {
    double score;
    uint32_t start; /* of the token that ends here; UNREACHED: none */
    int32_t id;
} node;

sp_status sp_unigram_init(sp_unigram *unigram, const sp_vocab *vocab, double *scores, int32_t n,
                          int32_t unknown, sp_error *error)
{
    *unigram = (sp_unigram){.scores = scores, .unknown = unknown};
    sp_status status = sp_prefixes_init(&unigram->pieces, (size_t)n, error);
    if (status != SP_OK) return status;
    double least = n ? scores[0] : 0;
    for (int32_t id = 0; id < n; id++) {
        sp_prefixes_add(&unigram->pieces, vocab->pieces[id], strlen(vocab->pieces[id]), id);
        if (scores[id] < least) least = scores[id];
    }
    unigram->unknown_score = least - UNKNOWN_PENALTY;
    sp_prefixes_index(&unigram->pieces);
    return SP_OK;
}

void sp_unigram_fini(sp_unigram *unigram)
{
    sp_prefixes_fini(&unigram->pieces);
    sp_free(unigram->scores);
    *unigram = (sp_unigram){0};
}

void sp_unigram_scratch_fini(sp_unigram_scratch *scratch)
{
    sp_free(scratch->nodes);
    *scratch = (sp_unigram_scratch){0};
}

static bool reserve(sp_unigram_scratch *scratch, size_t n)
{
    if (n <= scratch->capacity) return true;
    sp_unigram_scratch_fini(scratch);
    scratch->nodes = sp_alloc(n + n / 2, sizeof *scratch->nodes);
    scratch->capacity = scratch->nodes ? n + n / 2 : 0;
    return scratch->nodes;
}

static void offer(node *target, double score, size_t start, int32_t id)
{
    if (target->start == UNREACHED || score > target->score)
        *target = (node){.score = score, .start = (uint32_t)start, .id = id};
}

/* Fills nodes[1..n], the ends of the best segmentations of text[begin, begin + n). */
static void find_best(const sp_unigram *unigram, node *nodes, const char *text, size_t begin, size_t n)
{
    size_t length;
    nodes[0] = (node){0};
    for (size_t i = 1; i <= n; i++) nodes[i].start = UNREACHED;
    for (size_t place = 0; place < n; place += length) {
        double score = nodes[place].score;
        bool covered = false;
        sp_prefix_walk walk;
        sp_utf8_decode(text + begin + place, &length);
        sp_prefix_start(&unigram->pieces, text, begin + place, begin + n, &walk);
        for (const sp_prefix *p; (p = sp_prefix_next(&unigram->pieces, &walk));) {
            offer(&nodes[place + p->size], score + unigram->scores[p->value], place, p->value);
            covered = covered || p->size == length;
        }
        if (!covered) offer(&nodes[place + length], score + unigram->unknown_score, place, unigram->unknown);
    }
}

static void reverse(sp_token *tokens, size_t n)
{
    for (size_t i = 0; i < n / 2; i++) {
        sp_token swapped = tokens[i];
        tokens[i] = tokens[n - 1 - i];
        tokens[n - 1 - i] = swapped;
    }
}

bool sp_unigram_encode(const sp_unigram *unigram, sp_unigram_scratch *scratch, const char *text, size_t begin,
                       size_t end, sp_tokens *out)
{
    size_t n = end - begin, first = out->count;
    if (!reserve(scratch, n + 1)) return false;
    find_best(unigram, scratch->nodes, text, begin, n);
    for (size_t place = n; place > 0; place = scratch->nodes[place].start) {
        const node *last = &scratch->nodes[place];
        sp_token *behind = out->count > first ? &out->data[out->count - 1] : NULL;
        if (behind && last->id == unigram->unknown && behind->id == unigram->unknown)
            behind->begin = (uint32_t)(begin + last->start);
        else if (!sp_tokens_push(out, last->id, begin + last->start, begin + place))
            return false;
    }
    reverse(out->data + first, out->count - first);
    return true;
}
