/* The head: what one block of the vocabulary says about each row, folded into the row's state in the order of
 * the vocabulary. A row is one warp's. */
#include "kernels/cuda/elem.cuh"

enum { THREADS = 256, WARP = 32 };

CUDA_DEVICE float logit(const struct cuda_head &p, int64_t row, int64_t k) {
    float x = p.c[row * p.n_col + k];
    if (p.bias != NULL) x += p.bias[k];
    x *= p.scale;
    return p.cap > 0.0f ? p.cap * tanhf(x * p.inv_cap) : x;
}

// The same value in every lane: maximum, and sum of exponentials below it.
CUDA_DEVICE void block_sums(const struct cuda_head &p, int64_t row, int lane, float *max_out,
                            float *sum_out, bool *bad_out) {
    float max = -3.0e38f, sum = 0.0f;
    bool bad = false;
    for (int64_t k = lane; k < p.n_col; k += WARP) {
        const float x = logit(p, row, k);
        bad = bad || !elem_finite(x);
        max = fmaxf(max, x);
        if (p.logits != NULL) p.logits[row * p.n_vocab + p.col + k] = x;
    }
    for (int m = WARP / 2; m > 0; m /= 2) max = fmaxf(max, cuda_shfl_xor(max, m));
    for (int64_t k = lane; k < p.n_col; k += WARP) sum += expf(logit(p, row, k) - max);
    for (int m = WARP / 2; m > 0; m /= 2) sum += cuda_shfl_xor(sum, m);
    *max_out = max;
    *sum_out = sum;
    *bad_out = cuda_any(bad);
}

static __global__ void k_head(struct cuda_head p) {
    const int lane = threadIdx.x % WARP;
    const int64_t row = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    if (row >= p.n_row) return;
    float max, sum;
    bool bad;
    block_sums(p, row, lane, &max, &sum, &bad);
    if (lane != 0) return;
    const int32_t target = p.target[row];
    struct cuda_head_state st = {0, -3.0e38f, 0, 0, 0};
    if (p.col > 0) st = p.state[row];
    if (target < -1 || target >= p.n_vocab) {
        elem_fault(p.watch, CUDA_FAULT_RANGE, (uint32_t)target);
        st.bad = 1;
    }
    if (target >= p.col && target < p.col + p.n_col) st.target = logit(p, row, target - p.col);
    const float most = fmaxf(st.max, max);
    st.sum =
        st.sum * exp((double)st.max - (double)most) + (double)sum * exp((double)max - (double)most);
    st.max = most;
    st.bad |= bad;
    p.state[row] = st;
    if (!p.last) return;
    const double nan = __longlong_as_double(0x7FF8000000000000LL);
    p.logp[row] = st.bad || target < 0 ? nan : (double)st.target - (double)st.max - log(st.sum);
}

// ---- launchers

extern "C" void cuda_head_block(cudaStream_t s, const struct cuda_head *p) {
    const int64_t per = THREADS / WARP;
    CUDA_LAUNCH(k_head, (unsigned)((p->n_row + per - 1) / per), THREADS, 0, s, *p);
}
