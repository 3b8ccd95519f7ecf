#include "kernels/cpu/kern.h"

#if defined(__x86_64__)
#define VEC_ISA 1
#include "kernels/cpu/vec.h"
#include "kernels/cpu/vec_int.h"

// 6 x 16: 12 accumulators, two columns of B and a broadcast in 16 registers.
enum { NV = 2, MR_MAX = 6, TILE_KEYS = 96 };
#define TILE_SIZES(X)                                                                              \
    X(1);                                                                                          \
    X(2);                                                                                          \
    X(4);                                                                                          \
    X(6)
#include "kernels/cpu/kern_gemm.inc.h"
#include "kernels/cpu/kern_rows.inc.h"
#include "kernels/cpu/kern_soft.inc.h"

// The first n of 8 lanes.
static __m256i lanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// n_i x n_k of 8 x 8 words, n_dst lanes of each column written: pairs of rows, pairs of pairs,
// halves.
static void transpose8(uint32_t *dst, int64_t ldd, int n_dst, const uint32_t *src, int64_t lds,
                       int n_i, int n_k) {
    const __m256i in = lanes(n_k), out = lanes(n_dst);
    __m256 r[8], t[8];
    for (int i = 0; i < 8; i++) {
        const __m256i zero = _mm256_setzero_si256();
        r[i] = _mm256_castsi256_ps(i < n_i ? _mm256_maskload_epi32((const int *)(src + i * lds), in)
                                           : zero);
    }
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
    for (int k = 0; k < 4; k++) {
        t[k] = _mm256_permute2f128_ps(r[k], r[k + 4], 0x20);
        t[k + 4] = _mm256_permute2f128_ps(r[k], r[k + 4], 0x31);
    }
    for (int k = 0; k < n_k; k++)
        _mm256_maskstore_epi32((int *)(dst + k * ldd), out, _mm256_castps_si256(t[k]));
}

static void transpose(uint32_t *dst, int64_t ldd, int n_dst, const uint32_t *src, int64_t lds,
                      int n_i, int64_t n_k) {
    for (int i = 0; i < n_dst; i += 8)
        for (int64_t k = 0; k < n_k; k += 8)
            transpose8(dst + k * ldd + i, ldd, n_dst - i < 8 ? n_dst - i : 8, src + i * lds + k,
                       lds, n_i - i, n_k - k < 8 ? (int)(n_k - k) : 8);
}

#ifndef CPU_TABLE
#define CPU_TABLE cpu_kernels_avx2
#endif
#define CPU_TABLE_ISA CPU_AVX2
#include "kernels/cpu/kern_table.inc.h"
#else
typedef int cpu_no_avx2; // a translation unit must not be empty
#endif
