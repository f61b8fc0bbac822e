/* The loops of fitting in plain C, one number at a time: the body, train_loops.h, as it is. Tests:
 * tests/kernels/test_train.c */
#include "kernels/cpu/train_loops.h"
