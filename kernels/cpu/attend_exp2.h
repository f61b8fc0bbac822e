/* Constants of 2^x for the attention kernels: with n = round(x) and f = x - n in [-1/2, 1/2],
 * 2^x = 2^n (1 + f (C1 + f (C2 + ...))), a polynomial of relative error 9e-8 (minimax, 2^0 exact), 1.6e-7 as
 * computed. */
#ifndef SPARSED_KERNELS_CPU_ATTEND_EXP2_H
#define SPARSED_KERNELS_CPU_ATTEND_EXP2_H

#define SP_EXP2_C1 0x1.62e42ap-1f
#define SP_EXP2_C2 0x1.ebf9bcp-3f
#define SP_EXP2_C3 0x1.c6b752p-5f
#define SP_EXP2_C4 0x1.3cea88p-7f
#define SP_EXP2_C5 0x1.5bba14p-10f

#endif
