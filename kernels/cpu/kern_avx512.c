#include "kernels/cpu/kern.h"

#if defined(__x86_64__)
#include <cpuid.h>

#define VEC_ISA 2
#include "kernels/cpu/vec.h"
#include "kernels/cpu/vec_int.h"

// 14 x 32: 28 accumulators, two columns of B and a broadcast in 32 registers.
enum { NV = 2, MR_MAX = 14, TILE_KEYS = 112 };
#define TILE_SIZES(X)                                                                              \
    X(1);                                                                                          \
    X(2);                                                                                          \
    X(4);                                                                                          \
    X(8);                                                                                          \
    X(12);                                                                                         \
    X(14)
#include "kernels/cpu/kern_gemm.inc.h"
#include "kernels/cpu/kern_rows.inc.h"
#include "kernels/cpu/kern_soft.inc.h"

static __mmask16 lanes(int n) {
    return (__mmask16)(n >= 16 ? 0xFFFFu : 0xFFFFu >> (16 - n));
}

/* n_i x n_k of 16 x 16 words, n_dst lanes of each column written: pairs of rows, pairs of pairs,
 * then 128-bit quarters twice. */
static void transpose16(uint32_t *dst, int64_t ldd, int n_dst, const uint32_t *src, int64_t lds,
                        int n_i, int n_k) {
    const __mmask16 in = lanes(n_k), out = lanes(n_dst);
    __m512i r[16], t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        r[i] = i < n_i ? _mm512_maskz_loadu_epi32(in, src + i * lds) : _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) { // quarter q of r[i + c] is column 4 q + c of rows i..i+3
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        const __m512i a = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88); // quarters 0 2 | 0 2
        const __m512i b = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xDD); // quarters 1 3 | 1 3
        const __m512i e = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
        const __m512i f = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xDD);
        t[c] = _mm512_shuffle_i32x4(a, e, 0x88);
        t[4 + c] = _mm512_shuffle_i32x4(b, f, 0x88);
        t[8 + c] = _mm512_shuffle_i32x4(a, e, 0xDD);
        t[12 + c] = _mm512_shuffle_i32x4(b, f, 0xDD);
    }
#pragma GCC unroll 16
    for (int k = 0; k < 16; k++)
        if (k < n_k) _mm512_mask_storeu_epi32(dst + k * ldd, out, t[k]);
}

static void transpose(uint32_t *dst, int64_t ldd, int n_dst, const uint32_t *src, int64_t lds,
                      int n_i, int64_t n_k) {
    for (int i = 0; i < n_dst; i += 16)
        for (int64_t k = 0; k < n_k; k += 16)
            transpose16(dst + k * ldd + i, ldd, n_dst - i < 16 ? n_dst - i : 16, src + i * lds + k,
                        lds, n_i - i, n_k - k < 16 ? (int)(n_k - k) : 16);
}

#define CPU_TABLE cpu_kernels_avx512
#define CPU_TABLE_ISA CPU_AVX512
#include "kernels/cpu/kern_table.inc.h"
#include "kernels/cpu/kern_amx.inc.h"

const struct cpu_kernels cpu_kernels_amx = {.isa = CPU_AMX,
                                            .mr = 2 * AMX_ROWS,
                                            .nr = NR,
                                            .bf16_pairs = true,
                                            .step_multiple = AMX_STEP,
                                            .kc = 1024,
                                            .keys = 2 * AMX_ROWS,
                                            .thread_begin = amx_begin,
                                            .thread_end = amx_end,
                                            .tile_rows = amx_tile_rows,
                                            .tile = amx_tile,
                                            .pack_a = amx_pack_a,
                                            .pack_at = amx_pack_at,
                                            .peak = amx_peak,
                                            TABLE_ROWS};
#else
typedef int cpu_no_avx512; // a translation unit must not be empty
#endif
