/* One query of a few heads over keys and values where they lie, included by each attend_*.c behind vec.h. A
 * step is 2 VL elements of a head as two vectors: of bf16 the even and the odd ones, of floats the first
 * and the second VL. Queries and outputs are in the same order.
 *
 * A score is one chain over the steps in VL lanes, then one tree; an output one chain over the keys. */
#include "kernels/cpu/decode.h"

#define ALWAYS static inline __attribute__((always_inline))

struct two {
    vf lo, hi;
};

#if VEC_ISA == 2
ALWAYS struct two load_bf16(const unsigned char *p) {
    const __m512i w = _mm512_loadu_si512(p);
    return (struct two){
        _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)),
        _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xFFFF0000u)))};
}
ALWAYS void store_sums(float *s, vf a, vf b, vf c, vf d) {
    const vf ab = _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b);
    const vf cd = _mm512_unpacklo_ps(c, d) + _mm512_unpackhi_ps(c, d);
    const vf x = _mm512_shuffle_ps(ab, cd, 0x44) + _mm512_shuffle_ps(ab, cd, 0xEE);
    const __m256 y = _mm512_castps512_ps256(x) + _mm512_extractf32x8_ps(x, 1);
    _mm_storeu_ps(s, _mm256_castps256_ps128(y) + _mm256_extractf128_ps(y, 1));
}
#elif VEC_ISA == 1
ALWAYS struct two load_bf16(const unsigned char *p) {
    const __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return (struct two){
        _mm256_castsi256_ps(_mm256_slli_epi32(w, 16)),
        _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32((int)0xFFFF0000u)))};
}
ALWAYS void store_sums(float *s, vf a, vf b, vf c, vf d) {
    const vf x = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(s, _mm256_castps256_ps128(x) + _mm256_extractf128_ps(x, 1));
}
#else
ALWAYS struct two load_bf16(const unsigned char *p) {
    vu w;
    memcpy(&w, p, sizeof w);
    return (struct two){(vf)(w << 16), (vf)(w & 0xFFFF0000u)};
}
ALWAYS void store_sums(float *s, vf a, vf b, vf c, vf d) {
    s[0] = v_sum(a), s[1] = v_sum(b), s[2] = v_sum(c), s[3] = v_sum(d);
}
#endif

ALWAYS struct two load_step(const bool bf16, const unsigned char *p, int64_t step) {
    if (bf16) return load_bf16(p + step * 4 * VL);
    const float *f = (const float *)(const void *)p + step * 2 * VL;
    return (struct two){v_load(f), v_load(f + VL)};
}

// Rows of one head lie too far apart for the machine to guess the next one: it is asked for early.
enum { AHEAD = 16 };
ALWAYS void ask_ahead(const struct cpu_keys *k, int i, int64_t from, int64_t bytes) {
    if (i + AHEAD >= k->n) return;
    const unsigned char *p = k->at + (i + AHEAD) * k->stride_bytes + from;
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(p + at);
}

ALWAYS void scores_body(const bool bf16, const int g, const struct cpu_keys *k, const float *q,
                        float *s) {
    const int64_t width = k->steps * 2 * VL, step_bytes = (bf16 ? 4 : 8) * VL;
    for (int i = 0; i < k->n; i += 4) {
        for (int j = 0; j < 4; j++) ask_ahead(k, i + j, 0, k->steps * step_bytes);
        const unsigned char *p[4]; // behind the end, the last key again
        for (int j = 0; j < 4; j++)
            p[j] = k->at + (i + j < k->n ? i + j : k->n - 1) * k->stride_bytes;
        vf acc[4][4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
#pragma GCC unroll 4
            for (int h = 0; h < g; h++) acc[j][h] = v_set1(0.0f);
        for (int64_t step = 0; step < k->steps; step++) {
            struct two key[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) key[j] = load_step(bf16, p[j], step);
#pragma GCC unroll 4
            for (int h = 0; h < g; h++) {
                const float *at = q + h * width + step * 2 * VL;
                const vf lo = v_load(at), hi = v_load(at + VL);
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) {
                    acc[j][h] = v_fma(lo, key[j].lo, acc[j][h]);
                    acc[j][h] = v_fma(hi, key[j].hi, acc[j][h]);
                }
            }
        }
#pragma GCC unroll 4
        for (int h = 0; h < g; h++) {
            float *to = s + h * CPU_CHUNK + i, four[4];
            if (i + 4 <= k->n) {
                store_sums(to, acc[0][h], acc[1][h], acc[2][h], acc[3][h]);
                continue;
            }
            store_sums(four, acc[0][h], acc[1][h], acc[2][h], acc[3][h]);
            for (int j = 0; j < k->n - i; j++) to[j] = four[j];
        }
    }
}

// Steps step..step+ns-1 of the outputs of g heads.
ALWAYS void values_slice(const bool bf16, const int g, const int ns, const struct cpu_keys *k,
                         const float *p, float *o, int64_t step) {
    const int64_t width = k->steps * 2 * VL, step_bytes = (bf16 ? 4 : 8) * VL;
    vf acc[4][4];
    o += step * 2 * VL;
#pragma GCC unroll 4
    for (int h = 0; h < g; h++)
#pragma GCC unroll 4
        for (int i = 0; i < 2 * ns; i++) acc[h][i] = v_load(o + h * width + i * VL);
    const unsigned char *at = k->at;
    for (int j = 0; j < k->n; j++, at += k->stride_bytes) {
        struct two v[2];
        ask_ahead(k, j, step * step_bytes, ns * step_bytes);
#pragma GCC unroll 2
        for (int i = 0; i < ns; i++) v[i] = load_step(bf16, at, step + i);
#pragma GCC unroll 4
        for (int h = 0; h < g; h++) {
            const vf w = v_set1(p[h * CPU_CHUNK + j]);
#pragma GCC unroll 2
            for (int i = 0; i < ns; i++) {
                acc[h][2 * i] = v_fma(w, v[i].lo, acc[h][2 * i]);
                acc[h][2 * i + 1] = v_fma(w, v[i].hi, acc[h][2 * i + 1]);
            }
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < g; h++)
#pragma GCC unroll 4
        for (int i = 0; i < 2 * ns; i++) v_store(o + h * width + i * VL, acc[h][i]);
}

ALWAYS void values_body(const bool bf16, const int g, const struct cpu_keys *k, const float *p,
                        float *o) {
    int64_t step = 0;
    for (; step + 2 <= k->steps; step += 2) values_slice(bf16, g, 2, k, p, o, step);
    if (step < k->steps) values_slice(bf16, g, 1, k, p, o, step);
}

#define HEADS_CASE(body, g)                                                                        \
    case g:                                                                                        \
        if (k->bf16)                                                                               \
            body(true, g, k, in, out);                                                             \
        else                                                                                       \
            body(false, g, k, in, out);                                                            \
        break
#define HEADS(name, body)                                                                          \
    static void name(const struct cpu_keys *k, int n_head, const float *in, float *out) {          \
        switch (n_head) {                                                                          \
            HEADS_CASE(body, 1);                                                                   \
            HEADS_CASE(body, 2);                                                                   \
            HEADS_CASE(body, 3);                                                                   \
            HEADS_CASE(body, 4);                                                                   \
        default: break;                                                                            \
        }                                                                                          \
    }
HEADS(scores, scores_body)
HEADS(values, values_body)
