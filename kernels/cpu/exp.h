/* Constants of exp and of gelu's argument, shared by every level (elementwise_*.c), so that all of them give
 * the same bits. The method is in elementwise_reference.c. */
#ifndef SPARSED_KERNELS_CPU_EXP_H
#define SPARSED_KERNELS_CPU_EXP_H

#define SP_EXP_LOWEST (-87.0f) /* 2^n stays normal between these */
#define SP_EXP_HIGHEST 88.0f
#define SP_LOG2_E 0x1.715476p+0f
#define SP_ROUND_MAGIC 0x1.8p+23f /* adding and taking it away rounds to a whole number, ties to even */
#define SP_LN2_HIGH 0x1.62e4p-1f
#define SP_LN2_LOW 0x1.7f7d1cp-20f
#define SP_EXP_C0 0x1.fffffcp-2f
#define SP_EXP_C1 0x1.555492p-3f
#define SP_EXP_C2 0x1.5558f2p-5f
#define SP_EXP_C3 0x1.123a20p-7f
#define SP_EXP_C4 0x1.6a23d0p-10f

#define SP_GELU_A (-0x1.988454p+0f) /* -2 sqrt(2 / pi) */
#define SP_GELU_B 0x1.6e4e26p-5f    /* 0.044715 */

#endif
