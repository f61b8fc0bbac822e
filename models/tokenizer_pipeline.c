/* What stands around the model in tokenizer.json: normalizer, pre-tokenizers and decoder. Every type is known
 * by name or refused by name. Tests: tests/unit/models/test_tokenizer.c, test_tokenizer_models.c,
 * tests/golden/test_tokenizers.c, tests/fuzz/fuzz_tokenizer.c */
#include "models/tokenizer_load.h"

/* --- normalizer --- */

static sp_status add_step(sp_loader *l, sp_step step)
{
    if (l->tokenizer->n_steps == SP_MAX_STEPS)
        return sp_load_fail_key(l, "normalizer", "has more than 8 steps");
    l->tokenizer->steps[l->tokenizer->n_steps++] = step;
    return SP_OK;
}

static sp_status read_bert(sp_loader *l, const sp_member *m)
{
    enum { CLEAN, CHINESE, ACCENTS, LOWER, MEMBERS };
    sp_member s[MEMBERS] = {{.key = "clean_text"},
                            {.key = "handle_chinese_chars"},
                            {.key = "strip_accents"},
                            {.key = "lowercase"}};
    sp_status status;
    sp_json reader;
    sp_load_object(l, "normalizer", m, s, MEMBERS, &status);
    bool lower = sp_load_is_true(&s[LOWER]);
    bool strip = sp_load_enter(&s[ACCENTS], &reader) == SP_JSON_NULL ? lower : sp_load_is_true(&s[ACCENTS]);
    if (status == SP_OK && sp_load_is_true(&s[CLEAN])) status = add_step(l, SP_STEP_CLEAN);
    if (status == SP_OK && sp_load_is_true(&s[CHINESE])) status = add_step(l, SP_STEP_CHINESE);
    if (status == SP_OK && strip) status = add_step(l, SP_STEP_NFD);
    if (status == SP_OK && strip) status = add_step(l, SP_STEP_STRIP_ACCENTS);
    if (status == SP_OK && lower) status = add_step(l, SP_STEP_LOWER);
    return status;
}

/* The two replacements that are built: a space by the meta symbol, runs of spaces by one. */
static sp_status read_replace(sp_loader *l, const sp_member *pattern, const sp_member *content)
{
    sp_member s[2] = {{.key = "String"}, {.key = "Regex"}};
    sp_status status;
    if (!sp_load_object(l, "normalizer", pattern, s, 2, &status))
        return status == SP_OK ? sp_load_fail_key(l, "normalizer", "Replace has no pattern") : status;
    if (sp_load_is_text(&s[0], " ") && sp_load_is_text(content, SP_META))
        return add_step(l, SP_STEP_MARK_SPACES);
    if (sp_load_is_text(&s[1], " {2,}") && sp_load_is_text(content, " "))
        return add_step(l, SP_STEP_JOIN_SPACES);
    return sp_load_refuse(l, "normalizer Replace", s[0].present ? &s[0] : &s[1]);
}

static sp_status read_normalizer(sp_loader *l, const sp_member *m, void *unused)
{
    enum { TYPE, PREPEND, PATTERN, CONTENT, MEMBERS };
    sp_member s[MEMBERS] = {{.key = "type"}, {.key = "prepend"}, {.key = "pattern"}, {.key = "content"}};
    sp_status status;
    (void)unused;
    if (!sp_load_object(l, "normalizer", m, s, MEMBERS, &status))
        return status == SP_OK ? sp_load_fail_key(l, "normalizer", "has a step that is null") : status;
    if (sp_load_is_text(&s[TYPE], "NFC")) return add_step(l, SP_STEP_NFC);
    if (sp_load_is_text(&s[TYPE], "NFKC")) return add_step(l, SP_STEP_NFKC);
    if (sp_load_is_text(&s[TYPE], "BertNormalizer")) return read_bert(l, m);
    if (sp_load_is_text(&s[TYPE], "Replace")) return read_replace(l, &s[PATTERN], &s[CONTENT]);
    if (!sp_load_is_text(&s[TYPE], "Prepend")) return sp_load_refuse(l, "normalizer", &s[TYPE]);
    if (!sp_load_is_text(&s[PREPEND], SP_META)) return sp_load_refuse(l, "normalizer Prepend", &s[PREPEND]);
    return add_step(l, SP_STEP_PREPEND);
}

sp_status sp_load_normalizer(sp_loader *l, const sp_member *m)
{
    sp_member s[2] = {{.key = "type"}, {.key = "normalizers"}};
    sp_status status;
    if (!sp_load_object(l, "normalizer", m, s, 2, &status)) return status;
    if (!sp_load_is_text(&s[0], "Sequence")) return read_normalizer(l, m, NULL);
    return sp_load_each(l, "normalizer", &s[1], read_normalizer, NULL);
}

/* --- pre-tokenizers --- */

static sp_status add_split(sp_loader *l, sp_split split)
{
    if (l->tokenizer->n_splits == SP_MAX_SPLITS)
        return sp_load_fail_key(l, "pre_tokenizer", "has more than 8 steps");
    l->tokenizer->splits[l->tokenizer->n_splits++] = split;
    return SP_OK;
}

/* A Split whose pattern is one we know, matches isolated. */
static sp_status read_split(sp_loader *l, const sp_member *pattern, const sp_member *behavior,
                            const sp_member *invert)
{
    sp_member regex = {.key = "Regex"};
    sp_status status;
    if (!sp_load_object(l, "pre_tokenizer", pattern, &regex, 1, &status))
        return status == SP_OK ? sp_load_fail_key(l, "pre_tokenizer", "Split has no pattern") : status;
    if (!sp_load_is_text(behavior, "Isolated") || sp_load_is_true(invert))
        return sp_load_fail_key(l, "pre_tokenizer", "Split must have behavior Isolated and not be inverted");
    for (sp_split split = 0; split < SP_SPLIT_PATTERNS; split++)
        if (sp_load_is_text(&regex, sp_split_pattern(split))) return add_split(l, split);
    return sp_load_refuse(l, "pre_tokenizer pattern", &regex);
}

/* The scheme of a Metaspace, older files say add_prefix_space. */
static sp_status read_scheme(sp_loader *l, const char *key, const sp_member *scheme, const sp_member *old,
                             bool *prepends, bool *first_only)
{
    sp_json reader;
    bool is_first = sp_load_is_text(scheme, "first"), is_never = sp_load_is_text(scheme, "never");
    if (scheme->present && !is_first && !is_never && !sp_load_is_text(scheme, "always"))
        return sp_load_refuse(l, key, scheme);
    if (!scheme->present) is_never = sp_load_enter(old, &reader) == SP_JSON_FALSE;
    *prepends = !is_never;
    *first_only = is_first;
    return SP_OK;
}

static sp_status read_metaspace(sp_loader *l, const sp_member *m)
{
    enum { REPLACEMENT, SCHEME, OLD_SCHEME, SPLIT, MEMBERS };
    sp_member s[MEMBERS] = {
        {.key = "replacement"}, {.key = "prepend_scheme"}, {.key = "add_prefix_space"}, {.key = "split"}};
    sp_tokenizer *t = l->tokenizer;
    sp_status status;
    sp_json reader;
    bool prepends = false;
    sp_load_object(l, "pre_tokenizer", m, s, MEMBERS, &status);
    if (status != SP_OK) return status;
    if (t->n_splits) return sp_load_fail_key(l, "pre_tokenizer", "has a step in front of Metaspace");
    if (!sp_load_is_text(&s[REPLACEMENT], SP_META))
        return sp_load_fail_key(l, "pre_tokenizer", "Metaspace must replace by U+2581");
    status = read_scheme(l, "pre_tokenizer prepend_scheme", &s[SCHEME], &s[OLD_SCHEME], &prepends,
                         &t->mark_first_only);
    if (status != SP_OK) return status;
    if (prepends) t->marks[t->n_marks++] = SP_STEP_PREPEND_UNLESS;
    t->marks[t->n_marks++] = SP_STEP_MARK_SPACES;
    l->pieces = SP_PIECES_META;
    return sp_load_enter(&s[SPLIT], &reader) == SP_JSON_FALSE ? SP_OK : add_split(l, SP_SPLIT_META);
}

static sp_status read_byte_level(sp_loader *l, const sp_member *prefix, const sp_member *regex)
{
    sp_json reader;
    if (sp_load_is_true(prefix))
        return sp_load_fail_key(l, "pre_tokenizer", "ByteLevel with add_prefix_space is not supported");
    l->pieces = SP_PIECES_BYTES;
    return sp_load_enter(regex, &reader) == SP_JSON_FALSE ? SP_OK : add_split(l, SP_SPLIT_GPT2);
}

static sp_status read_step(sp_loader *l, const sp_member *m, void *unused)
{
    enum { TYPE, PREFIX, REGEX, PATTERN, BEHAVIOR, INVERT, DIGITS, STEPS };
    sp_member s[STEPS] = {
        {.key = "type"},     {.key = "add_prefix_space"}, {.key = "use_regex"},        {.key = "pattern"},
        {.key = "behavior"}, {.key = "invert"},           {.key = "individual_digits"}};
    sp_status status;
    (void)unused;
    if (!sp_load_object(l, "pre_tokenizer", m, s, STEPS, &status))
        return status == SP_OK ? sp_load_fail_key(l, "pre_tokenizer", "has a step that is null") : status;
    if (l->pieces != SP_PIECES_WHOLE)
        return sp_load_fail_key(l, "pre_tokenizer",
                                "has a step behind ByteLevel, Metaspace or BertPreTokenizer");
    if (sp_load_is_text(&s[TYPE], "Split")) return read_split(l, &s[PATTERN], &s[BEHAVIOR], &s[INVERT]);
    if (sp_load_is_text(&s[TYPE], "Digits")) {
        if (sp_load_is_true(&s[DIGITS])) return add_split(l, SP_SPLIT_DIGITS);
        return sp_load_fail_key(l, "pre_tokenizer", "Digits without individual_digits is not supported");
    }
    if (sp_load_is_text(&s[TYPE], "ByteLevel")) return read_byte_level(l, &s[PREFIX], &s[REGEX]);
    if (sp_load_is_text(&s[TYPE], "Metaspace")) return read_metaspace(l, m);
    if (!sp_load_is_text(&s[TYPE], "BertPreTokenizer")) return sp_load_refuse(l, "pre_tokenizer", &s[TYPE]);
    if (l->tokenizer->n_splits)
        return sp_load_fail_key(l, "pre_tokenizer", "has a step in front of BertPreTokenizer");
    l->pieces = SP_PIECES_WORDS;
    return add_split(l, SP_SPLIT_BERT);
}

sp_status sp_load_pretokenizer(sp_loader *l, const sp_member *m)
{
    sp_member s[2] = {{.key = "type"}, {.key = "pretokenizers"}};
    sp_status status;
    if (!sp_load_object(l, "pre_tokenizer", m, s, 2, &status)) return status;
    status = sp_load_is_text(&s[0], "Sequence") ? sp_load_each(l, "pre_tokenizer", &s[1], read_step, NULL)
                                                : read_step(l, m, NULL);
    if (status == SP_OK && l->pieces == SP_PIECES_WHOLE)
        status =
            sp_load_fail_key(l, "pre_tokenizer", "must end with ByteLevel, Metaspace or BertPreTokenizer");
    return status;
}

/* --- decoder --- */

/* The steps of SentencePiece's decoder, in their order; the last may be missing. */
static sp_status read_fallback_step(sp_loader *l, const sp_member *m, void *context)
{
    enum { TYPE, PATTERN, CONTENT, START, STOP, MEMBERS };
    static const char *const order[] = {"Replace", "ByteFallback", "Fuse", "Strip"};
    sp_member s[MEMBERS] = {
        {.key = "type"}, {.key = "pattern"}, {.key = "content"}, {.key = "start"}, {.key = "stop"}};
    sp_member from = {.key = "String"};
    size_t *index = context;
    sp_status status;
    sp_json reader;
    int64_t start = -1, stop = -1;
    if (!sp_load_object(l, "decoder", m, s, MEMBERS, &status))
        return status == SP_OK ? sp_load_fail_key(l, "decoder", "has a step that is null") : status;
    if (*index == 4 || !sp_load_is_text(&s[TYPE], order[*index]))
        return sp_load_refuse(l, "decoder", &s[TYPE]);
    if (*index == 0 && (!sp_load_object(l, "decoder", &s[PATTERN], &from, 1, &status) ||
                        !sp_load_is_text(&from, SP_META) || !sp_load_is_text(&s[CONTENT], " ")))
        return sp_load_fail_key(l, "decoder", "Replace must turn U+2581 into a space");
    if (sp_load_enter(&s[START], &reader) == SP_JSON_NUMBER && !sp_json_int64(&reader, &start)) start = -1;
    if (sp_load_enter(&s[STOP], &reader) == SP_JSON_NUMBER && !sp_json_int64(&reader, &stop)) stop = -1;
    if (*index == 3 && (!sp_load_is_text(&s[CONTENT], " ") || start != 1 || stop != 0))
        return sp_load_fail_key(l, "decoder", "Strip must take one space at the start");
    l->tokenizer->strips_space = *index == 3;
    ++*index;
    return SP_OK;
}

static sp_status read_fallback(sp_loader *l, const sp_member *steps)
{
    size_t index = 0;
    sp_status status = sp_load_each(l, "decoder", steps, read_fallback_step, &index);
    if (status == SP_OK && index < 3)
        status = sp_load_fail_key(l, "decoder", "must be Replace, ByteFallback, Fuse and perhaps Strip");
    l->tokenizer->spelling = SP_SPELLING_FALLBACK;
    return status;
}

sp_status sp_load_decoder(sp_loader *l, const sp_member *m)
{
    enum { TYPE, DECODERS, PREFIX, CLEANUP, REPLACEMENT, SCHEME, OLD_SCHEME, MEMBERS };
    sp_member s[MEMBERS] = {
        {.key = "type"},        {.key = "decoders"},       {.key = "prefix"},          {.key = "cleanup"},
        {.key = "replacement"}, {.key = "prepend_scheme"}, {.key = "add_prefix_space"}};
    sp_tokenizer *t = l->tokenizer;
    sp_status status;
    bool prepends = true, first_only;
    if (!sp_load_object(l, "decoder", m, s, MEMBERS, &status))
        return status == SP_OK ? sp_load_fail_key(l, "decoder", "is missing") : status;
    if (sp_load_is_text(&s[TYPE], "Sequence")) return read_fallback(l, &s[DECODERS]);
    if (sp_load_is_text(&s[TYPE], "WordPiece")) {
        t->spelling = sp_load_is_true(&s[CLEANUP]) ? SP_SPELLING_WORDS_TIDY : SP_SPELLING_WORDS;
        return sp_load_is_text(&s[PREFIX], "##") ? SP_OK : sp_load_refuse(l, "decoder prefix", &s[PREFIX]);
    }
    if (sp_load_is_text(&s[TYPE], "Metaspace")) {
        t->spelling = SP_SPELLING_META;
        status = read_scheme(l, "decoder prepend_scheme", &s[SCHEME], &s[OLD_SCHEME], &prepends, &first_only);
        if (status == SP_OK && (!prepends || !sp_load_is_text(&s[REPLACEMENT], SP_META)))
            status = sp_load_fail_key(l, "decoder", "Metaspace must replace U+2581 and drop the first");
        return status;
    }
    t->spelling = SP_SPELLING_BYTES;
    return sp_load_is_text(&s[TYPE], "ByteLevel") ? SP_OK : sp_load_refuse(l, "decoder", &s[TYPE]);
}
