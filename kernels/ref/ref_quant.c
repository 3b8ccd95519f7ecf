#include "kernels/ref/ref_impl.h"

// IEEE half, little-endian.
static double half(const unsigned char *p) {
    return (double)dtype_f16_to_f32((uint16_t)(p[0] + 256 * p[1]));
}

static int nibble(const unsigned char *q, int byte, bool upper) {
    return upper ? q[byte] / 16 : q[byte] % 16;
}

// Bit i of a string of bytes.
static int bit(const unsigned char *p, int i) {
    return p[i / 8] >> i % 8 & 1;
}

// The sum is made in float32, as the format says; everything else is exact.
static double sum(double product, double offset) {
    return (double)((float)product + (float)offset);
}

static double element_32(const unsigned char *p, enum dtype type, int i) {
    const double d = half(p);
    const int byte = i % 16;
    const bool upper = i >= 16;
    switch (type) {
    case DT_Q8_0: return d * (double)(p[2 + i] < 128 ? p[2 + i] : p[2 + i] - 256);
    case DT_Q4_0: return d * (double)(nibble(p + 2, byte, upper) - 8);
    case DT_Q4_1: return sum(d * (double)nibble(p + 4, byte, upper), half(p + 2));
    case DT_Q5_0: return d * (double)(nibble(p + 6, byte, upper) + 16 * bit(p + 2, i) - 16);
    default: // Q5_1
        return sum(d * (double)(nibble(p + 8, byte, upper) + 16 * bit(p + 4, i)), half(p + 2));
    }
}

static double element_45_k(const unsigned char *p, enum dtype type, int i) {
    const unsigned char *s = p + 4, *q = p + (type == DT_Q4_K ? 16 : 48);
    const int g = i / 32, r = i % 32;
    const int scale = g < 4 ? s[g] % 64 : s[g + 4] % 16 + 16 * (s[g - 4] / 64);
    const int min = g < 4 ? s[g + 4] % 64 : s[g + 4] / 16 + 16 * (s[g] / 64);
    int v = nibble(q, g / 2 * 32 + r, g % 2 == 1);
    if (type == DT_Q5_K) v += 16 * bit(p + 16 + r, g);
    return sum(half(p) * scale * v, -half(p + 2) * min);
}

static double element_6_k(const unsigned char *p, int i) {
    const int hi = i / 128, part = i % 128 / 32, r = i % 32;
    const unsigned char *high = p + 128 + 32 * hi + r;
    const int v = nibble(p, 64 * hi + 32 * (part % 2) + r, part >= 2) + 16 * bit(high, 2 * part) +
                  32 * bit(high, 2 * part + 1);
    const unsigned char s = p[192 + i / 16];
    return half(p + 208) * (double)(s < 128 ? s : s - 256) * (double)(v - 32);
}

double ref_element(const unsigned char *p, enum dtype type, int i) {
    uint16_t h;
    float f;
    double x;
    switch (type) {
    case DT_F64: memcpy(&x, p, sizeof x); return x;
    case DT_F32: memcpy(&f, p, sizeof f); return (double)f;
    case DT_F16: memcpy(&h, p, sizeof h); return (double)dtype_f16_to_f32(h);
    case DT_BF16: memcpy(&h, p, sizeof h); return (double)dtype_bf16_to_f32(h);
    case DT_Q4_K:
    case DT_Q5_K: return element_45_k(p, type, i);
    case DT_Q6_K: return element_6_k(p, i);
    default: return element_32(p, type, i);
    }
}
