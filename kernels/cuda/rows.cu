/* Operations on one row at a time: norms, activations, sums. A row of a norm is one warp's, so that its sum
 * does not depend on its neighbours. */
#include "kernels/cuda/intrin.cuh"

enum { THREADS = 256, WARP = 32 };

CUDA_DEVICE float warp_sum(float x) {
    for (int m = WARP / 2; m > 0; m /= 2) x += cuda_shfl_xor(x, m);
    return x;
}

static __global__ void k_norm(struct cuda_norm p) {
    const int lane = threadIdx.x % WARP;
    const int64_t row = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    if (row >= p.n_row) return;
    const float *x = p.x + row * p.n;
    float *y = p.y + row * p.n;
    float mean = 0.0f, square = 0.0f;
    if (p.layer) {
        for (int64_t i = lane; i < p.n; i += WARP) mean += x[i];
        mean = warp_sum(mean) / (float)p.n;
    }
    for (int64_t i = lane; i < p.n; i += WARP) square += (x[i] - mean) * (x[i] - mean);
    const float inv = 1.0f / sqrtf(warp_sum(square) / (float)p.n + p.eps);
    for (int64_t i = lane; i < p.n; i += WARP) {
        const float v = (x[i] - mean) * inv * (p.w[i] + p.offset);
        y[i] = p.b != NULL ? v + p.b[i] : v;
    }
}

CUDA_DEVICE float activate(float g, enum act_kind kind) {
    switch (kind) {
    case ACT_SILU: return g / (1.0f + expf(-g));
    case ACT_GELU_ERF: return 0.5f * g * erfcf(-g * 0.70710678118654752f);
    case ACT_GELU_TANH: {
        const float z = 0.79788456080286536f * (g + 0.044715f * g * g * g);
        return 0.5f * g * (1.0f + tanhf(z));
    }
    case ACT_RELU: break;
    }
    return g < 0.0f ? 0.0f : g; // NaN stays NaN
}

static __global__ void k_act(float *y, const float *g, const float *u, enum act_kind kind,
                             int64_t n) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    const float a = activate(g[i], kind);
    y[i] = u != NULL ? a * u[i] : a;
}

static __global__ void k_add(float *y, const float *x, float scale, int64_t n) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) y[i] += scale * x[i];
}

static __global__ void k_clip(float *y, float most, int64_t n) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    const float x = y[i];
    y[i] = x > most ? most : x < -most ? -most : x; // NaN stays NaN
}

static __global__ void k_bias(float *y, const float *bias, int64_t n, int64_t n_col) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) y[i] += bias[i % n_col];
}

// ---- launchers

static unsigned blocks_of(int64_t n, int64_t per) {
    return (unsigned)((n + per - 1) / per);
}

extern "C" void cuda_norm_rows(cudaStream_t s, const struct cuda_norm *p) {
    CUDA_LAUNCH(k_norm, blocks_of(p->n_row, THREADS / WARP), THREADS, 0, s, *p);
}

extern "C" void cuda_act_rows(cudaStream_t s, float *y, const float *g, const float *u,
                              enum act_kind kind, int64_t n) {
    CUDA_LAUNCH(k_act, blocks_of(n, THREADS), THREADS, 0, s, y, g, u, kind, n);
}

extern "C" void cuda_clip_rows(cudaStream_t s, float *y, float most, int64_t n) {
    CUDA_LAUNCH(k_clip, blocks_of(n, THREADS), THREADS, 0, s, y, most, n);
}

extern "C" void cuda_add_rows(cudaStream_t s, float *y, const float *x, float scale, int64_t n) {
    CUDA_LAUNCH(k_add, blocks_of(n, THREADS), THREADS, 0, s, y, x, scale, n);
}

extern "C" void cuda_bias_rows(cudaStream_t s, float *y, const float *bias, int64_t n_row,
                               int64_t n_col) {
    CUDA_LAUNCH(k_bias, blocks_of(n_row * n_col, THREADS), THREADS, 0, s, y, bias, n_row * n_col,
                n_col);
}
