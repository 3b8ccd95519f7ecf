#include "kernels/quant.h"

static float half_at(const unsigned char *p) {
    return dtype_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

static uint32_t word_at(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void q8_0(float *out, const unsigned char *p) {
    const float d = half_at(p);
    for (int i = 0; i < 32; i++) out[i] = d * (float)(int8_t)p[2 + i];
}

static void q4_0(float *out, const unsigned char *p) {
    const float d = half_at(p);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((p[2 + i] & 15) - 8);
        out[i + 16] = d * (float)((p[2 + i] >> 4) - 8);
    }
}

static void q4_1(float *out, const unsigned char *p) {
    const float d = half_at(p), m = half_at(p + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(p[4 + i] & 15) + m;
        out[i + 16] = d * (float)(p[4 + i] >> 4) + m;
    }
}

// Five bits of element i and of element i + 16.
static int low_5(const unsigned char *q, uint32_t high, int i) {
    return (q[i] & 15) | (int)(high >> i & 1) << 4;
}
static int high_5(const unsigned char *q, uint32_t high, int i) {
    return q[i] >> 4 | (int)(high >> (i + 16) & 1) << 4;
}

static void q5_0(float *out, const unsigned char *p) {
    const float d = half_at(p);
    const uint32_t high = word_at(p + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(low_5(p + 6, high, i) - 16);
        out[i + 16] = d * (float)(high_5(p + 6, high, i) - 16);
    }
}

static void q5_1(float *out, const unsigned char *p) {
    const float d = half_at(p), m = half_at(p + 2);
    const uint32_t high = word_at(p + 4);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)low_5(p + 8, high, i) + m;
        out[i + 16] = d * (float)high_5(p + 8, high, i) + m;
    }
}

// Scale and minimum of group g of a Q4_K or Q5_K block.
static void scale_k(const unsigned char *s, int g, int *scale, int *min) {
    if (g < 4) {
        *scale = s[g] & 63;
        *min = s[g + 4] & 63;
    } else {
        *scale = (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
        *min = s[g + 4] >> 4 | s[g] >> 6 << 4;
    }
}

// `high` is NULL for Q4_K.
static void q45_k(float *out, const unsigned char *p, const unsigned char *high,
                  const unsigned char *q) {
    const float d = half_at(p), dmin = half_at(p + 2);
    for (int g = 0; g < 8; g++) {
        int scale = 0, min = 0;
        scale_k(p + 4, g, &scale, &min);
        const float a = d * (float)scale, m = dmin * (float)min;
        const unsigned char *v = q + g / 2 * 32;
        const int shift = g % 2 * 4;
        float *to = out + g * 32;
        if (high == NULL) {
            for (int r = 0; r < 32; r++) to[r] = a * (float)(v[r] >> shift & 15) - m;
        } else {
            for (int r = 0; r < 32; r++) {
                to[r] = a * (float)((v[r] >> shift & 15) | (high[r] >> g & 1) << 4) - m;
            }
        }
    }
}

static void q6_k(float *out, const unsigned char *p) {
    const float d = half_at(p + 208);
    for (int g = 0; g < 8; g++) { // 32 elements: part g % 4 of half g / 4
        const unsigned char *q = p + g / 4 * 64 + g % 2 * 32, *high = p + 128 + g / 4 * 32;
        const int shift = g % 4 / 2 * 4, up = g % 4 * 2;
        for (int k = 0; k < 2; k++) {
            const float a = d * (float)(int8_t)p[192 + 2 * g + k];
            for (int r = 16 * k; r < 16 * k + 16; r++) {
                const int v = (q[r] >> shift & 15) | (high[r] >> up & 3) << 4;
                out[g * 32 + r] = a * (float)(v - 32);
            }
        }
    }
}

void dev_quant_floats(float *out, const unsigned char *p, enum dtype type, int64_t n) {
    const int64_t block = dtype_block(type);
    const size_t bytes = dtype_bytes(type);
    for (; n > 0; n -= block, out += block, p += bytes) {
        switch (type) {
        case DT_Q8_0: q8_0(out, p); break;
        case DT_Q4_0: q4_0(out, p); break;
        case DT_Q4_1: q4_1(out, p); break;
        case DT_Q5_0: q5_0(out, p); break;
        case DT_Q5_1: q5_1(out, p); break;
        case DT_Q4_K: q45_k(out, p, NULL, p + 16); break;
        case DT_Q5_K: q45_k(out, p, p + 16, p + 48); break;
        case DT_Q6_K: q6_k(out, p); break;
        default: break;
        }
    }
}
