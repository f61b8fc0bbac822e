/* Private to engine/evaluate/: what the page of a sweep and its SVG share. */
#ifndef SPARSED_ENGINE_EVALUATE_SWEEP_PAGE_H
#define SPARSED_ENGINE_EVALUATE_SWEEP_PAGE_H

#include "engine/evaluate/sweep.h"

#define SP_SWEEP_MAX_CURVES 24u

/* The curves of one length. */
void sp_sweep_write_charts(const sp_sweep *sweep, uint32_t length, sp_buffer *out);
/* Appends text for XML and HTML. */
void sp_sweep_write_text(sp_buffer *out, const char *text);
uint32_t sp_sweep_longest(const sp_sweep *sweep);

#endif
