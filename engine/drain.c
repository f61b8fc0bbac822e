/* See drain.h. */
#include "engine/drain.h"

#include <math.h>

#define KEPT 0.8 /* weight of what was known, for each that leaves */

void sp_drain_init(sp_drain *drain)
{
    *drain = (sp_drain){.mean = 1};
}

void sp_drain_note(sp_drain *drain, double now, uint32_t n_left, bool waits)
{
    if (drain->waits && n_left > 0) {
        double each = (now - drain->since) / n_left;
        drain->mean += (1 - pow(KEPT, n_left)) * (each - drain->mean);
    }
    if (!drain->waits || n_left > 0) drain->since = now;
    drain->waits = waits;
}

double sp_drain_seconds(const sp_drain *drain, double now)
{
    double passed = drain->waits ? now - drain->since : 0;
    return passed > drain->mean ? passed : drain->mean;
}
