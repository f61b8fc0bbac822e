/* Small dense matrices in double, row-major: what starting a fit needs. Tests:
 * tests/unit/engine/test_fit_parts.c */
#ifndef SPARSED_ENGINE_SPARSEFINDER_LINALG_H
#define SPARSED_ENGINE_SPARSEFINDER_LINALG_H

#include "kernels/base.h"

/* Eigenvalues of a symmetric a (n, n), falling, to values (n); row i of vectors (n, n) is the eigenvector of
 * values[i]. a is overwritten. Cyclic Jacobi rotations. */
void sp_eigen_symmetric(size_t n, double *a, double *values, double *vectors);
/* out = a b; a (n, m), b (m, k), out (n, k). */
void sp_matrix_product(size_t n, size_t m, size_t k, const double *a, const double *b, double *out);
/* out = a^power of a symmetric positive a (n, n), overwritten; eigenvalues below 1e-6 of the largest count as
 * that. work (2 n n + n). */
void sp_matrix_power(size_t n, double *a, double power, double *out, double *work);

#endif
