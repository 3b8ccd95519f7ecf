/* One vector of floats, in three widths. A kern_*.c file defines VEC_ISA (portable 0, avx2 1,
 * avx512 2) and includes this; the code above it is written once with vf, v_*() and + - *.
 *
 * v_fma rounds once where the machine has the instruction and twice where it has not; either way
 * always the same within one instruction set. Maxima and minima return the second operand when one
 * is NaN, so that v_max(limit, x) lets a NaN x through. */
#ifndef BASIN_KERNELS_CPU_VEC_H
#define BASIN_KERNELS_CPU_VEC_H

#include <stdint.h>
#include <string.h>

#if VEC_ISA == 2

#include <immintrin.h>
enum { VL = 16 };
typedef __m512 vf;
static inline vf v_set1(float x) {
    return _mm512_set1_ps(x);
}
static inline vf v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, vf x) {
    _mm512_storeu_ps(p, x);
}
static inline vf v_fma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline vf v_max(vf a, vf b) {
    return _mm512_max_ps(a, b);
}
static inline vf v_min(vf a, vf b) {
    return _mm512_min_ps(a, b);
}
/* a < b ? x : y, lane by lane; false for NaN. */
static inline vf v_lt_select(vf a, vf b, vf x, vf y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
/* p * 2^n where n is in the low bits of z, as v_exp leaves it. */
static inline vf v_ldexp(vf p, vf z) {
    const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(z), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), n));
}
static inline vf v_iota(void) {
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

/* Sum and maximum of the lanes: halves upon halves, always the same tree. */
static inline float v_sum(vf x) {
    return _mm512_reduce_add_ps(x);
}
static inline float v_max_lane(vf x) {
    return _mm512_reduce_max_ps(x);
}

#elif VEC_ISA == 1

#include <immintrin.h>
enum { VL = 8 };
typedef __m256 vf;
static inline vf v_set1(float x) {
    return _mm256_set1_ps(x);
}
static inline vf v_load(const float *p) {
    return _mm256_loadu_ps(p);
}
static inline void v_store(float *p, vf x) {
    _mm256_storeu_ps(p, x);
}
static inline vf v_fma(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}
static inline vf v_max(vf a, vf b) {
    return _mm256_max_ps(a, b);
}
static inline vf v_min(vf a, vf b) {
    return _mm256_min_ps(a, b);
}
static inline vf v_lt_select(vf a, vf b, vf x, vf y) {
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
static inline vf v_ldexp(vf p, vf z) {
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(z), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n));
}
static inline vf v_iota(void) {
    return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7);
}
static inline float v_sum(vf x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float v_max_lane(vf x) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

#else

/* The vector extensions of gcc and clang: four lanes of whatever the machine has. */
enum { VL = 4 };
typedef float vf __attribute__((vector_size(16)));
typedef uint32_t vu __attribute__((vector_size(16)));
static inline vf v_set1(float x) {
    return (vf){x, x, x, x};
}
static inline vf v_load(const float *p) {
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}
static inline void v_store(float *p, vf x) {
    memcpy(p, &x, sizeof x);
}
static inline vf v_fma(vf a, vf b, vf c) {
    return a * b + c;
}
static inline vf v_lt_select(vf a, vf b, vf x, vf y) {
    const vu m = (vu)(a < b);
    return (vf)((m & (vu)x) | (~m & (vu)y));
}
static inline vf v_max(vf a, vf b) {
    return v_lt_select(b, a, a, b);
}
static inline vf v_min(vf a, vf b) {
    return v_lt_select(a, b, a, b);
}
static inline vf v_ldexp(vf p, vf z) {
    return (vf)((vu)p + ((vu)z << 23));
}
static inline vf v_iota(void) {
    return (vf){0, 1, 2, 3};
}
static inline float v_sum(vf x) {
    return (x[0] + x[2]) + (x[1] + x[3]);
}
static inline float v_max_lane(vf x) {
    const float a = x[0] > x[2] ? x[0] : x[2], b = x[1] > x[3] ? x[1] : x[3];
    return a > b ? a : b;
}

#endif

/* e^x to 1.5e-7 relative (tests/test_ops.c sweeps it through dev_act); 0 below -87, the largest
 * result e^88; NaN stays NaN; e^0 is exactly 1. x = n ln2 + r, |r| <= ln2 / 2; e^r by a polynomial
 * of degree 6 (own Chebyshev fit, 1e-8). Adding 1.5 * 2^23 rounds to an integer and leaves it in
 * the low bits. */
static inline vf v_exp(vf x) {
    const vf magic = v_set1(12582912.0f), lo = v_set1(-87.0f), hi = v_set1(88.0f);
    const vf c = v_max(lo, v_min(hi, x));
    const vf z = v_fma(c, v_set1(1.44269504f), magic);
    const vf n = z - magic;
    vf r = v_fma(n, v_set1(-0.693359375f), c); // 9 bits: n times it is exact without FMA, too
    r = v_fma(n, v_set1(2.12194440e-4f), r);
    vf p = v_set1(1.3926176e-3f);
    p = v_fma(p, r, v_set1(8.3631733e-3f));
    p = v_fma(p, r, v_set1(4.1666556e-2f));
    p = v_fma(p, r, v_set1(1.6666578e-1f));
    p = v_fma(p, r, v_set1(0.5f));
    p = v_fma(p, r * r, r) + v_set1(1.0f);
    return v_lt_select(x, lo, v_set1(0.0f), v_ldexp(p, z));
}

/* 2^x for x below 127: 2^n 2^r, |r| <= 1/2, 2^r by an own fit; exactly 1 at 0, 2^-126 below that,
 * NaN stays NaN. v_exp2: degree 5, 1.1e-7 relative and a rounding. v_exp2_rough: degree 3, 1.0e-4, for
 * what is rounded to bf16 (2^-9) afterwards. */
static inline vf v_exp2(vf x) {
    const vf magic = v_set1(12582912.0f), c = v_max(v_set1(-126.0f), x), z = c + magic;
    const vf r = c - (z - magic);
    vf p = v_fma(v_set1(1.326470752e-3f), r, v_set1(9.671517648e-3f));
    p = v_fma(p, r, v_set1(5.550733954e-2f));
    p = v_fma(p, r, v_set1(2.402224243e-1f));
    p = v_fma(p, r, v_set1(6.931470037e-1f));
    return v_ldexp(v_fma(p, r, v_set1(1.0f)), z);
}
static inline vf v_exp2_rough(vf x) {
    const vf magic = v_set1(12582912.0f), c = v_max(v_set1(-126.0f), x), z = c + magic;
    const vf r = c - (z - magic);
    vf p = v_fma(v_set1(5.500841886e-2f), r, v_set1(2.422107458e-1f));
    p = v_fma(p, r, v_set1(6.932829618e-1f));
    return v_ldexp(v_fma(p, r, v_set1(1.0f)), z);
}

/* tanh to 3e-7 relative: an odd polynomial below 0.625 (own fit, 2e-8), else by v_exp. */
static inline vf v_tanh(vf x) {
    const vf one = v_set1(1.0f), u = x * x;
    vf p = v_set1(-6.0451650e-3f);
    p = v_fma(p, u, v_set1(2.0961329e-2f));
    p = v_fma(p, u, v_set1(-5.3843264e-2f));
    p = v_fma(p, u, v_set1(1.3332719e-1f));
    p = v_fma(p, u, v_set1(-3.3333328e-1f));
    const vf small = v_fma(p * u, x, x);
    const vf a = v_max(x, v_set1(0.0f) - x), big = v_set1(10.0f);
    const vf e = v_exp(v_set1(2.0f) * v_min(big, a)); // 1 - 2e-9 at 10 is 1
    const vf t = one - v_set1(2.0f) / (e + one);
    const vf large = v_lt_select(x, v_set1(0.0f), v_set1(0.0f) - t, t);
    return v_lt_select(a, v_set1(0.625f), small, large);
}

#endif
