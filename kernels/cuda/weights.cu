/* Weights and embeddings: from stored elements to operands, and activations to operands. */
#include "kernels/cuda/elem.cuh"

enum { THREADS = 256 };

// Puts a run at column k of a row of operands; k_pad is a multiple of 4 (f32) or 8 (bf16).
CUDA_DEVICE void put_run(void *dst, bool bf16, int64_t row, int64_t k, int64_t k_pad,
                         const float *x) {
    if (bf16) {
        uint4 *to = reinterpret_cast<uint4 *>(static_cast<bf16_t *>(dst) + row * k_pad + k);
        for (int i = 0; i < ELEM_RUN && k + i < k_pad; i += 8)
            to[i / 8] =
                make_uint4(cuda_pack_bf16(x[i], x[i + 1]), cuda_pack_bf16(x[i + 2], x[i + 3]),
                           cuda_pack_bf16(x[i + 4], x[i + 5]), cuda_pack_bf16(x[i + 6], x[i + 7]));
    } else {
        float4 *to = reinterpret_cast<float4 *>(static_cast<float *>(dst) + row * k_pad + k);
        for (int i = 0; i < ELEM_RUN && k + i < k_pad; i += 4)
            to[i / 4] = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    }
}

static __global__ void k_expand(struct cuda_expand p) {
    const int64_t runs = (p.k_pad + ELEM_RUN - 1) / ELEM_RUN;
    const int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.n_row * runs) return;
    const int64_t row = at / runs, k = at % runs * ELEM_RUN;
    float x[ELEM_RUN];
    bool ok = true;
    if (k < p.n_in) {
        ok = elem_run(x, p.src + row * p.row_bytes, p.type, k, p.n_in);
    } else {
        for (int i = 0; i < ELEM_RUN; i++) x[i] = 0.0f;
    }
    if (p.dst != NULL) put_run(p.dst, p.bf16, row, k, p.k_pad, x);
    if (!ok && p.watch.fault != NULL) elem_fault(p.watch, CUDA_FAULT_FINITE, 0);
}

static __global__ void k_expand_turned(struct cuda_turn p) {
    const int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t n_k = p.k0 + p.n_k < p.x.n_in ? p.n_k : p.x.k_pad - p.k0;
    if (at >= p.x.n_row * n_k) return;
    const int64_t row = at % p.x.n_row, k = at / p.x.n_row;
    const int64_t stored = p.first + row / p.block * p.stride + row % p.block;
    const float x = k < p.n_k ? elem_plain(p.x.src + k * p.x.row_bytes, p.x.type, stored) : 0.0f;
    const int64_t to = row * p.x.k_pad + p.k0 + k;
    if (p.x.bf16)
        static_cast<bf16_t *>(p.x.dst)[to] = cuda_f32_bf16(x);
    else
        static_cast<float *>(p.x.dst)[to] = x;
    if (!elem_finite(x)) elem_fault(p.x.watch, CUDA_FAULT_FINITE, 0);
}

static __global__ void k_make(struct cuda_make p) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= p.n) return;
    const int64_t row = (p.at + i) / p.n_in, k = (p.at + i) % p.n_in;
    const int64_t e = (p.first + row / p.block * p.stride + row % p.block) * p.n_in + k;
    uint64_t z = p.seed + (uint64_t)(e / 8 + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    p.dst[i] = cuda_f32_bf16((float)(signed char)(z >> (8 * (e & 7))) * p.scale); // exact
}

// Four columns a thread.
static __global__ void k_stage(void *dst, bool bf16, const float *x, int64_t n_row, int64_t n_pad,
                               int64_t n_in, int64_t k_pad) {
    const int64_t quads = k_pad / 4, at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= n_pad * quads) return;
    const int64_t row = at / quads, k = at % quads * 4;
    float v[4];
    for (int i = 0; i < 4; i++) v[i] = row < n_row && k + i < n_in ? x[row * n_in + k + i] : 0.0f;
    if (bf16)
        static_cast<uint2 *>(dst)[at] =
            make_uint2(cuda_pack_bf16(v[0], v[1]), cuda_pack_bf16(v[2], v[3]));
    else
        static_cast<float4 *>(dst)[at] = make_float4(v[0], v[1], v[2], v[3]);
}

// One block a row.
static __global__ void k_embed(struct cuda_embed p) {
    const int64_t row = blockIdx.x;
    const int32_t id = p.ids[row];
    if (id < 0 || id >= p.n_table) {
        if (threadIdx.x == 0) elem_fault(p.watch, CUDA_FAULT_RANGE, (uint32_t)id);
        return;
    }
    float *y = p.y + row * p.n_col;
    for (int64_t k = (int64_t)threadIdx.x * ELEM_RUN; k < p.n_col; k += THREADS * ELEM_RUN) {
        float x[ELEM_RUN];
        if (!elem_run(x, p.table + id * p.row_bytes, p.type, k, p.n_col))
            elem_fault(p.watch, CUDA_FAULT_FINITE, (uint32_t)id);
        for (int i = 0; i < ELEM_RUN && k + i < p.n_col; i++) y[k + i] = x[i] * p.scale;
    }
}

// ---- launchers

static unsigned blocks_of(int64_t n) {
    return (unsigned)((n + THREADS - 1) / THREADS);
}

extern "C" void cuda_expand_rows(cudaStream_t s, const struct cuda_expand *p) {
    const int64_t runs = (p->k_pad + ELEM_RUN - 1) / ELEM_RUN;
    CUDA_LAUNCH(k_expand, blocks_of(p->n_row * runs), THREADS, 0, s, *p);
}

extern "C" void cuda_expand_turned(cudaStream_t s, const struct cuda_turn *p) {
    const int64_t n_k = p->k0 + p->n_k < p->x.n_in ? p->n_k : p->x.k_pad - p->k0;
    CUDA_LAUNCH(k_expand_turned, blocks_of(p->x.n_row * n_k), THREADS, 0, s, *p);
}

extern "C" void cuda_make_rows(cudaStream_t s, const struct cuda_make *p) {
    CUDA_LAUNCH(k_make, blocks_of(p->n), THREADS, 0, s, *p);
}

extern "C" void cuda_stage_rows(cudaStream_t s, void *dst, bool bf16, const float *x, int64_t n_row,
                                int64_t n_pad, int64_t n_in, int64_t k_pad) {
    CUDA_LAUNCH(k_stage, blocks_of(n_pad * (k_pad / 4)), THREADS, 0, s, dst, bf16, x, n_row, n_pad,
                n_in, k_pad);
}

extern "C" void cuda_embed_rows(cudaStream_t s, const struct cuda_embed *p) {
    CUDA_LAUNCH(k_embed, (unsigned)p->n_row, THREADS, 0, s, *p);
}
