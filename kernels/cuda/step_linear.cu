/* Linear layers of a handle for steps: stored weights are expanded in registers and multiplied with the rows at once.
 * Eight lanes have a column of the product; each takes runs of 16 elements, lane l the runs l, l + 8, .., one chain
 * of fused multiply-adds per row, and the lanes' sums are added in a tree. How many rows are computed beside each
 * other does not change a chain. */
#include "kernels/cuda/elem.cuh"

enum { THREADS = 128, LANES = 8, COLS = THREADS / LANES };

CUDA_DEVICE void load_run(float *v, const float *x) {
    const float4 *from = reinterpret_cast<const float4 *>(x);
    for (int i = 0; i < ELEM_RUN / 4; i++) {
        const float4 q = from[i];
        v[4 * i] = q.x, v[4 * i + 1] = q.y, v[4 * i + 2] = q.z, v[4 * i + 3] = q.w;
    }
}
CUDA_DEVICE void load_run(float *v, const bf16_t *x) {
    elem_words(v, reinterpret_cast<const unsigned char *>(x), DT_BF16);
}

template <int R, typename X>
static __global__ void __launch_bounds__(THREADS) k_linear(struct cuda_step_linear p) {
    const int lane = threadIdx.x % LANES;
    const int64_t col = (int64_t)blockIdx.x * COLS + threadIdx.x / LANES,
                  row = (int64_t)blockIdx.y * R;
    const bool there = col < p.n_out;
    const unsigned char *w = p.w + (there ? col : 0) * p.row_bytes;
    const X *x[R];
    float sum[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
        sum[r] = 0.0f;
        x[r] = static_cast<const X *>(p.x) + (row + r < p.n_row ? row + r : row) * p.k_pad;
    }
    for (int64_t k = lane * ELEM_RUN; k < p.n_in; k += LANES * ELEM_RUN) {
        float a[ELEM_RUN], b[ELEM_RUN];
        elem_run(a, w, p.type, k, p.n_in);
#pragma unroll
        for (int r = 0; r < R; r++) {
            load_run(b, x[r] + k);
#pragma unroll
            for (int i = 0; i < ELEM_RUN; i++) sum[r] = fmaf(a[i], b[i], sum[r]);
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        for (int m = LANES / 2; m > 0; m /= 2) sum[r] += cuda_shfl_xor(sum[r], m);
        if (lane == 0 && there && row + r < p.n_row)
            p.y[(row + r) * p.n_out + col] = p.bias != NULL ? sum[r] + p.bias[col] : sum[r];
    }
}

// ---- launchers

template <int R> static void launch(cudaStream_t s, const struct cuda_step_linear *p) {
    const dim3 grid((unsigned)((p->n_out + COLS - 1) / COLS), (unsigned)((p->n_row + R - 1) / R));
    if (p->bf16)
        CUDA_LAUNCH((k_linear<R, bf16_t>), grid, THREADS, 0, s, *p);
    else
        CUDA_LAUNCH((k_linear<R, float>), grid, THREADS, 0, s, *p);
}

extern "C" void cuda_step_linear_rows(cudaStream_t s, const struct cuda_step_linear *p) {
    if (p->n_row == 1)
        launch<1>(s, p);
    else if (p->n_row == 2)
        launch<2>(s, p);
    else if (p->n_row <= 4)
        launch<4>(s, p);
    else
        launch<8>(s, p);
}
