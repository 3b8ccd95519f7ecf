/* The expansion of kernels/quant.h, compiled once for every instruction set: quant.c has the portable
 * one, the cpu backend's kernels their own. */
#include "kernels/quant.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

static inline float quant_half(const unsigned char *p) {
    return dtype_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

static inline uint32_t quant_word(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

typedef uint8_t quant16 __attribute__((vector_size(16))); // sixteen at a time

static inline quant16 quant_load(const unsigned char *p) {
    quant16 v;
    memcpy(&v, p, sizeof v);
    return v;
}

// d (v - zero) + m: exact but for the sum. m is -0 where there is none, which changes nothing.
static inline void quant_put(float *restrict out, quant16 v, int zero, float d, float m) {
#if defined(__AVX512F__)
    const __m512i i = _mm512_sub_epi32(_mm512_cvtepu8_epi32((__m128i)v), _mm512_set1_epi32(zero));
    const __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(i), _mm512_set1_ps(d));
    _mm512_storeu_ps(out, _mm512_add_ps(x, _mm512_set1_ps(m)));
#elif defined(__AVX2__)
    for (int k = 0; k < 16; k += 8) {
        const __m128i half = k == 0 ? (__m128i)v : _mm_srli_si128((__m128i)v, 8);
        const __m256i i = _mm256_sub_epi32(_mm256_cvtepu8_epi32(half), _mm256_set1_epi32(zero));
        const __m256 x = _mm256_mul_ps(_mm256_cvtepi32_ps(i), _mm256_set1_ps(d));
        _mm256_storeu_ps(out + k, _mm256_add_ps(x, _mm256_set1_ps(m)));
    }
#else
    uint8_t byte[16];
    memcpy(byte, &v, sizeof byte);
    for (int i = 0; i < 16; i++) out[i] = d * (float)(byte[i] - zero) + m;
#endif
}

// Bits 0 to 15 of `bits`, each in the fifth bit of its byte.
static inline quant16 quant_fifth(uint32_t bits) {
    const quant16 which = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint64_t spread[2] = {(bits & 255) * 0x0101010101010101u,
                                (bits >> 8 & 255) * 0x0101010101010101u};
    quant16 v;
    memcpy(&v, spread, sizeof v);
    return (quant16)((v & which) != 0) & 16;
}

/* ---- blocks */

// Scale and minimum of group g of a Q4_K or Q5_K block.
static void quant_scale_k(const unsigned char *s, int g, int *scale, int *min) {
    if (g < 4) {
        *scale = s[g] & 63;
        *min = s[g + 4] & 63;
    } else {
        *scale = (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
        *min = s[g + 4] >> 4 | s[g] >> 6 << 4;
    }
}

// `high` is NULL for Q4_K.
static void quant_45_k(float *out, const unsigned char *p, const unsigned char *high,
                       const unsigned char *q) {
    const float d = quant_half(p), dmin = quant_half(p + 2);
    for (int i = 0; i < 256; i += 16) {
        const int g = i / 32, at = g / 2 * 32 + i % 32, shift = g % 2 * 4;
        int scale = 0, min = 0;
        quant_scale_k(p + 4, g, &scale, &min);
        const float a = d * (float)scale, m = -(dmin * (float)min);
        if (high == NULL) {
            quant_put(out + i, quant_load(q + at) >> shift & 15, 0, a, m);
        } else {
            const quant16 top = (quant_load(high + i % 32) >> g & 1) << 4;
            quant_put(out + i, (quant_load(q + at) >> shift & 15) | top, 0, a, m);
        }
    }
}

static void quant_6_k(float *out, const unsigned char *p) {
    const float d = quant_half(p + 208);
    for (int i = 0; i < 256; i += 16) {
        const int half = i / 128, part = i % 128 / 32, r = i % 32;
        const float a = d * (float)(int8_t)p[192 + i / 16];
        const quant16 low = quant_load(p + 64 * half + 32 * (part % 2) + r) >> (part / 2 * 4) & 15;
        const quant16 top = (quant_load(p + 128 + 32 * half + r) >> (2 * part) & 3) << 4;
        quant_put(out + i, low | top, 32, a, -0.0f);
    }
}

static inline void quant_block(float *out, const unsigned char *p, enum dtype type) {
    const float d = quant_half(p), m = quant_half(p + 2);
    switch (type) {
    case DT_Q8_0: // i8 is u8 less 128 with the top bit turned
        quant_put(out, quant_load(p + 2) ^ 128, 128, d, -0.0f);
        quant_put(out + 16, quant_load(p + 18) ^ 128, 128, d, -0.0f);
        break;
    case DT_Q4_0:
        quant_put(out, quant_load(p + 2) & 15, 8, d, -0.0f);
        quant_put(out + 16, quant_load(p + 2) >> 4, 8, d, -0.0f);
        break;
    case DT_Q4_1:
        quant_put(out, quant_load(p + 4) & 15, 0, d, m);
        quant_put(out + 16, quant_load(p + 4) >> 4, 0, d, m);
        break;
    case DT_Q5_0:
        quant_put(out, (quant_load(p + 6) & 15) | quant_fifth(quant_word(p + 2)), 16, d, -0.0f);
        quant_put(out + 16, quant_load(p + 6) >> 4 | quant_fifth(quant_word(p + 2) >> 16), 16, d,
                  -0.0f);
        break;
    case DT_Q5_1:
        quant_put(out, (quant_load(p + 8) & 15) | quant_fifth(quant_word(p + 4)), 0, d, m);
        quant_put(out + 16, quant_load(p + 8) >> 4 | quant_fifth(quant_word(p + 4) >> 16), 0, d, m);
        break;
    case DT_Q4_K: quant_45_k(out, p, NULL, p + 16); break;
    case DT_Q5_K: quant_45_k(out, p, p + 16, p + 48); break;
    case DT_Q6_K: quant_6_k(out, p); break;
    default: break;
    }
}

// Whether the scales of a block are finite; then all of it is.
static inline bool quant_finite(const unsigned char *p, enum dtype type) {
    const bool two = type == DT_Q4_1 || type == DT_Q5_1 || type == DT_Q4_K || type == DT_Q5_K;
    const unsigned char *d = type == DT_Q6_K ? p + 208 : p;
    return (d[1] & 0x7C) != 0x7C && (!two || (p[3] & 0x7C) != 0x7C);
}

static bool quant_floats(float *out, const unsigned char *p, enum dtype type, int64_t n) {
    const int64_t block = dtype_block(type);
    bool ok = true;
    for (; n > 0; n -= block, out += block, p += dtype_bytes(type)) {
        ok &= quant_finite(p, type);
        quant_block(out, p, type);
    }
    return ok;
}
