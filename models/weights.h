/* Tensors on disk behind one interface: one safetensors file, shards with an index, or a GGUF file, whose
 * tensors carry their Hugging Face names here (models/gguf.h).
 *
 * The rules are those of the format (header length, no holes, no overlap, shapes that match) plus our caps:
 * 16 MiB of header, 65,536 tensors, names of 255 bytes, 4 dimensions. Files are read, not mapped, unless
 * asked: a file cut short while mapped would raise SIGBUS. Every tensor's values are checked for NaN and
 * infinity when it is taken. Owner: the sp_weights holds the bytes; views live as long as it does. Errors
 * name the file and the tensor. Tests: tests/unit/models/test_safetensors.c, tests/fuzz/fuzz_safetensors.c,
 * tests/golden/test_hostile.py */
#ifndef SPARSED_MODELS_WEIGHTS_H
#define SPARSED_MODELS_WEIGHTS_H

#include "kernels/tensor.h"

typedef struct sp_weights sp_weights;

typedef struct sp_weights_options {
    bool use_mmap;        /* read through a mapping: faster to open; a truncated file is a crash */
    bool allow_nonfinite; /* accept NaN and infinities in tensors */
} sp_weights_options;

/* path: a folder (model.safetensors, or model.safetensors.index.json and its shards) or one .safetensors or
 * GGUF file. SP_NOT_FOUND when absent, SP_DATA when broken. */
sp_status sp_weights_open(const char *path, const sp_weights_options *options, sp_weights **out,
                          sp_error *error) SP_MUST_CHECK;
/* Parses safetensors bytes that stay the caller's; name is used in messages. For request bodies and fuzzing.
 */
sp_status sp_weights_parse(const char *name, const void *bytes, size_t size, sp_weights **out,
                           sp_error *error) SP_MUST_CHECK;
void sp_weights_close(sp_weights *weights);

size_t sp_weights_count(const sp_weights *weights);
const char *sp_weights_name(const sp_weights *weights, size_t index);
const sp_tensor *sp_weights_at(const sp_weights *weights, size_t index);
/* NULL when absent. */
const sp_tensor *sp_weights_find(const sp_weights *weights, const char *name);
/* A tensor of exactly this shape and a floating type (F32, F16, BF16) or block type, finite unless allowed;
 * SP_DATA naming it. */
sp_status sp_weights_take(const sp_weights *weights, const char *name, uint32_t rank, const size_t *shape,
                          sp_tensor *out, sp_error *error) SP_MUST_CHECK;
/* Value of a __metadata__ key, NUL terminated; NULL when absent. */
const char *sp_weights_metadata(const sp_weights *weights, const char *key);
/* True: matrices that this architecture's Hugging Face files store as [in, out] (gpt2's Conv1D) lie as [out,
 * in], with that shape, as linear layers want them. GGUF files are so. */
bool sp_weights_transposed(const sp_weights *weights);
/* File the tensor lies in, for messages. */
const char *sp_weights_file(const sp_weights *weights, const char *name);

/* --- writing one safetensors file in memory: all tensors, then the header is made --- */
typedef struct sp_tensor_entry {
    const char *name;
    sp_tensor tensor;
} sp_tensor_entry;
typedef struct sp_metadata_entry {
    const char *key;
    const char *value;
    size_t size; /* bytes of value */
} sp_metadata_entry;
sp_status sp_safetensors_write(const sp_tensor_entry *tensors, size_t n_tensors,
                               const sp_metadata_entry *metadata, size_t n_metadata, sp_buffer *out,
                               sp_error *error) SP_MUST_CHECK;

#endif
