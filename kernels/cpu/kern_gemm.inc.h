/* Matrix micro-kernels, included by each kern_*.c behind vec.h. MR rows by NV vectors of columns
 * stay in registers; MR is a constant of each instance so that the loops unroll and nothing spills.
 */

enum { NR = NV * VL };

#if defined(__x86_64__)
#define PEAK_REG(x) "+v"(x)
#else
#define PEAK_REG(x) "+m"(x)
#endif

/* One step of a tile: a broadcast word times NV vectors of B, per row. */
ALWAYS void step_f32(vf *acc, const int m, const float *a, const float *b) {
    vf bv[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) bv[j] = v_load(b + j * VL);
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        const vf av = v_set1(a[i]);
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++) acc[i * NV + j] = v_fma(av, bv[j], acc[i * NV + j]);
    }
}

#if VEC_ISA == 2
ALWAYS void step_pairs(vf *acc, const int m, const uint32_t *a, const uint32_t *b) {
    __m512bh bv[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; j++) bv[j] = (__m512bh)_mm512_loadu_si512(b + j * VL);
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        const __m512bh av = (__m512bh)_mm512_set1_epi32((int)a[i]);
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++) acc[i * NV + j] = _mm512_dpbf16_ps(acc[i * NV + j], av, bv[j]);
    }
}
ALWAYS vf peak_pairs(vf c, vf a, vf b) {
    return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
}
#else
ALWAYS vf peak_pairs(vf c, vf a, vf b) {
    (void)a, (void)b;
    return c;
}
ALWAYS void step_pairs(vf *acc, const int m, const uint32_t *a, const uint32_t *b) {
    (void)acc, (void)m, (void)a, (void)b; // never called: bf16_pairs is false
}
#endif

/* The same by blocks of int8, each of which is summed in integers and then added to C, for which there
 * are no registers meanwhile: rows of C can be so far apart that they drive each other out of L1. */
ALWAYS void tile_int8(const int m, int64_t steps, const uint32_t *a, const uint32_t *b, float *c,
                      int64_t ldc, const float *first) {
    _Alignas(64) float tot[MR_MAX * NR];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < NR; j += VL)
            v_store(tot + i * NR + j, v_load(first != NULL ? first + j : c + i * ldc + j));
    for (int64_t left = steps; left > 0; left -= CPU_INT8_STEPS) {
        const int64_t n = left < CPU_INT8_STEPS ? left : CPU_INT8_STEPS;
        const uint32_t *start = a + n * m, *scale_a = start + m, *scale_b = b + n * NR;
        vi acc[MR_MAX * NV];
#pragma GCC unroll 16
        for (int i = 0; i < m; i++)
#pragma GCC unroll 4
            for (int j = 0; j < NV; j++) acc[i * NV + j] = i_set1(start[i]);
        for (int64_t k = 0; k < n; k++) {
            vi bv[NV];
#pragma GCC unroll 4
            for (int j = 0; j < NV; j++) bv[j] = i_load(b + k * NR + j * VL);
#pragma GCC unroll 16
            for (int i = 0; i < m; i++) {
                const vi av = i_set1(a[k * m + i]);
#pragma GCC unroll 4
                for (int j = 0; j < NV; j++) acc[i * NV + j] = i_dot_q8(acc[i * NV + j], bv[j], av);
            }
        }
        vf d[NV], md[NV];
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++) {
            d[j] = i_as_float(i_load(scale_b + j * VL));
            md[j] = i_magic_times(d[j]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            const vf s = i_as_float(i_set1(scale_a[i]));
#pragma GCC unroll 4
            for (int j = 0; j < NV; j++) {
                float *t = tot + i * NR + j * VL;
                v_store(t, v_fma(i_times(acc[i * NV + j], d[j], md[j]), s, v_load(t)));
            }
        }
        a = scale_a + m;
        b = scale_b + NR;
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < NR; j += VL) v_store(c + i * ldc + j, v_load(tot + i * NR + j));
}

ALWAYS void tile_body(const bool pairs, const int m, int64_t steps, const void *a, const void *b,
                      float *c, int64_t ldc, const float *first) {
    vf acc[MR_MAX * NV];
    const float *af = a, *bf = b;
    const uint32_t *ap = a, *bp = b;
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++)
            acc[i * NV + j] = v_load(first != NULL ? first + j * VL : c + i * ldc + j * VL);
    for (int64_t k = 0; k < steps; k++) {
        if (pairs)
            step_pairs(acc, m, ap + k * m, bp + k * NR);
        else
            step_f32(acc, m, af + k * m, bf + k * NR);
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < NV; j++) v_store(c + i * ldc + j * VL, acc[i * NV + j]);
}

#define TILE_CASE(m)                                                                               \
    case m:                                                                                        \
        if (word == WORD_INT8)                                                                     \
            tile_int8(m, steps, a, b, c, ldc, first);                                              \
        else if (word == WORD_PAIRS)                                                               \
            tile_body(true, m, steps, a, b, c, ldc, first);                                        \
        else                                                                                       \
            tile_body(false, m, steps, a, b, c, ldc, first);                                       \
        break
/* TILE_SIZES(X) of the including file lists the row counts that have code, ascending. */
static void tile(enum cpu_word word, int m, int64_t steps, const void *a, const void *b, float *c,
                 int64_t ldc, const float *first) {
    switch (m) {
        TILE_SIZES(TILE_CASE);
    default: break;
    }
}

// What the compiler must not see through; at least as many chains as hide the latency.
ALWAYS void peak_body(const bool pairs, int64_t n, float out[VL]) {
    vf acc[MR_MAX * NV], a = v_set1(1e-3f), b = v_set1(0.5f);
#pragma GCC unroll 32
    for (int i = 0; i < MR_MAX * NV; i++) acc[i] = v_set1((float)i);
    for (int64_t k = 0; k < n; k++) {
        __asm__ volatile("" : PEAK_REG(a), PEAK_REG(b));
#pragma GCC unroll 32
        for (int i = 0; i < MR_MAX * NV; i++)
            acc[i] = pairs ? peak_pairs(acc[i], a, b) : v_fma(a, b, acc[i]);
    }
#pragma GCC unroll 32
    for (int i = 1; i < MR_MAX * NV; i++) acc[0] = acc[0] + acc[i];
    v_store(out, acc[0]);
}

ALWAYS void peak_int8(int64_t n, float out[VL]) {
    vi acc[MR_MAX * NV], a = i_set1(0x01020304), b = i_set1(0x7f010203);
#pragma GCC unroll 32
    for (int i = 0; i < MR_MAX * NV; i++) acc[i] = i_set1((uint32_t)i);
    for (int64_t k = 0; k < n; k++) {
        __asm__ volatile("" : PEAK_REG(a), PEAK_REG(b));
#pragma GCC unroll 32
        for (int i = 0; i < MR_MAX * NV; i++) acc[i] = i_dot_q8(acc[i], a, b);
    }
    vf sum = i_float(acc[0]);
#pragma GCC unroll 32
    for (int i = 1; i < MR_MAX * NV; i++) sum = sum + i_float(acc[i]);
    v_store(out, sum);
}

static double peak(enum cpu_word word, int64_t n) {
    static const int ops[] = {[WORD_F32] = 2, [WORD_PAIRS] = 4, [WORD_INT8] = 8};
    float out[VL];
    if (word == WORD_INT8)
        peak_int8(n, out);
    else if (word == WORD_PAIRS)
        peak_body(true, n, out);
    else
        peak_body(false, n, out);
    __asm__ volatile("" ::"r"(out) : "memory");
    return (double)n * MR_MAX * NV * VL * ops[word];
}

#define TILE_FIT(size)                                                                             \
    if (m <= size) return size
static int tile_rows(int m) {
    TILE_SIZES(TILE_FIT);
    return MR_MAX;
}
