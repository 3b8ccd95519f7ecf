/* The head: what products say about each row, in parts of the vocabulary that are joined at the end. A part of a row
 * is one warp's. */
#include "kernels/cuda/soft.cuh"

enum { THREADS = 256, WARP = 32 };

// Products that are rounded by themselves: what is read again as a logit is what was summed.
CUDA_DEVICE float logit(const struct cuda_head &p, int64_t row, int64_t k) {
    float x = p.c[row * p.n_col + k];
    if (p.bias != NULL) x += p.bias[k];
    x = cuda_mul(x, p.scale);
    if (!elem_finite(x)) return x; // a cap would hide it
    return p.cap > 0.0f ? cuda_mul(p.cap, tanhf(x * p.inv_cap)) : x;
}

static __global__ void k_head(struct cuda_head p) {
    const int lane = threadIdx.x % WARP;
    const int64_t n_part = (p.n_col + CUDA_PART - 1) / CUDA_PART;
    const int64_t at = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    if (at >= p.n_row * n_part) return;
    const int64_t row = at / n_part, begin = at % n_part * CUDA_PART;
    const int n = (int)(p.n_col - begin < CUDA_PART ? p.n_col - begin : (int64_t)CUDA_PART);
    const int64_t target = (int64_t)p.target[row] - p.col - begin;
    float x[SOFT_PER];
    for (int i = 0; i < SOFT_PER; i++) {
        const int k = lane + WARP * i;
        x[i] = k < n ? logit(p, row, begin + k) : 0.0f;
        if (k < n && p.logits != NULL) p.logits[row * p.n_vocab + p.col + begin + k] = x[i];
        if (k < n && k == target) p.target_logit[row] = x[i];
    }
    const struct cuda_part part = soft_part(x, n, true);
    if (lane == 0) p.part[row * p.n_part + (p.col + begin) / CUDA_PART] = part;
}

static __global__ void k_join(struct cuda_head p) {
    const int64_t row = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    if (row >= p.n_row) return;
    const struct soft s = soft_join(p.part + row * p.n_part, p.n_part);
    if (threadIdx.x % WARP != 0) return;
    const int32_t target = p.target[row];
    const bool there = target >= 0 && target < p.n_vocab;
    if (!there && target != -1) elem_fault(p.watch, CUDA_FAULT_RANGE, (uint32_t)target);
    p.logp[row] = there ? soft_logp(p.target_logit[row], s) : soft_nan();
}

// ---- launchers

static unsigned blocks_of(int64_t warps) {
    const int64_t per = THREADS / WARP;
    return (unsigned)((warps + per - 1) / per);
}

extern "C" void cuda_head_block(cudaStream_t s, const struct cuda_head *p) {
    const int64_t n_part = (p->n_col + CUDA_PART - 1) / CUDA_PART;
    CUDA_LAUNCH(k_head, blocks_of(p->n_row * n_part), THREADS, 0, s, *p);
}

extern "C" void cuda_head_join(cudaStream_t s, const struct cuda_head *p) {
    CUDA_LAUNCH(k_join, blocks_of(p->n_row), THREADS, 0, s, *p);
}
