/* See slice.h. */
#include "engine/graph/slice.h"

#include <math.h>
#include <string.h>

static const char *const names[SP_N_GRAPHS] = {"gold", "pred", "both", "missed", "extra", "after"};

const char *sp_graph_name(sp_graph graph)
{
    return names[graph];
}

bool sp_graph_find(const char *name, sp_graph *out)
{
    for (int i = 0; i < SP_N_GRAPHS; i++) {
        if (strcmp(names[i], name) != 0) continue;
        *out = (sp_graph)i;
        return true;
    }
    return false;
}

void sp_slice_fini(sp_slice *slice)
{
    sp_free(slice->indptr);
    sp_free(slice->indices);
    sp_free(slice->weights);
    sp_free(slice->left_out);
    slice->indptr = slice->indices = NULL;
    slice->weights = slice->left_out = NULL;
}

uint16_t sp_weight_to_u16(float weight)
{
    if (!(weight > 0)) return 0;
    double scaled = floor(65535.0 * (double)weight + 0.5);
    return scaled < 1 ? 1 : scaled > 65535 ? 65535 : (uint16_t)scaled;
}

float sp_weight_from_u16(uint16_t weight)
{
    return (float)((double)weight / 65535.0);
}
