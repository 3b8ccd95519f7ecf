/* Kernels over one row, included by each kern_*.c behind vec.h. Tails are padded into a whole
 * vector, so that an element's result does not depend on where in a row it lies. */
#include "kernels/quant.inc.h"

/* The n < VL floats at p, the rest `fill`. */
static inline vf load_tail(const float *p, int64_t n, float fill) {
    float a[VL];
    for (int i = 0; i < VL; i++) a[i] = i < n ? p[i] : fill;
    return v_load(a);
}
static inline void store_tail(float *p, vf x, int64_t n) {
    float a[VL];
    v_store(a, x);
    for (int i = 0; i < n; i++) p[i] = a[i];
}

// Sum of (x - mean)^2, in VL lanes and one tree.
static float sum_squares(const float *x, int64_t n, float mean) {
    const vf m = v_set1(mean);
    vf s = v_set1(0.0f);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        const vf d = v_load(x + i) - m;
        s = v_fma(d, d, s);
    }
    if (i < n) {
        const vf d = load_tail(x + i, n - i, mean) - m;
        s = v_fma(d, d, s);
    }
    return v_sum(s);
}

static float sum(const float *x, int64_t n) {
    vf s = v_set1(0.0f);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) s = s + v_load(x + i);
    if (i < n) s = s + load_tail(x + i, n - i, 0.0f);
    return v_sum(s);
}

static float dot(const float *a, const float *b, int64_t n) {
    vf s = v_set1(0.0f);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) s = v_fma(v_load(a + i), v_load(b + i), s);
    if (i < n) s = v_fma(load_tail(a + i, n - i, 0.0f), load_tail(b + i, n - i, 0.0f), s);
    return v_sum(s);
}

static void norm(float *y, const float *x, const float *w, const float *b, int64_t n, bool layer,
                 float eps, float weight_offset) {
    const float mean = layer ? sum(x, n) / (float)n : 0.0f;
    const float var = sum_squares(x, n, mean) / (float)n;
    const float inv = 1.0f / __builtin_sqrtf(var + eps);
    for (int64_t i = 0; i < n; i++) {
        const float v = (x[i] - mean) * inv * (w[i] + weight_offset);
        y[i] = b != NULL ? v + b[i] : v;
    }
}

// The pairs (k, k + half) of a head turn in place; the two halves do not overlap.
static void turn_halves(float *restrict lo, float *restrict hi, const float *restrict c,
                        const float *restrict s, int half) {
    for (int k = 0; k < half; k++) {
        const float a = lo[k], b = hi[k];
        lo[k] = a * c[k] - b * s[k];
        hi[k] = b * c[k] + a * s[k];
    }
}

static void rope(float *y, const float *x, const float *cs, const struct dev_rope *p) {
    const int half = p->n_rot / 2;
    if (y != x) memcpy(y, x, (size_t)p->n_head * (size_t)p->d_head * sizeof *y);
    for (int h = 0; h < p->n_head; h++) {
        float *v = y + (int64_t)h * p->d_head;
        if (!p->interleaved) {
            turn_halves(v, v + half, cs, cs + half, half);
            continue;
        }
        for (int k = 0; k < half; k++) {
            const float a = v[2 * k], b = v[2 * k + 1];
            v[2 * k] = a * cs[k] - b * cs[half + k];
            v[2 * k + 1] = b * cs[k] + a * cs[half + k];
        }
    }
}

/* erfc(z) for z >= 0 as t exp(-z^2) P(t), t = 1 / (1 + z/2): own Chebyshev fit of degree 8, 6e-8.
 */
static inline vf v_erfc_pos(vf z) {
    const vf one = v_set1(1.0f), t = one / v_fma(v_set1(0.5f), z, one);
    vf p = v_set1(-5.9714921e-2f);
    p = v_fma(p, t, v_set1(2.8776830e-1f));
    p = v_fma(p, t, v_set1(-4.9386364e-1f));
    p = v_fma(p, t, v_set1(2.8569770e-1f));
    p = v_fma(p, t, v_set1(-3.1841759e-2f));
    p = v_fma(p, t, v_set1(2.0485365e-1f));
    p = v_fma(p, t, v_set1(2.4257289e-1f));
    p = v_fma(p, t, v_set1(2.8244504e-1f));
    p = v_fma(p, t, v_set1(2.8208268e-1f));
    return p * t * v_exp(v_set1(0.0f) - z * z);
}

static inline vf activate(vf x, enum act_kind kind) {
    const vf zero = v_set1(0.0f), one = v_set1(1.0f);
    if (kind == ACT_SILU) return x / (one + v_exp(zero - x));
    if (kind == ACT_GELU_TANH) {
        const vf u = x * v_fma(v_set1(0.044715f) * x, x, one); // tanh(z) = 2 / (1 + e^-2z) - 1
        return x / (one + v_exp(v_set1(-1.59576912f) * u));
    }
    if (kind == ACT_GELU_ERF) {
        const vf z = v_max(x, zero - x) * v_set1(0.707106781f);
        const vf half = v_set1(0.5f) * v_erfc_pos(v_min(v_set1(12.0f), z));
        return x * v_lt_select(x, zero, half, one - half);
    }
    return v_max(zero, x);
}

static void act(float *y, const float *g, const float *u, int64_t n, enum act_kind kind) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf a = activate(v_load(g + i), kind);
        if (u != NULL) a = a * v_load(u + i);
        v_store(y + i, a);
    }
    if (i == n) return;
    vf a = activate(load_tail(g + i, n - i, 0.0f), kind);
    if (u != NULL) a = a * load_tail(u + i, n - i, 0.0f);
    store_tail(y + i, a, n - i);
}

static void add(float *y, const float *x, float scale, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += scale * x[i];
}

#if VEC_ISA != 2
static void to_bf16(bf16_t *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = dtype_f32_to_bf16(x[i]);
}
#else
/* The integer form and not vcvtneps2bf16, which flushes denormals: K and V hold the same values
 * whatever the instruction set. */
static void to_bf16(bf16_t *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i += VL) {
        const __mmask16 m = (__mmask16)(n - i >= VL ? 0xFFFFu : 0xFFFFu >> (VL - (n - i)));
        const __m512 f = _mm512_maskz_loadu_ps(m, x + i);
        const __m512i u = _mm512_castps_si512(f), top = _mm512_srli_epi32(u, 16);
        const __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
        const __m512i even = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd);
        const __mmask16 nan = _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q);
        const __m512i quiet = _mm512_or_si512(top, _mm512_set1_epi32(0x40));
        const __m512i r = _mm512_mask_blend_epi32(nan, _mm512_srli_epi32(even, 16), quiet);
        _mm256_mask_storeu_epi16(y + i, m, _mm512_cvtepi32_epi16(r));
    }
}
#endif

static void round_bf16(float *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, x + i, sizeof u);
        const uint32_t even = (u + 0x7FFFu + (u >> 16 & 1u)) & 0xFFFF0000u;
        const uint32_t quiet = (u & 0xFFFF0000u) | 0x400000u;
        const uint32_t r = (u & 0x7FFFFFFFu) > 0x7F800000u ? quiet : even;
        memcpy(y + i, &r, sizeof r);
    }
}

static void zip(uint32_t *dst, const bf16_t *a, const bf16_t *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = (uint32_t)a[i] | (uint32_t)b[i] << 16;
}

#if VEC_ISA == 0
static bool floats(float *out, const unsigned char *p, enum dtype type, int64_t n) {
    if (dtype_block(type) > 1) return quant_floats(out, p, type, n);
    return dev_src_floats(out, p, type, n);
}
#else
// As dev_src_floats; F16 by the machine's instruction, the rest as the compiler vectorises it.
static bool floats(float *out, const unsigned char *p, enum dtype type, int64_t n) {
    int64_t i = 0;
    if (dtype_block(type) > 1) return quant_floats(out, p, type, n);
    if (type == DT_F32) {
        memcpy(out, p, (size_t)n * sizeof *out);
        i = n;
    }
    for (; i + 8 <= n; i += 8) {
        __m128i h;
        memcpy(&h, p + 2 * i, sizeof h);
        const __m256 wide = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
        _mm256_storeu_ps(out + i, type == DT_F16 ? _mm256_cvtph_ps(h) : wide);
    }
    if (i < n && !dev_src_floats(out + i, p + 2 * i, type, n - i)) return false;
    uint32_t bad = 0;
    for (int64_t j = 0; j < n; j++) {
        uint32_t u;
        memcpy(&u, out + j, sizeof u);
        bad += (u & 0x7F800000u) == 0x7F800000u;
    }
    return bad == 0;
}
#endif

/* ---- int8 */

enum { INT8_BLOCK = 4 * CPU_INT8_STEPS };

// max / 127 upwards to 16 bits (vec_int.h).
ALWAYS float int8_scale(float max) {
    const float x = max / 127.0f;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0xFF) & ~0xFFu;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

/* A block of n <= INT8_BLOCK floats as bytes q + zero, x = scale q; returns the scale, and in *sum that of
 * all q. Zeros stand behind x, up to a whole vector. */
ALWAYS float int8_block(unsigned char *out, const float *x, const int64_t n, uint32_t zero,
                        float *sum) {
    vf most = v_set1(0.0f), total = most;
#pragma GCC unroll 8
    for (int64_t i = 0; i < n; i += VL) {
        const vf v = v_load(x + i);
        most = v_max(most, v_max(v, v_set1(0.0f) - v));
    }
    const float max = v_max_lane(most), scale = max < 1e-30f ? 0.0f : int8_scale(max);
    const float inv = scale > 0 ? 1.0f / scale : 0.0f;
    const vf magic = v_set1(12582912.0f); // leaves an integer in the low bits
#pragma GCC unroll 8
    for (int64_t i = 0; i < n; i += VL) {
        const vf z = v_fma(v_load(x + i), v_set1(inv), magic);
        total = total + (z - magic);
        i_store_bytes(out + i, i_xor(f_bits(z), i_set1(zero)));
    }
    *sum = v_sum(total);
    return *sum != *sum ? *sum : scale;
}

// The last block of a row, which is shorter.
static float int8_rest(uint32_t *out, const float *x, int64_t n, uint32_t zero, float *sum) {
    float in[INT8_BLOCK] = {0};
    unsigned char bytes[INT8_BLOCK];
    memcpy(in, x, (size_t)n * sizeof *x);
    const float scale = int8_block(bytes, in, (n + VL - 1) / VL * VL, zero, sum);
    memcpy(out, bytes, (size_t)(n + 3) / 4 * 4);
    return scale;
}

// The words of a row; behind each block those of A, or of B.
ALWAYS void int8_row(uint32_t *out, const float *x, int64_t n, const bool a) {
    const uint32_t zero = a ? 0 : 0x80;
    for (int64_t k = 0; k < n; k += INT8_BLOCK) {
        const int64_t some = n - k < INT8_BLOCK ? n - k : INT8_BLOCK;
        float sum = 0;
        const float scale = some == INT8_BLOCK
                                ? int8_block((unsigned char *)out, x + k, INT8_BLOCK, zero, &sum)
                                : int8_rest(out, x + k, some, zero, &sum);
        const int32_t start = sum == sum ? I_MAGIC - Q8_ZERO * (int32_t)sum : 0;
        out += (some + 3) / 4;
        if (a) memcpy(out++, &start, sizeof start);
        memcpy(out++, &scale, sizeof scale);
    }
}

static void int8_a(uint32_t *out, const float *x, int64_t n) {
    int8_row(out, x, n, true);
}
static void int8_b(uint32_t *out, const float *x, int64_t n) {
    int8_row(out, x, n, false);
}
