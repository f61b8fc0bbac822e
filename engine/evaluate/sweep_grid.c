/* See sweep_grid.h. */
#include "engine/evaluate/sweep_grid.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/attention.h"

#define SPARSEFINDER "{\"backend\":\"sparsefinder\",\"params\":{"
#define DISTANCE SPARSEFINDER "\"grouping\":\"distance\",\"metric\":"
#define SIZES "2,4,6,8,10,12,14,16,18,20,24,32,48,64"

const sp_grid sp_grids[] = {
    {"dense", "dense", "every allowed key", "{\"backend\":\"dense\"}", ""},
    {"window", "window", "the nearest keys and the first token",
     "{\"backend\":\"window\",\"params\":{\"window\":%s,\"global_first\":1}}",
     "1,3,5,7,9,11,15,19,23,27,33,65,129,257,385,513,769"},
    {"strided", "strided", "the last keys and every stride-th before",
     "{\"backend\":\"strided\",\"params\":{\"stride\":%s}}", "4,8,12,16,20,32,64,128,256"},
    {"fixed", "fixed", "the own window and two columns of every window",
     "{\"backend\":\"fixed\",\"params\":{\"stride\":%s,\"summary\":2}}", "4,8,12,16,20,32,64,128,256"},
    {"longformer", "longformer", "the nearest 33 keys and global first tokens",
     "{\"backend\":\"longformer\",\"params\":{\"window\":33,\"global_first\":%s}}", "2,4,8,12,16,20,64"},
    {"longformer-random", "longformer", "the nearest 33 keys and global tokens drawn at random",
     "{\"backend\":\"longformer\",\"params\":{\"window\":33,\"global_first\":0,\"global_random\":%s}}",
     "4,8,12,16,20"},
    {"bigbird", "bigbird", "block 64, neighbours, first block, random blocks",
     "{\"backend\":\"bigbird\",\"params\":{\"random_blocks\":%s}}", "1,2,3,4,5"},
    {"lsh", "lsh", "keys with the same hash", "{\"backend\":\"lsh\",\"params\":{\"buckets\":%s}}",
     "2,4,6,8,10,14,18,22,26,30"},
    {"pages", "pages", "the best pages of 64 keys",
     "{\"backend\":\"pages\",\"params\":{\"budget\":%s,\"phase\":\"all\"}}", "128,256,384,512,768"},
    {"dot-keep", "sparsefinder", "the best keys of each row by q'.k', window 33",
     DISTANCE "\"dot\",\"keep\":%s}}", "4,8,16,24,32,48,64,96,128,192,256,384"},
    {"dot-recall", "sparsefinder", "q'.k' above the fit's thresholds", DISTANCE "\"dot\",\"recall\":%s}}",
     "0.8,0.9,0.95,0.99"},
    {"dot-window", "sparsefinder", "the best 32 keys and a window",
     DISTANCE "\"dot\",\"keep\":32,\"window\":%s}}", "0,3,11,25,65,129"},
    {"l2-keep", "sparsefinder", "the nearest keys by |q'-k'|, window 33", DISTANCE "\"l2\",\"keep\":%s}}",
     "4,8,16,24,32,48,64,96,128,192,256,384"},
    {"l2", "sparsefinder", "|q'-k'|^2 below a threshold, window 3",
     DISTANCE "\"l2\",\"threshold\":%s,\"window\":3}}", "0.5,1,1.5,2,2.5,3,3.5,4,4.5,5,6,7,8,9,10"},
    {"cosine", "sparsefinder", "1 - cos(q', k') below a threshold, window 3",
     DISTANCE "\"cosine\",\"threshold\":%s,\"window\":3}}", "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1"},
    {"bins-fixed", "sparsefinder", "equal bins of tanh in any dimension",
     SPARSEFINDER "\"grouping\":\"bucket\",\"bins\":\"fixed\",\"buckets\":%s,\"window\":3}}", SIZES},
    {"bins-frozen", "sparsefinder", "equal bins of the fit in any dimension",
     SPARSEFINDER "\"grouping\":\"bucket\",\"bins\":\"frozen\",\"buckets\":%s,\"window\":3}}", SIZES},
    {"bins-equal", "sparsefinder", "equal quantiles of this text in any dimension",
     SPARSEFINDER "\"grouping\":\"bucket\",\"bins\":\"equal\",\"buckets\":%s,\"window\":3}}", SIZES},
    {"clusters", "sparsefinder", "a common cluster of the nearest two, window 33",
     SPARSEFINDER "\"grouping\":\"cluster\",\"clusters\":%s,\"top\":2}}", SIZES},
    {"clusters-top1", "sparsefinder", "the same nearest cluster, window 33",
     SPARSEFINDER "\"grouping\":\"cluster\",\"clusters\":%s,\"top\":1}}", SIZES},
    {"blocks", "sparsefinder", "the best blocks of 64 by clusters",
     SPARSEFINDER "\"grouping\":\"block\",\"select\":\"token\",\"keep\":%s}}", "1,2,4,6,8"},
    {"blocks-centroid", "sparsefinder", "blocks of 64 by centroid",
     SPARSEFINDER "\"grouping\":\"block\",\"select\":\"centroid\",\"keep\":%s}}", "1,2,4,6,8"},
    {"routing", "routing", "keys routed to the same mean",
     "{\"backend\":\"routing\",\"params\":{\"clusters\":%s}}", "2,4,6,8,10,12,16,20,32,64"},
    {"xattention", "xattention", "blocks of 64 by antidiagonal sums",
     "{\"backend\":\"xattention\",\"params\":{\"threshold\":%s}}", "0.5,0.7,0.8,0.9,0.95"},
};
const size_t sp_grid_count = sizeof sp_grids / sizeof sp_grids[0];

static bool listed(const char *list, const char *name)
{
    size_t size = strlen(name);
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strcspn(at, ",") == size && memcmp(at, name, size) == 0) return true;
    return false;
}

static const sp_grid *find_grid(const char *name, size_t size)
{
    for (size_t i = 0; i < sp_grid_count; i++)
        if (strlen(sp_grids[i].name) == size && memcmp(sp_grids[i].name, name, size) == 0)
            return &sp_grids[i];
    return NULL;
}

/* Every name of a list must be a backend of some grid. */
static sp_status check_backends(const char *list, sp_error *error)
{
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        size_t size = strcspn(at, ","), i = 0;
        while (i < sp_grid_count &&
               (strlen(sp_grids[i].backend) != size || memcmp(sp_grids[i].backend, at, size) != 0))
            i++;
        if (i == sp_grid_count)
            return sp_fail_param(error, SP_USAGE, "backends", "--backends: no grid has the backend \"%.*s\"",
                                 (int)(size < 60 ? size : 60), at);
    }
    return SP_OK;
}

/* One number of a list; *at moves behind it and its comma. */
static bool read_value(const char **at, char out[32], double *value)
{
    size_t size = strcspn(*at, ",;");
    if (size == 0 || size > 31) return false;
    memcpy(out, *at, size);
    out[size] = 0;
    char *end;
    *value = strtod(out, &end);
    *at += size + ((*at)[size] == ',');
    return *end == 0 && isfinite(*value) && strspn(out, "0123456789.") == size;
}

/* Appends the items of one grid; values NULL: its own. */
static sp_status add_grid(const sp_grid *grid, const char *values, sp_grid_item *items, size_t *n,
                          sp_error *error)
{
    const char *at = values ? values : grid->values;
    size_t count = 0;
    if (!strchr(grid->format, '%')) {
        items[*n] = (sp_grid_item){.grid = grid, .value = (double)NAN};
        (void)snprintf(items[(*n)++].attention, SP_GRID_ATTENTION_BYTES, "%s", grid->format);
        return SP_OK;
    }
    while (*at && *at != ';') {
        char text[32];
        sp_grid_item *item = &items[*n];
        item->grid = grid;
        if (!read_value(&at, text, &item->value) || ++count > SP_GRID_MAX_VALUES)
            return sp_fail_param(error, SP_USAGE, "grid",
                                 "--grid: %s takes at most %d numbers between commas", grid->name,
                                 SP_GRID_MAX_VALUES);
        const char *place = strstr(grid->format, "%s");
        (void)snprintf(item->attention, sizeof item->attention, "%.*s%s%s", (int)(place - grid->format),
                       grid->format, text, place + 2);
        (*n)++;
    }
    return SP_OK;
}

/* What "NAME=V,V;NAME" says about one grid. */
static bool is_asked(const char *grids, const sp_grid *grid, const char **values)
{
    size_t size = strlen(grid->name);
    for (const char *at = grids; at; at = strchr(at, ';') ? strchr(at, ';') + 1 : NULL) {
        if (strcspn(at, "=;") != size || memcmp(at, grid->name, size) != 0) continue;
        *values = at[size] == '=' ? at + size + 1 : NULL;
        return true;
    }
    return false;
}

static sp_status check_grids(const char *grids, sp_error *error)
{
    for (const char *at = grids; at; at = strchr(at, ';') ? strchr(at, ';') + 1 : NULL) {
        size_t size = strcspn(at, "=;");
        if (!find_grid(at, size))
            return sp_fail_param(error, SP_USAGE, "grid", "--grid: there is no grid \"%.*s\"",
                                 (int)(size < 60 ? size : 60), at);
    }
    return SP_OK;
}

sp_status sp_grid_select(const char *backends, const char *grids, sp_grid_item **out, size_t *n,
                         sp_error *error)
{
    sp_status status = check_backends(backends, error);
    if (!status) status = check_grids(grids, error);
    if (status) return status;
    *n = 0;
    *out = sp_alloc_zero(sp_grid_count * (SP_GRID_MAX_VALUES + 1), sizeof **out);
    if (!*out) return sp_fail(error, SP_NO_MEMORY, "no memory for the points of a sweep");
    for (size_t i = 0; i < sp_grid_count && !status; i++) {
        const sp_grid *grid = &sp_grids[i];
        const char *values = NULL;
        bool wanted = i == 0 || (sp_backend_find(grid->backend, strlen(grid->backend)) &&
                                 (!backends || listed(backends, grid->backend)) &&
                                 (!grids || is_asked(grids, grid, &values)));
        if (wanted) status = add_grid(grid, values, *out, n, error);
    }
    const char *values;
    bool dense =
        (!backends || listed(backends, "dense")) && (!grids || is_asked(grids, &sp_grids[0], &values));
    if (!status && *n == 1 && !dense) /* dense is there for comparison alone */
        status = sp_fail_param(error, SP_USAGE, backends ? "backends" : "grid",
                               "--grid, --backends: together they leave no curve to measure");
    if (status) {
        sp_free(*out);
        *out = NULL;
    }
    return status;
}
