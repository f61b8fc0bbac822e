/* `measure`: what a plan keeps of the gold graph, row by row, while the model runs.
 *
 * Runs the device's row_weights over all keys of every row and head and counts with sp_measure_row
 * (metrics.h), which says what gold is. Costs more than dense attention, so it runs on demand only. Owner:
 * the attender. Tests: tests/golden/test_austen.c */
#ifndef SPARSED_ENGINE_ATTENTION_MEASURE_H
#define SPARSED_ENGINE_ATTENTION_MEASURE_H

#include "engine/attention/attention.h"

typedef struct sp_measurer sp_measurer;

/* Scratch for rows of at most `context` keys, for every worker of the device. SP_NO_MEMORY. */
sp_status sp_measurer_open(sp_device *device, uint32_t context, sp_measurer **out,
                           sp_error *error) SP_MUST_CHECK;
/* Bytes that sp_measurer_open takes. */
size_t sp_measurer_bytes(const sp_device *device, uint32_t context);
void sp_measurer_close(sp_measurer *measurer);
/* Adds all rows of one layer's plan to measures (n_heads). args as given to ops->attend. */
void sp_measure_rows(sp_measurer *measurer, const sp_plan *plan, const sp_attend_args *args,
                     sp_head_measure *measures);

#endif
