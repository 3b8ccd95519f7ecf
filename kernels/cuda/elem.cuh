/* Elements of weights as they are stored, expanded 16 at a time: the formulas of kernels/quant.h. Products of
 * a scale and a quant are exact, so that one rounding is left at most and a contraction changes nothing. */
#ifndef BASIN_KERNELS_CUDA_ELEM_CUH
#define BASIN_KERNELS_CUDA_ELEM_CUH

#include "kernels/cuda/intrin.cuh"

enum { ELEM_RUN = 16 }; // elements of a run; divides every block length

CUDA_DEVICE bool elem_finite(float x) {
    return (__float_as_uint(x) & 0x7F800000u) != 0x7F800000u;
}

CUDA_DEVICE float elem_half(const unsigned char *p) {
    return cuda_f16_f32((uint16_t)(p[0] | p[1] << 8));
}

// Element i of a run of nibbles: the lower ones of 16 bytes, or the upper.
CUDA_DEVICE int elem_nibble(const unsigned char *q, int i, bool upper) {
    return upper ? q[i] >> 4 : q[i] & 15;
}

// Types in blocks of 32; `upper`: the second half of the block.
CUDA_DEVICE void elem_run_32(float *out, const unsigned char *p, enum dtype type, bool upper) {
    const float d = elem_half(p);
    const bool two = type == DT_Q4_1 || type == DT_Q5_1, five = type == DT_Q5_0 || type == DT_Q5_1;
    const float m = two ? elem_half(p + 2) : 0.0f;
    const unsigned char *q = p + (two ? 4 : 2), *high = q + (upper ? 2 : 0);
    const int zero = type == DT_Q4_0 ? 8 : type == DT_Q5_0 ? 16 : 0;
    if (type == DT_Q8_0) {
        for (int i = 0; i < ELEM_RUN; i++)
            out[i] = d * (float)(signed char)p[2 + i + (upper ? 16 : 0)];
        return;
    }
    for (int i = 0; i < ELEM_RUN; i++) {
        int v = elem_nibble(q + (five ? 4 : 0), i, upper);
        if (five) v |= (high[i / 8] >> (i % 8) & 1) << 4;
        const float x = d * (float)(v - zero);
        out[i] = two ? x + m : x;
    }
}

// Run r (0 to 15) of a Q4_K or Q5_K block.
CUDA_DEVICE void elem_run_45_k(float *out, const unsigned char *p, bool five, int r) {
    const unsigned char *s = p + 4, *q = p + (five ? 48 : 16);
    const int g = r / 2, at = g / 2 * 32 + r % 2 * 16;
    const int scale = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
    const int min = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | s[g] >> 6 << 4;
    const float d = elem_half(p) * (float)scale, m = -(elem_half(p + 2) * (float)min);
    for (int i = 0; i < ELEM_RUN; i++) {
        int v = elem_nibble(q + at, i, g % 2 == 1);
        if (five) v |= (p[16 + r % 2 * 16 + i] >> g & 1) << 4;
        out[i] = d * (float)v + m;
    }
}

CUDA_DEVICE void elem_run_6_k(float *out, const unsigned char *p, int r) {
    const int half = r / 8, part = r % 8 / 2, at = r % 2 * 16;
    const float d = elem_half(p + 208) * (float)(signed char)p[192 + r];
    const unsigned char *low = p + 64 * half + 32 * (part % 2) + at,
                        *high = p + 128 + 32 * half + at;
    for (int i = 0; i < ELEM_RUN; i++) {
        const int v = elem_nibble(low, i, part >= 2) | (high[i] >> (2 * part) & 3) << 4;
        out[i] = d * (float)(v - 32);
    }
}

// One element of a type whose elements stand alone.
CUDA_DEVICE float elem_plain(const unsigned char *p, enum dtype type, int64_t i) {
    if (type == DT_F32) return reinterpret_cast<const float *>(p)[i];
    const uint16_t h = reinterpret_cast<const uint16_t *>(p)[i];
    return type == DT_BF16 ? cuda_bf16_f32(h) : cuda_f16_f32(h);
}

// 16 elements of a plain type from an address that is a multiple of 16.
CUDA_DEVICE void elem_words(float *out, const unsigned char *p, enum dtype type) {
    const uint4 *from = reinterpret_cast<const uint4 *>(p);
    for (int i = 0; i < (type == DT_F32 ? 4 : 2); i++) {
        const uint4 u = from[i];
        const uint32_t w[4] = {u.x, u.y, u.z, u.w};
        for (int k = 0; k < 4; k++) {
            if (type == DT_F32) {
                out[4 * i + k] = __uint_as_float(w[k]);
            } else if (type == DT_BF16) {
                out[8 * i + 2 * k] = cuda_bf16_f32((bf16_t)w[k]);
                out[8 * i + 2 * k + 1] = cuda_bf16_f32((bf16_t)(w[k] >> 16));
            } else {
                out[8 * i + 2 * k] = cuda_f16_f32((uint16_t)w[k]);
                out[8 * i + 2 * k + 1] = cuda_f16_f32((uint16_t)(w[k] >> 16));
            }
        }
    }
}

/* Elements k..k+15 of a stored row, k a multiple of 16, zeros from n on. Rows of plain types are aligned to
 * their elements. Returns whether all of them are finite. */
CUDA_DEVICE bool elem_run(float *out, const unsigned char *row, enum dtype type, int64_t k,
                          int64_t n) {
    if (type == DT_F32 || type == DT_F16 || type == DT_BF16) {
        const unsigned char *p = row + k * (type == DT_F32 ? 4 : 2);
        if (k + ELEM_RUN <= n && (uintptr_t)p % 16 == 0)
            elem_words(out, p, type);
        else
            for (int i = 0; i < ELEM_RUN; i++)
                out[i] = k + i < n ? elem_plain(row, type, k + i) : 0.0f;
    } else if (type < DT_Q4_K) {
        const int bytes = type == DT_Q8_0   ? 34
                          : type == DT_Q4_0 ? 18
                          : type == DT_Q4_1 ? 20
                          : type == DT_Q5_0 ? 22
                                            : 24;
        elem_run_32(out, row + k / 32 * bytes, type, k % 32 != 0);
    } else if (type == DT_Q6_K) {
        elem_run_6_k(out, row + k / 256 * 210, (int)(k % 256 / 16));
    } else {
        const bool five = type == DT_Q5_K;
        elem_run_45_k(out, row + k / 256 * (five ? 176 : 144), five, (int)(k % 256 / 16));
    }
    bool ok = true;
    for (int i = 0; i < ELEM_RUN; i++) ok = ok && elem_finite(out[i]);
    return ok;
}

CUDA_DEVICE void elem_fault(const struct cuda_watch &w, int kind, uint32_t what) {
    atomicMin(w.fault, (unsigned long long)w.index << 33 | (unsigned long long)kind << 32 | what);
}

#endif
