/* One vector of 32-bit integers beside vec.h, which is included first: shifts, conversions, products of
 * bytes. Shifts are unsigned but for i_sar. */
#ifndef BASIN_KERNELS_CPU_VEC_INT_H
#define BASIN_KERNELS_CPU_VEC_INT_H

#include "base/dtype.h"

#define ALWAYS static inline __attribute__((always_inline))

#if VEC_ISA == 2
typedef __m512i vi;
ALWAYS vi i_load(const void *p) {
    return _mm512_loadu_si512(p);
}
ALWAYS vi i_set1(uint32_t x) {
    return _mm512_set1_epi32((int)x);
}
ALWAYS vi i_and(vi a, vi b) {
    return _mm512_and_si512(a, b);
}
ALWAYS vi i_or(vi a, vi b) {
    return _mm512_or_si512(a, b);
}
ALWAYS vi i_xor(vi a, vi b) {
    return _mm512_xor_si512(a, b);
}
ALWAYS vi i_sub(vi a, vi b) {
    return _mm512_sub_epi32(a, b);
}
ALWAYS vi i_shl(vi a, int n) {
    return _mm512_slli_epi32(a, (unsigned)n);
}
ALWAYS vi i_shr(vi a, int n) {
    return _mm512_srli_epi32(a, (unsigned)n);
}
ALWAYS vi i_sar(vi a, int n) {
    return _mm512_srai_epi32(a, (unsigned)n);
}
ALWAYS vf i_float(vi a) {
    return _mm512_cvtepi32_ps(a);
}
ALWAYS vf i_as_float(vi a) {
    return _mm512_castsi512_ps(a);
}
ALWAYS vf load_halves(const unsigned char *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
ALWAYS vf load_bytes(const unsigned char *p, bool is_signed) {
    const __m128i b = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm512_cvtepi32_ps(is_signed ? _mm512_cvtepi8_epi32(b) : _mm512_cvtepu8_epi32(b));
}
// Four products of bytes a lane; w is unsigned. With the intrinsic, gcc 12 writes every accumulator of
// a register tile to memory at each step (its types of vectors differ), 40 % of the speed.
ALWAYS vi i_dot(vi acc, vi w, vi x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x));
    return acc;
}
enum { Q8_ZERO = 128 };
ALWAYS vi i_dot_q8(vi acc, vi w, vi x) {
    return i_dot(acc, w, x);
}
// The low bytes of all lanes.
ALWAYS void i_store_bytes(unsigned char *p, vi a) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(a));
}
ALWAYS vi f_bits(vf a) {
    return _mm512_castps_si512(a);
}

#elif VEC_ISA == 1
typedef __m256i vi;
ALWAYS vi i_load(const void *p) {
    return _mm256_loadu_si256(p);
}
ALWAYS vi i_set1(uint32_t x) {
    return _mm256_set1_epi32((int)x);
}
ALWAYS vi i_and(vi a, vi b) {
    return _mm256_and_si256(a, b);
}
ALWAYS vi i_or(vi a, vi b) {
    return _mm256_or_si256(a, b);
}
ALWAYS vi i_xor(vi a, vi b) {
    return _mm256_xor_si256(a, b);
}
ALWAYS vi i_sub(vi a, vi b) {
    return _mm256_sub_epi32(a, b);
}
ALWAYS vi i_shl(vi a, int n) {
    return _mm256_slli_epi32(a, n);
}
ALWAYS vi i_shr(vi a, int n) {
    return _mm256_srli_epi32(a, n);
}
ALWAYS vi i_sar(vi a, int n) {
    return _mm256_srai_epi32(a, n);
}
ALWAYS vf i_float(vi a) {
    return _mm256_cvtepi32_ps(a);
}
ALWAYS vf i_as_float(vi a) {
    return _mm256_castsi256_ps(a);
}
ALWAYS vf load_halves(const unsigned char *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
ALWAYS vf load_bytes(const unsigned char *p, bool is_signed) {
    const __m128i b = _mm_loadl_epi64((const __m128i *)(const void *)p);
    return _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(b) : _mm256_cvtepu8_epi32(b));
}
// Pairs of products fit 16 bits: w is below 64, or below 129 against 127.
ALWAYS vi i_dot(vi acc, vi w, vi x) {
    const __m256i pairs = _mm256_maddubs_epi16(w, x);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#ifdef VEC_VNNI
enum { Q8_ZERO = 128 };
ALWAYS vi i_dot_q8(vi acc, vi w, vi x) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(w), "x"(x));
    return acc;
}
#else
// Q8's w would overflow: signed again, its sign goes over to x.
enum { Q8_ZERO = 0 };
ALWAYS vi i_dot_q8(vi acc, vi w, vi x) {
    const vi v = _mm256_xor_si256(w, i_set1(0x80808080u));
    return i_dot(acc, _mm256_abs_epi8(v), _mm256_sign_epi8(x, v));
}
#endif
ALWAYS void i_store_bytes(unsigned char *p, vi a) {
    const __m256i low = _mm256_shuffle_epi8(
        a, _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8,
                            12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
    const uint32_t a0 = (uint32_t)_mm256_extract_epi32(low, 0),
                   a1 = (uint32_t)_mm256_extract_epi32(low, 4);
    memcpy(p, &a0, sizeof a0);
    memcpy(p + 4, &a1, sizeof a1);
}
ALWAYS vi f_bits(vf a) {
    return _mm256_castps_si256(a);
}

#else
typedef vu vi;
typedef int32_t vs __attribute__((vector_size(16)));
ALWAYS vi i_load(const void *p) {
    vi x;
    memcpy(&x, p, sizeof x);
    return x;
}
ALWAYS vi i_set1(uint32_t x) {
    return (vi){x, x, x, x};
}
ALWAYS vi i_and(vi a, vi b) {
    return a & b;
}
ALWAYS vi i_or(vi a, vi b) {
    return a | b;
}
ALWAYS vi i_xor(vi a, vi b) {
    return a ^ b;
}
ALWAYS vi i_sub(vi a, vi b) {
    return a - b;
}
ALWAYS vi i_shl(vi a, int n) {
    return a << (uint32_t)n;
}
ALWAYS vi i_shr(vi a, int n) {
    return a >> (uint32_t)n;
}
ALWAYS vi i_sar(vi a, int n) {
    return (vi)((vs)a >> n);
}
ALWAYS vf i_float(vi a) {
    return __builtin_convertvector((vs)a, vf);
}
ALWAYS vf i_as_float(vi a) {
    return (vf)a;
}
ALWAYS vf load_halves(const unsigned char *p) {
    uint16_t h[VL];
    memcpy(h, p, sizeof h);
    return (vf){dtype_f16_to_f32(h[0]), dtype_f16_to_f32(h[1]), dtype_f16_to_f32(h[2]),
                dtype_f16_to_f32(h[3])};
}
ALWAYS vf load_bytes(const unsigned char *p, bool is_signed) {
    vf x = {p[0], p[1], p[2], p[3]};
    if (is_signed)
        for (int i = 0; i < VL; i++) x[i] = (float)(int8_t)p[i];
    return x;
}
enum { Q8_ZERO = 128 };
ALWAYS vi i_dot(vi acc, vi w, vi x) {
#pragma GCC unroll 4
    for (int b = 0; b < 4; b++)
        acc += (vi)((vs)(i_shr(w, 8 * b) & 255) * (vs)i_sar(i_shl(x, 24 - 8 * b), 24));
    return acc;
}
ALWAYS vi i_dot_q8(vi acc, vi w, vi x) {
    return i_dot(acc, w, x);
}
ALWAYS void i_store_bytes(unsigned char *p, vi a) {
    for (int i = 0; i < VL; i++) p[i] = (unsigned char)a[i];
}
ALWAYS vi f_bits(vf a) {
    return (vi)a;
}
#endif

/* Integers of 22 bits and a sign as floats without a conversion: sums begin at I_MAGIC, and its bits are
 * those of 1.5 * 2^23, to which an integer adds itself. i_times is the sum times d, rounded once; md is
 * what i_magic_times leaves of d, a float of 16 bits. Without FMA the conversion is done. */
#if VEC_ISA > 0
enum { I_MAGIC = 0x4B400000 };
ALWAYS vf i_magic_times(vf d) {
    return v_set1(-12582912.0f) * d;
}
ALWAYS vf i_times(vi sum, vf d, vf md) {
    return v_fma(i_as_float(sum), d, md);
}
#else
enum { I_MAGIC = 0 };
ALWAYS vf i_magic_times(vf d) {
    return d;
}
ALWAYS vf i_times(vi sum, vf d, vf md) {
    (void)md;
    return i_float(sum) * d;
}
#endif

#endif
