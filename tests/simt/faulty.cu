/* Kernels with the mistakes that the simulated GPUs are there to find. */
#include "kernels/cuda/intrin.cuh"
#include "tests/simt/faulty.h"

enum { THREADS = 64 };

static __global__ void k_reverse(float *y, bool barrier) {
    CUDA_SMEM(float, line);
    line[threadIdx.x] = (float)threadIdx.x;
    if (barrier) __syncthreads();
    y[threadIdx.x] = line[THREADS - 1 - threadIdx.x];
}

static __global__ void k_through(float *y, const float *x, bool wait) {
    CUDA_SMEM(float, line);
    cuda_copy_async(line + 4 * threadIdx.x, x + 4 * threadIdx.x, true);
    cuda_copies_commit();
    if (wait) cuda_copies_wait<0>();
    for (int i = 0; i < 4; i++) y[4 * threadIdx.x + i] = line[4 * threadIdx.x + i];
}

static __global__ void k_put(float *y, int n) {
    y[n + threadIdx.x] = 1.0f;
}

static __global__ void k_apart(float *y) {
    if (threadIdx.x % 2 == 0) y[threadIdx.x] = cuda_shfl_xor(1.0f, 1);
}

extern "C" void faulty_reverse(cudaStream_t s, float *y, bool barrier) {
    CUDA_LAUNCH(k_reverse, 1, THREADS, THREADS * sizeof(float), s, y, barrier);
}
extern "C" void faulty_through(cudaStream_t s, float *y, const float *x, bool wait) {
    CUDA_LAUNCH(k_through, 1, THREADS, 4 * THREADS * sizeof(float), s, y, x, wait);
}
extern "C" void faulty_put(cudaStream_t s, float *y, int n) {
    CUDA_LAUNCH(k_put, 1, 32, 0, s, y, n);
}
extern "C" void faulty_apart(cudaStream_t s, float *y) {
    CUDA_LAUNCH(k_apart, 1, 32, 0, s, y);
}
