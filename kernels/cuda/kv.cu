/* Storing keys and values: rounded to the cache's type, put where the segments say. */
#include "kernels/cuda/intrin.cuh"

enum { THREADS = 128 };

CUDA_DEVICE void put(const struct cuda_store &p, int64_t row, int64_t k, float x) {
    if (p.bf16)
        static_cast<bf16_t *>(p.kv)[row * p.n_col + k] = cuda_f32_bf16(x);
    else
        static_cast<float *>(p.kv)[row * p.n_col + k] = x;
}

static __global__ void k_store(struct cuda_store p) {
    struct cuda_item item = {(int32_t)blockIdx.x, 0, (int64_t)blockIdx.y * CUDA_STORE_ROWS};
    if (p.item != NULL) item = p.item[blockIdx.x];
    const struct dev_seg s = p.seg[item.seg];
    const int64_t left = s.n_row - item.first,
                  n = left < CUDA_STORE_ROWS ? left : (int64_t)CUDA_STORE_ROWS;
    for (int64_t r = item.first; r < item.first + n; r++)
        for (int64_t k = threadIdx.x; k < p.n_col; k += THREADS) {
            const float x = p.x[(s.first_row + r) * p.n_col + k];
            put(p, s.own_row + r, k, x);
            if (s.pos + r < s.n_sink) put(p, s.sink_row + s.pos + r, k, x);
        }
}

// ---- launchers

extern "C" void cuda_kv_store_rows(cudaStream_t s, const struct cuda_store *p) {
    const dim3 grid((unsigned)p->n_item, p->item != NULL ? 1u : (unsigned)p->n_piece);
    CUDA_LAUNCH(k_store, grid, THREADS, 0, s, *p);
}
