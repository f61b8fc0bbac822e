/* Sweeps: what every attention costs and keeps on one text, as points that curves, tables and `auto` read.
 *
 * A point is one attention object at one length: its density, what it keeps of the gold graph (recall, and
 * mass: the share of the dense probability), its perplexity beside dense attention's, and seconds of reading
 * a prompt of that length and of writing one token behind it, beside dense ones taken in turns. A front holds
 * the points that no other beats in both figures: on the recall front none is at least as sparse and keeps
 * more, on the perplexity front none is at least as sparse and has a lower perplexity. What scores better
 * because its selection sees later tokens is marked and on no perplexity front.
 *
 * The file is `sweep.json` (engine/README.md, "sweep.json"). Owner: an sp_sweep owns its points and their
 * texts. Tests: tests/unit/engine/test_sweep.c, tests/http/test_sweep.py, tests/fuzz/fuzz_sweep.c */
#ifndef SPARSED_ENGINE_EVALUATE_SWEEP_H
#define SPARSED_ENGINE_EVALUATE_SWEEP_H

#include "kernels/json.h"

#define SP_SWEEP_MAX_POINTS 4096u
#define SP_SWEEP_MAX_BYTES ((size_t)16 << 20)

typedef struct sp_sweep_point {
    const char *attention; /* the request's object as JSON, as it was sent */
    const char *grid;      /* the curve it belongs to: "window" */
    double value;          /* its place on the curve; NaN: none */
    const char *device;
    uint32_t length, windows;
    double density, recall, mass; /* recall and mass NaN: not measured */
    double perplexity, perplexity_dense;
    double prefill_seconds, prefill_seconds_dense; /* of a prompt of `length` tokens */
    double decode_seconds, decode_seconds_dense;   /* of one token behind it; NaN: it does not generate */
    bool sees_later;                               /* its selection sees later tokens */
    bool recall_front, perplexity_front;           /* sp_sweep_fronts */
} sp_sweep_point;

typedef struct sp_sweep {
    char model[65];       /* fingerprint of the model */
    char model_name[128]; /* for people */
    char text_sha256[65];
    sp_sweep_point *points; /* (n_points) */
    size_t n_points, capacity;
    sp_arena arena; /* texts of the points */
} sp_sweep;

void sp_sweep_init(sp_sweep *sweep);
void sp_sweep_fini(sp_sweep *sweep);
/* Copies the point and its texts to the end. SP_NO_MEMORY, SP_TOO_LARGE. */
sp_status sp_sweep_add(sp_sweep *sweep, const sp_sweep_point *point, sp_error *error) SP_MUST_CHECK;
/* The point of this attention, device, length and number of windows; NULL where it is not measured. */
const sp_sweep_point *sp_sweep_find(const sp_sweep *sweep, const char *attention, const char *device,
                                    uint32_t length, uint32_t windows);

/* Reads a file's text into an empty sweep. SP_DATA naming file, point and member. */
sp_status sp_sweep_parse(const char *name, const char *text, size_t size, sp_sweep *out,
                         sp_error *error) SP_MUST_CHECK;
/* SP_NOT_FOUND where there is no file. */
sp_status sp_sweep_read(const char *path, sp_sweep *out, sp_error *error) SP_MUST_CHECK;

/* Marks the points of both fronts, each length for itself. */
void sp_sweep_fronts(sp_sweep *sweep);
void sp_sweep_write_json(const sp_sweep *sweep, sp_buffer *out);
void sp_sweep_write_csv(const sp_sweep *sweep, sp_buffer *out);
/* One HTML page without scripts and without anything from elsewhere: curves as SVG, and a table. */
void sp_sweep_write_html(const sp_sweep *sweep, sp_buffer *out);
/* The curves alone, of the longest length: one SVG. */
void sp_sweep_write_svg(const sp_sweep *sweep, sp_buffer *out);

#endif
