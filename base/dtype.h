/* Element types of tensors, in files and on devices. */
#ifndef BASIN_BASE_DTYPE_H
#define BASIN_BASE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* From DT_Q8_0 on: blocks of elements that share their scales, weights only (kernels/quant.h). */
enum dtype {
    DT_F64,
    DT_F32,
    DT_F16,
    DT_BF16,
    DT_I32,
    DT_I64,
    DT_U8,
    DT_Q8_0,
    DT_Q4_0,
    DT_Q4_1,
    DT_Q5_0,
    DT_Q5_1,
    DT_Q4_K,
    DT_Q5_K,
    DT_Q6_K,
    DT_COUNT
};

enum { DTYPE_MOST_BLOCK = 256 }; /* elements of the longest block; every block length divides it */

typedef uint16_t bf16_t; /* upper half of an IEEE float32 */

/* Elements of a block: 1 for types whose elements stand alone. */
static inline int64_t dtype_block(enum dtype t) {
    return t < DT_Q8_0 ? 1 : t < DT_Q4_K ? 32 : 256;
}

/* Bytes of a block: of one element where elements stand alone. */
static inline size_t dtype_bytes(enum dtype t) {
    static const uint8_t bytes[DT_COUNT] = {8, 4, 2, 2, 4, 8, 1, 34, 18, 20, 22, 24, 144, 176, 210};
    return bytes[t];
}

/* Bytes of n elements that lie together; n is a multiple of the block. May overflow. */
static inline size_t dtype_row_bytes(enum dtype t, int64_t n) {
    return (size_t)(t < DT_Q8_0 ? n : n / dtype_block(t)) * dtype_bytes(t);
}

/* Whether weights may be stored as this. */
static inline bool dtype_is_weight(enum dtype t) {
    return t == DT_F32 || t == DT_F16 || t == DT_BF16 || (t >= DT_Q8_0 && t < DT_COUNT);
}

static inline const char *dtype_name(enum dtype t) {
    static const char *const names[DT_COUNT] = {"f64",  "f32",  "f16",  "bf16", "i32",
                                                "i64",  "u8",   "q8_0", "q4_0", "q4_1",
                                                "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"};
    return names[t];
}

static inline float dtype_bf16_to_f32(bf16_t h) {
    const uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Round to nearest, ties to even; NaN stays NaN. */
static inline bf16_t dtype_f32_to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (bf16_t)(u >> 16 | 0x40u);
    return (bf16_t)((u + 0x7FFFu + (u >> 16 & 1u)) >> 16);
}

/* IEEE half to float32, exact. */
static inline float dtype_f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = h >> 10 & 0x1Fu, man = h & 0x3FFu;
    uint32_t u;
    if (exp == 0) {
        const float f = (float)man * 0x1p-24f; // subnormal or zero
        memcpy(&u, &f, sizeof u);
        u |= sign;
    } else if (exp == 31) {
        u = sign | 0x7F800000u | man << 13;
    } else {
        u = sign | (exp + 112u) << 23 | man << 13;
    }
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

#endif
