/* Kernels with mistakes, to see the simulated GPUs find them (tests/test_cuda.c). */
#ifndef BASIN_TESTS_SIMT_FAULTY_H
#define BASIN_TESTS_SIMT_FAULTY_H

#include <cuda_runtime.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* y[64] = 63, 62, .. 0, through shared memory, with the barrier that this needs or without it. */
void faulty_reverse(cudaStream_t s, float *y, bool barrier);
/* y[256] = x[256] through asynchronous copies, waited for or not. */
void faulty_through(cudaStream_t s, float *y, const float *x, bool wait);
void faulty_put(cudaStream_t s, float *y, int n); /* writes y[n] to y[n + 31] */
void faulty_apart(cudaStream_t s, float *y);      /* half of a warp shuffles */

#ifdef __cplusplus
}
#endif

#endif
