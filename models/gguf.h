/* GGUF files (version 2 and 3, little endian): metadata and tensors of one file, presented as if they were a
 * Hugging Face folder, so that architectures know one set of names.
 *
 *   header   "GGUF", version u32, number of tensors u64, number of keys u64
 *   key      name (length u64, bytes), type u32, value; an array is element type u32, count u64, elements
 *   tensor   name, number of dimensions u32, dimensions u64 (innermost first), type u32, offset u64
 *   data     from the next multiple of general.alignment (32 by default) on, offsets counted from there
 *
 * Source: the GGUF specification in the ggml repository. Caps: 65,536 keys, 65,536 tensors, 4 dimensions,
 * names of 255 bytes, texts of 1 MiB, arrays of 2^24 elements and never more than the bytes that are left, no
 * arrays of arrays, booleans 0 or 1, alignment a power of two 8..4096, 256 MiB in front of the data. Names
 * are sorted to find duplicates: no choice of names makes that slow. Trailing bytes are accepted.
 *
 * Three steps: sp_gguf_open reads and checks the structure; sp_gguf_config refuses what is not built and
 * turns metadata into the keys of config.json; sp_weights_from_gguf gives the tensors. Owner: the sp_gguf
 * holds the metadata and an open file; texts live as long as it does. Errors name the file and the key or
 * tensor. Tests: tests/unit/models/test_gguf.c, test_gguf_model.c, tests/fuzz/fuzz_gguf.c */
#ifndef SPARSED_MODELS_GGUF_H
#define SPARSED_MODELS_GGUF_H

#include "models/config.h"
#include "models/weights.h"

typedef struct sp_gguf sp_gguf;

/* The numbers are those of the format. */
typedef enum sp_gguf_type {
    SP_GGUF_UINT8,
    SP_GGUF_INT8,
    SP_GGUF_UINT16,
    SP_GGUF_INT16,
    SP_GGUF_UINT32,
    SP_GGUF_INT32,
    SP_GGUF_FLOAT32,
    SP_GGUF_BOOL,
    SP_GGUF_TEXT,
    SP_GGUF_ARRAY,
    SP_GGUF_UINT64,
    SP_GGUF_INT64,
    SP_GGUF_FLOAT64,
    SP_GGUF_TYPES
} sp_gguf_type;

typedef struct sp_gguf_tensor {
    const char *name; /* the file's own */
    sp_tensor tensor; /* data NULL; outermost dimension first; bytes 0 when the type is not supported */
    const char *type; /* its name: "Q4_K", "IQ4_XS", "unknown" */
    uint32_t type_number;
    bool supported;
    size_t offset; /* bytes from the start of the data */
} sp_gguf_tensor;

/* Whether a file begins with the GGUF magic; false when it can't be read. */
bool sp_gguf_is_file(const char *path);
/* Reads everything in front of the data. SP_NOT_FOUND, SP_DATA. */
sp_status sp_gguf_open(const char *path, sp_gguf **out, sp_error *error) SP_MUST_CHECK;
/* Bytes that stay the caller's; name is used in messages. */
sp_status sp_gguf_parse(const char *name, const void *bytes, size_t size, sp_gguf **out,
                        sp_error *error) SP_MUST_CHECK;
void sp_gguf_close(sp_gguf *gguf);

const char *sp_gguf_name(const sp_gguf *gguf); /* of the file, for messages */
uint32_t sp_gguf_version(const sp_gguf *gguf);
size_t sp_gguf_count(const sp_gguf *gguf); /* keys */
const char *sp_gguf_key(const sp_gguf *gguf, size_t index);
size_t sp_gguf_tensor_count(const sp_gguf *gguf);
const sp_gguf_tensor *sp_gguf_tensor_at(const sp_gguf *gguf, size_t index);       /* in the file's order */
const sp_gguf_tensor *sp_gguf_tensor_find(const sp_gguf *gguf, const char *name); /* NULL when absent */

/* --- typed getters: a wrong type or a value out of range is SP_DATA naming file and key --- */
bool sp_gguf_has(const sp_gguf *gguf, const char *key);
/* *text NULL when absent; size bytes, no NUL within, a NUL behind them that size doesn't count. */
sp_status sp_gguf_text(const sp_gguf *gguf, const char *key, const char **text, size_t *size,
                       sp_error *error) SP_MUST_CHECK;
/* Any integer type. Required when fallback is NULL. */
sp_status sp_gguf_int(const sp_gguf *gguf, const char *key, const int64_t *fallback, int64_t min, int64_t max,
                      int64_t *out, sp_error *error) SP_MUST_CHECK;
/* FLOAT32, FLOAT64 or any integer type; never NaN. */
sp_status sp_gguf_double(const sp_gguf *gguf, const char *key, const double *fallback, double min, double max,
                         double *out, sp_error *error) SP_MUST_CHECK;
sp_status sp_gguf_bool(const sp_gguf *gguf, const char *key, bool fallback, bool *out,
                       sp_error *error) SP_MUST_CHECK;

/* An array is walked from its start, one sp_gguf_next_* an element; which one follows from what was asked
 * for. */
typedef enum sp_gguf_kind { SP_GGUF_INTEGERS, SP_GGUF_NUMBERS, SP_GGUF_TEXTS } sp_gguf_kind;
typedef struct sp_gguf_array {
    sp_gguf_kind kind;
    sp_gguf_type type;
    size_t count, index; /* index: of the element that the next call gives */
    const uint8_t *place;
} sp_gguf_array;
/* *present false (and count 0) when the key is absent. */
sp_status sp_gguf_array_open(const sp_gguf *gguf, const char *key, sp_gguf_kind kind, bool *present,
                             sp_gguf_array *out, sp_error *error) SP_MUST_CHECK;
/* False behind the last element. Texts are size bytes of the file, not NUL terminated; integers beyond int64
 * saturate. */
bool sp_gguf_next_text(sp_gguf_array *array, const char **text, size_t *size);
bool sp_gguf_next_int(sp_gguf_array *array, int64_t *value);
bool sp_gguf_next_double(sp_gguf_array *array, double *value);

/* "FILE: key 'KEY' REASON" as SP_DATA. */
sp_status sp_gguf_fail_key(const sp_gguf *gguf, const char *key, const char *reason, sp_error *error);

/* --- as a Hugging Face folder --- */
/* Refuses split files, tensor types, architectures and features that are not built, then makes the keys of
 * config.json that sp_archs read: model_type, sizes, rope_scaling, attention_normalizer, tie_word_embeddings,
 * bos_token_id, eos_token_id. Divisors of the rotary frequencies (rope_freqs.weight) become rope_scaling of
 * rope_type "longrope" with equal short_factor and long_factor and attention_factor 1. */
sp_status sp_gguf_config(const sp_gguf *gguf, sp_config **out, sp_error *error) SP_MUST_CHECK;
/* The tensors under their Hugging Face names, read from the file. Rows of llama's q and k stand in halves
 * order again. gpt2's matrices stay as GGUF holds them: sp_weights_transposed is true. */
sp_status sp_weights_from_gguf(const sp_gguf *gguf, const sp_weights_options *options, sp_weights **out,
                               sp_error *error) SP_MUST_CHECK;
/* Rewrites an error that speaks of config.json, its keys and Hugging Face tensor names: afterwards it names
 * the GGUF file, its keys and tensors. */
void sp_gguf_explain(const sp_gguf *gguf, sp_error *error);

#endif
