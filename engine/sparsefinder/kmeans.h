/* k-means (Lloyd 1982) started by k-means++ (Arthur and Vassilvitskii 2007) or at random points; squared
 * Euclid, ties to the lower id. Tests: tests/unit/engine/test_fit_parts.c */
#ifndef SPARSED_ENGINE_SPARSEFINDER_KMEANS_H
#define SPARSED_ENGINE_SPARSEFINDER_KMEANS_H

#include "engine/sparsefinder/random.h"
#include "kernels/train.h"

typedef enum sp_kmeans_start { SP_KMEANS_SPREAD, SP_KMEANS_RANDOM } sp_kmeans_start; /* SPREAD: k-means++ */

/* points (n, dim), n >= n_centroids, to centroids (n_centroids, dim), after at most `rounds` rounds. A
 * cluster that loses all its points stays where it was. gap (may be NULL): mean of (squared distance to the
 * second nearest centroid less that to the nearest). SP_NO_MEMORY. */
sp_status sp_kmeans(const sp_train_ops *ops, sp_random *random, sp_kmeans_start start, size_t n, size_t dim,
                    const float *points, size_t n_centroids, unsigned rounds, float *centroids, double *gap,
                    sp_error *error) SP_MUST_CHECK;

#endif
