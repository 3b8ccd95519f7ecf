/* Stands for kernels/cuda/intrin.cuh, which says what these mean: the same on simulated GPUs. */
#ifndef BASIN_TESTS_SIMT_INTRIN_CUH
#define BASIN_TESTS_SIMT_INTRIN_CUH

#include "kernels/cuda/kern.h"

#define CUDA_DEVICE static inline
#define CUDA_LAUNCH(kernel, grid, block, smem, stream, ...)                                        \
    simt_launch(kernel, (grid), (block), (smem), (stream), __VA_ARGS__)
#define CUDA_ALLOW_SMEM(kernel, bytes) (void)(bytes)
#define CUDA_SMEM(type, name)                                                                      \
    simt_check_shared(simt_self->smem, sizeof(type));                                              \
    type *name = reinterpret_cast<type *>(simt_self->smem)

CUDA_DEVICE float cuda_bf16_f32(bf16_t h) {
    return dtype_bf16_to_f32(h);
}
CUDA_DEVICE bf16_t cuda_f32_bf16(float f) {
    return dtype_f32_to_bf16(f);
}
CUDA_DEVICE uint32_t cuda_pack_bf16(float lo, float hi) {
    return (uint32_t)dtype_f32_to_bf16(lo) | (uint32_t)dtype_f32_to_bf16(hi) << 16;
}
CUDA_DEVICE float cuda_f16_f32(uint16_t h) {
    return dtype_f16_to_f32(h);
}

CUDA_DEVICE float cuda_mul(float a, float b) {
    return a * b;
}

// ---- warp

template <typename T> struct simt_shuffle {
    T x;
    int mask;
};
template <typename T>
CUDA_DEVICE void simt_shuffle_all(const void *const in[32], void *const out[32]) {
    for (int l = 0; l < 32; l++) {
        const simt_shuffle<T> *own = static_cast<const simt_shuffle<T> *>(in[l]);
        *static_cast<T *>(out[l]) = static_cast<const simt_shuffle<T> *>(in[l ^ own->mask])->x;
    }
}
template <typename T> CUDA_DEVICE T cuda_shfl_xor(T x, int mask) {
    const simt_shuffle<T> in = {x, mask};
    T out;
    simt_warp(simt_shuffle_all<T>, &in, &out);
    return out;
}

CUDA_DEVICE void simt_any_all(const void *const in[32], void *const out[32]) {
    bool any = false;
    for (int l = 0; l < 32; l++) any = any || *static_cast<const bool *>(in[l]);
    for (int l = 0; l < 32; l++) *static_cast<bool *>(out[l]) = any;
}
CUDA_DEVICE bool cuda_any(bool x) {
    bool out;
    simt_warp(simt_any_all, &x, &out);
    return out;
}

// ---- tensor cores

struct simt_fragments {
    float d[4];
    uint32_t a[4], b[2];
};
CUDA_DEVICE float simt_half_of(uint32_t pair, int upper) {
    return dtype_bf16_to_f32((bf16_t)(upper ? pair >> 16 : pair));
}
// Products are exact; sums of sixteen are made in double and rounded once.
CUDA_DEVICE void simt_mma_all(const void *const in[32], void *const out[32]) {
    float a[16][16], b[16][8];
    double d[16][8];
    for (int l = 0; l < 32; l++) {
        const simt_fragments *f = static_cast<const simt_fragments *>(in[l]);
        const int g = l / 4, c = l % 4 * 2;
        for (int i = 0; i < 8; i++) {
            a[g + i / 2 % 2 * 8][c + i / 4 * 8 + i % 2] = simt_half_of(f->a[i / 2], i % 2);
            if (i < 4) b[c + i / 2 * 8 + i % 2][g] = simt_half_of(f->b[i / 2], i % 2);
            if (i < 4) d[g + i / 2 * 8][c + i % 2] = (double)f->d[i];
        }
    }
    for (int r = 0; r < 16; r++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++) d[r][n] += (double)(a[r][k] * b[k][n]);
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++)
            static_cast<float *>(out[l])[i] = (float)d[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
}
CUDA_DEVICE void cuda_mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    const simt_fragments in = {{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}};
    simt_warp(simt_mma_all, &in, d);
}

CUDA_DEVICE void simt_ldmatrix_any(const void *const in[32], void *const out[32], bool turned) {
    for (int l = 0; l < 32; l++)
        for (int m = 0; m < 4; m++) {
            uint32_t pair = 0;
            for (int e = 0; e < 2; e++) {
                const int row = turned ? l % 4 * 2 + e : l / 4,
                          col = turned ? l / 4 : l % 4 * 2 + e;
                pair |= (uint32_t) static_cast<const bf16_t *>(in[8 * m + row])[col] << (16 * e);
            }
            static_cast<uint32_t *>(out[l])[m] = pair;
        }
}
CUDA_DEVICE void simt_ldmatrix_all(const void *const in[32], void *const out[32]) {
    simt_ldmatrix_any(in, out, false);
}
CUDA_DEVICE void simt_ldmatrix_turned_all(const void *const in[32], void *const out[32]) {
    simt_ldmatrix_any(in, out, true);
}
CUDA_DEVICE void simt_aligned(const void *p) {
    if ((uintptr_t)p % 16 != 0) simt_die("an address is not a multiple of 16");
}
CUDA_DEVICE void cuda_ldmatrix(uint32_t r[4], const bf16_t *row) {
    simt_check_shared(row, 16);
    simt_aligned(row);
    simt_warp(simt_ldmatrix_all, row, r);
}
CUDA_DEVICE void cuda_ldmatrix_turned(uint32_t r[4], const bf16_t *row) {
    simt_check_shared(row, 16);
    simt_aligned(row);
    simt_warp(simt_ldmatrix_turned_all, row, r);
}

// ---- asynchronous copies

CUDA_DEVICE void cuda_copy_async(void *shared, const void *global, bool there) {
    simt_check_shared(shared, 16);
    simt_aligned(shared);
    simt_aligned(global);
    if (there) simt_check_global(global, 16);
    simt_copy(shared, there ? global : NULL);
}
CUDA_DEVICE void cuda_copies_commit(void) {
    simt_copies_commit();
}
template <int left> CUDA_DEVICE void cuda_copies_wait(void) {
    simt_copies_wait(left);
}

#endif
