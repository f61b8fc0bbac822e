/* Typed, range-checked reading of config.json and tokenizer_config.json (the cJSON door of this folder).
 *
 * Every getter takes the key's name; a wrong type or a value out of range is SP_DATA that names file, key and
 * range. null counts as absent. Unknown keys are accepted unless sp_config_check_keys is asked. Tests:
 * tests/unit/models/test_config.c, tests/fuzz/fuzz_config.c, tests/fuzz/fuzz_adapter.c */
#ifndef SPARSED_MODELS_CONFIG_H
#define SPARSED_MODELS_CONFIG_H

#include "kernels/base.h"
#include "kernels/normalizer.h"

typedef struct sp_config sp_config;

/* Reads and validates a JSON object of at most 1 MiB. */
sp_status sp_config_open(const char *path, sp_config **out, sp_error *error) SP_MUST_CHECK;
sp_status sp_config_parse(const char *name, const char *text, size_t size, sp_config **out,
                          sp_error *error) SP_MUST_CHECK;
void sp_config_close(sp_config *config);

bool sp_config_has(const sp_config *config, const char *key);
/* NULL when absent or no string. */
const char *sp_config_text(const sp_config *config, const char *key);
/* Required when fallback is NULL. */
sp_status sp_config_int(const sp_config *config, const char *key, const int64_t *fallback, int64_t min,
                        int64_t max, int64_t *out, sp_error *error) SP_MUST_CHECK;
sp_status sp_config_double(const sp_config *config, const char *key, const double *fallback, double min,
                           double max, double *out, sp_error *error) SP_MUST_CHECK;
sp_status sp_config_bool(const sp_config *config, const char *key, bool fallback, bool *out,
                         sp_error *error) SP_MUST_CHECK;
/* A non-negative integer or an array of them (eos_token_id): writes up to max ids, returns their number in
 * *count. */
sp_status sp_config_ids(const sp_config *config, const char *key, int32_t *ids, size_t max, size_t *count,
                        sp_error *error) SP_MUST_CHECK;
/* An array of exactly n numbers within min..max. Required. */
sp_status sp_config_numbers(const sp_config *config, const char *key, size_t n, double min, double max,
                            double *out, sp_error *error) SP_MUST_CHECK;
/* An array of 1 to max texts, which live as long as config. Required. */
sp_status sp_config_texts(const sp_config *config, const char *key, size_t max, const char **texts,
                          size_t *count, sp_error *error) SP_MUST_CHECK;
/* Refuses, by name, a key that is not among known (NULL terminated), unless its value says nothing: null,
 * false, {}, []. For files where an unknown key would change the result. */
sp_status sp_config_check_keys(const sp_config *config, const char *const *known,
                               sp_error *error) SP_MUST_CHECK;
/* Whether a key is absent, null, false, {} or []. */
bool sp_config_is_off(const sp_config *config, const char *key);
/* Whether a key holds an array of which every element is this text. */
bool sp_config_repeats(const sp_config *config, const char *key, const char *text);
/* "softmax" | "entmax15" | "sparsemax" | {"alpha": a}, 1 < a <= 2; *present false when the key is absent. */
sp_status sp_config_normalizer(const sp_config *config, const char *key, bool *present, sp_normalizer *out,
                               sp_error *error) SP_MUST_CHECK;
/* The value of a key printed as JSON (sp_free it); NULL when absent. For attention_pattern. */
char *sp_config_json(const sp_config *config, const char *key);
/* The object below a key as a view that lives as long as config; NULL when absent or null or no object. */
const sp_config *sp_config_object(sp_config *config, const char *key);

#endif
