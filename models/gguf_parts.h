/* Private to models/: what the GGUF reader (gguf.c) keeps, and what the files beside it use of each other. */
#ifndef SPARSED_MODELS_GGUF_PARTS_H
#define SPARSED_MODELS_GGUF_PARTS_H

#include "models/gguf.h"

#define SP_GGUF_MAX_NAME 255u
#define SP_GGUF_MAX_TEXT ((size_t)1 << 20)

/* A key and where its value lies: place is an offset into bytes (of a text or array: of its first element).
 */
typedef struct sp_gguf_item {
    const char *key;
    sp_gguf_type type, element; /* element: of arrays */
    size_t count;               /* of an array's elements, of a text's bytes; else 1 */
    size_t place;
    const char *text; /* copy of a text, NUL terminated; else NULL */
} sp_gguf_item;

struct sp_gguf {
    char *name;           /* of the file; a long path has lost its front */
    const uint8_t *bytes; /* (header_bytes) everything in front of the data; all of it when parsed */
    uint8_t *owned;       /* bytes, when read from a file */
    int fd;               /* -1: parsed */
    size_t file_size, data_start;
    uint32_t version;
    sp_arena arena;
    sp_gguf_item *items; /* sorted by key */
    size_t n_items;
    sp_gguf_tensor *tensors;
    const sp_gguf_tensor **by_name; /* sorted */
    size_t n_tensors;
};

/* NULL when absent. */
const sp_gguf_item *sp_gguf_find(const sp_gguf *gguf, const char *key);
/* Bytes of one value of this type; 0 for texts and arrays. */
size_t sp_gguf_type_size(sp_gguf_type type);
uint64_t sp_gguf_read_uint(const uint8_t *from, size_t bytes);
/* Reads n bytes of the data at an offset into memory that lies well; bounds were checked with the tensors. */
sp_status sp_gguf_read(const sp_gguf *gguf, size_t offset, void *into, size_t n,
                       sp_error *error) SP_MUST_CHECK;
/* All values of a tensor of a supported type, finite, to out (as many as the tensor has). */
sp_status sp_gguf_values(const sp_gguf *gguf, const sp_gguf_tensor *tensor, double *out,
                         sp_error *error) SP_MUST_CHECK;

/* An architecture of GGUF and how its names are spelled elsewhere (gguf_names.c). */
typedef struct sp_gguf_arch {
    const char *name, *model_type;
    bool rotates_pairs;       /* rows of q and k stand so that 2i turns with 2i + 1 */
    bool transposed;          /* matrices are [out, in], in Hugging Face files [in, out] */
    const char *const *names; /* pairs: GGUF, Hugging Face; "%u" stands for the layer; NULL ends */
} sp_gguf_arch;
/* From general.architecture; refused when missing or unknown. */
sp_status sp_gguf_arch_of(const sp_gguf *gguf, const sp_gguf_arch **out, sp_error *error) SP_MUST_CHECK;
/* What a tensor name is. */
typedef enum sp_gguf_naming {
    SP_GGUF_NAMED,  /* translated */
    SP_GGUF_IGNORE, /* a buffer, or read by sp_gguf_config */
    SP_GGUF_OTHER,  /* no part of the model: keeps its name */
    SP_GGUF_REFUSE  /* would change the result */
} sp_gguf_naming;
/* out: room for 256 bytes; written when NAMED or OTHER. */
sp_gguf_naming sp_gguf_to_hugging(const sp_gguf_arch *arch, const char *name, char *out);
/* Refuses types that are not built and tensors that the architecture doesn't know. */
sp_status sp_gguf_check_tensors(const sp_gguf *gguf, const sp_gguf_arch *arch, sp_error *error) SP_MUST_CHECK;

#endif
