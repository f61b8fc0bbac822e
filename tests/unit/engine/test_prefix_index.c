/* The index of prefixes (engine/prefix.h): pages are found by key, page before and tokens, also where all
 * hashes are the same; those cached for longest are dropped first, the last of a chain before the others; and
 * against a model that remembers everything, in random order. */
#include "tests/support/test.h"
#include "tests/support/random.h"

#include <string.h>

#include "engine/prefix.h"

enum { PAGES = 24, TOKENS = SP_PAGE_TOKENS };

typedef struct fixture {
    sp_kv kv;
    sp_prefix *prefix;
} fixture;

static void open_fixture(fixture *f, uint64_t hash_mask)
{
    sp_error error;
    const sp_kv_options options = {
        .n_layers = 1, .n_kv_heads = 1, .head_dim = 2, .dtype = SP_F32, .n_pages = PAGES, .poison = true};
    assert_ok(sp_kv_open(&options, &f->kv, &error), error);
    assert_ok(sp_prefix_open(&f->kv, hash_mask, &f->prefix, &error), error);
}

static void close_fixture(fixture *f)
{
    assert_int_equal(sp_kv_used(&f->kv), 0);
    assert_int_equal(f->kv.n_cached, sp_prefix_count(f->prefix));
    assert_int_equal(sp_kv_available(&f->kv), PAGES);
    sp_prefix_close(f->prefix);
    sp_kv_close(&f->kv);
}

static void fill_tokens(int32_t *tokens, uint32_t what)
{
    for (uint32_t i = 0; i < TOKENS; i++) tokens[i] = (int32_t)(what * 1000 + i);
}

static const uint8_t *key_of(uint8_t who)
{
    static uint8_t key[SP_PREFIX_KEY_BYTES];
    memset(key, 0, sizeof key);
    key[SP_PREFIX_KEY_BYTES - 1] = who;
    return key;
}

static uint32_t find(fixture *f, uint8_t who, uint32_t before, uint32_t what)
{
    int32_t tokens[TOKENS];
    fill_tokens(tokens, what);
    return sp_prefix_find(f->prefix, key_of(who), before, tokens);
}

/* Takes a page and publishes it. */
static uint32_t add(fixture *f, uint8_t who, uint32_t before, uint32_t what)
{
    int32_t tokens[TOKENS];
    uint32_t page;
    fill_tokens(tokens, what);
    assert_true(sp_kv_take(&f->kv, 1, &page));
    sp_prefix_add(f->prefix, key_of(who), before, tokens, page);
    return page;
}

/* Key, place and every token count, with hashes that never say anything too. */
static void test_what_counts(void **state)
{
    (void)state;
    const uint64_t masks[] = {UINT64_MAX, 3, 0};
    for (size_t m = 0; m < COUNT_OF(masks); m++) {
        fixture f;
        int32_t tokens[TOKENS];
        open_fixture(&f, masks[m]);
        uint32_t a = add(&f, 1, SP_NO_PAGE, 7), b = add(&f, 1, a, 8), c = add(&f, 1, b, 7);
        uint32_t other = add(&f, 2, SP_NO_PAGE, 7);
        assert_int_equal(find(&f, 1, SP_NO_PAGE, 7), a);
        assert_int_equal(find(&f, 2, SP_NO_PAGE, 7), other);
        assert_int_equal(find(&f, 3, SP_NO_PAGE, 7), SP_NO_PAGE);
        assert_int_equal(find(&f, 1, a, 8), b);
        assert_int_equal(find(&f, 1, b, 7), c);
        assert_int_equal(find(&f, 1, SP_NO_PAGE, 8), SP_NO_PAGE);
        assert_int_equal(find(&f, 1, a, 7), SP_NO_PAGE);
        assert_int_equal(find(&f, 1, other, 8), SP_NO_PAGE);
        for (uint32_t i = 0; i < TOKENS; i++) {
            fill_tokens(tokens, 7);
            tokens[i]++;
            assert_int_equal(sp_prefix_find(f.prefix, key_of(1), SP_NO_PAGE, tokens), SP_NO_PAGE);
        }
        const uint32_t all[] = {a, b, c};
        sp_kv_give(&f.kv, 3, all);
        sp_kv_give(&f.kv, 1, &other);
        close_fixture(&f);
    }
}

/* What nobody holds goes when its room is needed: what was let go first, and of one chain its end. */
static void test_oldest_first(void **state)
{
    (void)state;
    fixture f;
    uint32_t old[3], young[2], rest[PAGES];
    open_fixture(&f, UINT64_MAX);
    for (uint32_t i = 0; i < 3; i++) old[i] = add(&f, 1, i ? old[i - 1] : SP_NO_PAGE, i);
    for (uint32_t i = 0; i < 2; i++) young[i] = add(&f, 2, i ? young[i - 1] : SP_NO_PAGE, i);
    sp_kv_give(&f.kv, 3, old);
    sp_kv_give(&f.kv, 2, young);
    assert_int_equal(f.kv.n_cached, 5);
    assert_true(sp_kv_take(&f.kv, PAGES - 5, rest)); /* all that are free: nothing is dropped */
    assert_int_equal(f.kv.n_cached, 5);
    for (uint32_t n = 1; n <= 3; n++) {
        assert_true(sp_kv_take(&f.kv, 1, rest + PAGES - 6 + n));
        assert_int_equal(sp_prefix_count(f.prefix), 5 - n);
        assert_int_equal(find(&f, 1, SP_NO_PAGE, 0), n < 3 ? old[0] : SP_NO_PAGE);
        if (n < 3) assert_int_equal(find(&f, 1, old[0], 1), n < 2 ? old[1] : SP_NO_PAGE);
    }
    sp_kv_hold(&f.kv, young[0]); /* held: stays, though others want its room */
    assert_false(sp_kv_take(&f.kv, 2, rest + PAGES - 2));
    assert_true(sp_kv_take(&f.kv, 1, rest + PAGES - 2));
    assert_int_equal(find(&f, 2, SP_NO_PAGE, 0), young[0]);
    assert_int_equal(find(&f, 2, young[0], 1), SP_NO_PAGE);
    sp_kv_give(&f.kv, 1, young);
    sp_kv_give(&f.kv, PAGES - 1, rest);
    close_fixture(&f);
}

/* A page that was found again is not the oldest any more. */
static void test_use_makes_young(void **state)
{
    (void)state;
    fixture f;
    uint32_t pages[3], rest[PAGES];
    open_fixture(&f, UINT64_MAX);
    for (uint32_t i = 0; i < 3; i++) pages[i] = add(&f, (uint8_t)i, SP_NO_PAGE, 0);
    for (uint32_t i = 0; i < 3; i++) sp_kv_give(&f.kv, 1, &pages[i]);
    sp_kv_hold(&f.kv, pages[0]);
    sp_kv_give(&f.kv, 1, &pages[0]);
    assert_true(sp_kv_take(&f.kv, PAGES - 1, rest));
    assert_int_equal(find(&f, 0, SP_NO_PAGE, 0), pages[0]);
    assert_int_equal(find(&f, 1, SP_NO_PAGE, 0), SP_NO_PAGE);
    assert_int_equal(find(&f, 2, SP_NO_PAGE, 0), SP_NO_PAGE);
    sp_kv_give(&f.kv, PAGES - 1, rest);
    close_fixture(&f);
}

/* Captures hold pages as sequences do, but are not counted with them. */
static void test_pins(void **state)
{
    (void)state;
    fixture f;
    uint32_t pages[2], rest[PAGES];
    open_fixture(&f, UINT64_MAX);
    for (uint32_t i = 0; i < 2; i++) pages[i] = add(&f, 1, i ? pages[0] : SP_NO_PAGE, i);
    sp_kv_pin(&f.kv, 2, pages);
    sp_kv_give(&f.kv, 2, pages);
    assert_int_equal(sp_kv_used(&f.kv), 0);
    assert_int_equal(f.kv.n_cached, 0);
    assert_int_equal(sp_kv_available(&f.kv), PAGES - 2);
    sp_kv_hold(&f.kv, pages[0]);
    assert_int_equal(sp_kv_used(&f.kv), 1);
    sp_kv_unpin(&f.kv, 2, pages);
    assert_int_equal(f.kv.n_cached, 1);
    assert_true(sp_kv_take(&f.kv, PAGES - 1, rest));
    assert_int_equal(find(&f, 1, SP_NO_PAGE, 0), pages[0]);
    sp_kv_give(&f.kv, 1, pages);
    sp_kv_give(&f.kv, PAGES - 1, rest);
    close_fixture(&f);
}

/* --- against a model --- */

enum { HOLDERS = 5, DEPTH = 5, KINDS = 3 };

/* What a page says: its key and the tokens of all pages up to it, in digits. */
typedef struct said {
    bool there;
    uint32_t path[DEPTH + 1]; /* key, then one number a page; rest 0 */
    uint32_t depth;
} said;

typedef struct holder {
    uint32_t pages[DEPTH], n;
} holder;

/* A walk down a random path: what is found is held, what is not is computed and published. */
static void walk(fixture *f, test_random *random, holder *h, said *pages, uint64_t *hits)
{
    said want = {.there = true};
    uint8_t who = (uint8_t)test_random_below(random, 2);
    want.path[0] = who;
    uint32_t depth = 1 + (uint32_t)test_random_below(random, DEPTH);
    for (h->n = 0; h->n < depth; h->n++) {
        uint32_t what = 1 + (uint32_t)test_random_below(random, KINDS),
                 before = h->n ? h->pages[h->n - 1] : SP_NO_PAGE;
        want.path[++want.depth] = what;
        uint32_t page = find(f, who, before, what);
        if (page != SP_NO_PAGE) {
            assert_memory_equal(&pages[page], &want, sizeof want); /* it is what was put there */
            sp_kv_hold(&f->kv, page);
            (*hits)++;
        } else {
            for (uint32_t p = 0; p < PAGES; p++) /* and nothing that is there is missed */
                assert_false(f->kv.pages[p].kept && memcmp(&pages[p], &want, sizeof want) == 0);
            if (sp_kv_available(&f->kv) == 0) break;
            page = add(f, who, before, what);
            pages[page] = want;
        }
        h->pages[h->n] = page;
    }
}

static void check_sums(const fixture *f, const holder *holders)
{
    uint32_t refs[PAGES] = {0}, used = 0, cached = 0;
    for (uint32_t i = 0; i < HOLDERS; i++)
        for (uint32_t j = 0; j < holders[i].n; j++) refs[holders[i].pages[j]]++;
    for (uint32_t p = 0; p < PAGES; p++) {
        assert_int_equal(f->kv.pages[p].refs, refs[p]);
        used += refs[p] > 0;
        cached += refs[p] == 0 && f->kv.pages[p].kept;
    }
    assert_int_equal(sp_kv_used(&f->kv), used);
    assert_int_equal(f->kv.n_cached, cached);
    assert_int_equal(f->kv.n_free + cached + used, PAGES);
    assert_int_equal(sp_prefix_count(f->prefix), used + cached);
}

static void test_against_a_model(void **state)
{
    (void)state;
    const uint64_t masks[] = {UINT64_MAX, 1};
    for (size_t m = 0; m < COUNT_OF(masks); m++) {
        fixture f;
        static said pages[PAGES];
        holder holders[HOLDERS] = {0};
        uint64_t hits = 0;
        test_random random = {91};
        open_fixture(&f, masks[m]);
        for (int round = 0; round < 3000; round++) {
            holder *h = &holders[test_random_below(&random, HOLDERS)];
            if (h->n > 0) {
                sp_kv_give(&f.kv, h->n, h->pages);
                h->n = 0;
            } else {
                walk(&f, &random, h, pages, &hits);
            }
            check_sums(&f, holders);
        }
        assert_true(hits > 500);
        for (uint32_t i = 0; i < HOLDERS; i++) sp_kv_give(&f.kv, holders[i].n, holders[i].pages);
        close_fixture(&f);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_what_counts),     cmocka_unit_test(test_oldest_first),
    cmocka_unit_test(test_use_makes_young), cmocka_unit_test(test_pins),
    cmocka_unit_test(test_against_a_model),
};
TEST_MAIN(tests)
