/* Panels of stored weights times a few rows, included by each decode_*.c behind vec.h: unpacking in
 * registers, MR rows by one vector of columns, every instance for one type, mode and row count.
 * kernels/cpu/decode.h says how panels and rows lie and in which order is summed. */
#include "kernels/cpu/decode.h"
#include "kernels/cpu/vec_int.h"

// Steps of a block unroll where shifts by a constant are cheaper; rows, as many as registers hold.
#if VEC_ISA == 0
enum { ROWS_MAX = 4 };
#define UNROLL_STEPS
#elif VEC_ISA == 1
enum { ROWS_MAX = 4 };
#define UNROLL_STEPS _Pragma("GCC unroll 32")
#else
enum { ROWS_MAX = 8 };
#define UNROLL_STEPS _Pragma("GCC unroll 32")
#endif

// The bits `mask` of a word that is shifted so that bit `from` comes to lie at bit `to`.
ALWAYS vi bits_at(vi w, int from, int to, uint32_t mask) {
    const vi s = from > to ? i_shr(w, from - to) : i_shl(w, to - from);
    return i_and(s, i_set1(mask));
}

// ---- steps of a block whose words begin at p: VL words beside each other

ALWAYS vi word_at(const unsigned char *p, int i) {
    return i_load(p + (size_t)i * VL * 4);
}

// Element s of the block as float.
ALWAYS vf step_f32(const struct cpu_form f, const unsigned char *p, const int s) {
    if (f.plane == PLANE_F32) return i_as_float(word_at(p, s));
    if (f.plane == PLANE_BF16)
        return i_as_float(s % 2 == 0 ? i_shl(word_at(p, s / 2), 16)
                                     : i_and(word_at(p, s / 2), i_set1(0xFFFF0000u)));
    const int byte = s % 4, group = s / 4;
    vi v = f.plane == PLANE_Q8 ? bits_at(word_at(p, group), 8 * byte, 0, 255)
                               : bits_at(word_at(p, s / 8), 8 * byte + 4 * (group % 2), 0, 15);
    if (f.plane == PLANE_Q5) v = i_or(v, bits_at(word_at(p, 4), 8 * byte + group, 4, 0x10));
    if (f.plane == PLANE_Q6) v = i_or(v, bits_at(word_at(p, 2), 8 * byte + 2 * group, 4, 0x30));
    return i_float(f.zero != 0 ? i_sub(v, i_set1((uint32_t)f.zero)) : v);
}

// Elements 4 s..4 s+3 of the block as bytes.
ALWAYS vi step_int8(const struct cpu_form f, const unsigned char *p, const int s) {
    if (f.plane == PLANE_Q8) return word_at(p, s);
    vi v = bits_at(word_at(p, s / 2), s % 2 * 4, 0, 0x0F0F0F0Fu);
    if (f.plane == PLANE_Q5) v = i_or(v, bits_at(word_at(p, 4), s, 4, 0x10101010u));
    if (f.plane == PLANE_Q6) v = i_or(v, bits_at(word_at(p, 2), 2 * s, 4, 0x30303030u));
    return v;
}

#if VEC_ISA == 2
// The integers -32..31 as bf16.
static const uint16_t bf16_ints[64] = {
    0xC200, 0xC1F8, 0xC1F0, 0xC1E8, 0xC1E0, 0xC1D8, 0xC1D0, 0xC1C8, 0xC1C0, 0xC1B8, 0xC1B0,
    0xC1A8, 0xC1A0, 0xC198, 0xC190, 0xC188, 0xC180, 0xC170, 0xC160, 0xC150, 0xC140, 0xC130,
    0xC120, 0xC110, 0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040, 0xC000, 0xBF80, 0x0000,
    0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0, 0x4100, 0x4110, 0x4120, 0x4130,
    0x4140, 0x4150, 0x4160, 0x4170, 0x4180, 0x4188, 0x4190, 0x4198, 0x41A0, 0x41A8, 0x41B0,
    0x41B8, 0x41C0, 0x41C8, 0x41D0, 0x41D8, 0x41E0, 0x41E8, 0x41F0, 0x41F8};

struct tables {
    vi low, high; // what the lowest five (Q6: six) bits of each half of a word stand for
};
ALWAYS struct tables tables_of(const struct cpu_form f) {
    struct tables r = {i_set1(0), i_set1(0)};
    if (f.plane < PLANE_Q4) return r; // not looked up
    const uint16_t *t = bf16_ints + 32 - f.zero;
    r.low = f.plane == PLANE_Q4
                ? _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)t))
                : i_load(t);
    r.high = f.plane == PLANE_Q6 ? i_load(t + 32) : r.low;
    return r;
}

// a where the bits of mask are set, b elsewhere.
ALWAYS vi bit_select(uint32_t mask, vi a, vi b) {
    return _mm512_ternarylogic_epi32(i_set1(mask), a, b, 0xCA);
}
// What the compiler's headers take a shift count for.
#ifdef __clang__
typedef unsigned shift_count;
#else
typedef int shift_count;
#endif

ALWAYS vi halves_at(vi w, int from, int to) {
    return from > to ? _mm512_srli_epi16(w, (shift_count)(from - to))
                     : _mm512_slli_epi16(w, (shift_count)(to - from));
}

/* Bytes q and q + 2 of a word as bf16. Under the exponent of 2^23, or 2^15 for the second byte, a byte
 * counts ones; of what the subtraction leaves, an integer below 129, the lower half is zeros. */
ALWAYS vf q8_float(vi w, const int q) {
    return q == 0 ? i_as_float(bit_select(0xFFu, w, i_set1(0x4B000000u))) - v_set1(8388736.0f)
                  : i_as_float(bit_select(0xFF00u, w, i_set1(0x47000000u))) - v_set1(32896.0f);
}
ALWAYS vi q8_pair(vi w, const int q) {
    const vi upper =
        _mm512_broadcast_i32x4(_mm_setr_epi8(2, 3, 0, 0, 6, 7, 0, 0, 10, 11, 0, 0, 14, 15, 0, 0));
    const vi lo = _mm512_castps_si512(q8_float(w, q));
    const vi hi = _mm512_castps_si512(q8_float(i_shr(w, 16), q));
    return _mm512_mask_shuffle_epi8(hi, 0x3333333333333333u, lo, upper);
}

/* Pair s of a block as bf16: of each 16-bit half of a word the nibble 4 (s % 4), the high bits joined
 * on top; what is above does not count in the look-up. */
ALWAYS vi step_pairs(const struct cpu_form f, const unsigned char *p, const int s,
                     const struct tables *t) {
    if (f.plane == PLANE_BF16) return word_at(p, s);
    if (f.plane == PLANE_Q8) return q8_pair(word_at(p, s / 2), s % 2);
    const int j = s / 4, q = s % 4, group = 2 * j + q % 2;
    vi v = halves_at(word_at(p, j), 4 * q, 0);
    if (f.plane == PLANE_Q5)
        v = bit_select(0x00100010u, halves_at(word_at(p, 4), 8 * (q / 2) + group, 4), v);
    if (f.plane == PLANE_Q6) {
        v = bit_select(0x00300030u, halves_at(word_at(p, 2), 8 * (q / 2) + 2 * group, 4), v);
        return _mm512_permutex2var_epi16(t->low, v, t->high);
    }
    return _mm512_permutexvar_epi16(v, t->low);
}
ALWAYS vf dot_pairs(vf acc, vi w, uint32_t x) {
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)i_set1(x));
}
#else
struct tables {
    int none;
};
ALWAYS struct tables tables_of(const struct cpu_form f) {
    (void)f;
    return (struct tables){0};
}
ALWAYS vi step_pairs(const struct cpu_form f, const unsigned char *p, const int s,
                     const struct tables *t) { // never called: there is no MODE_PAIRS
    (void)f, (void)s, (void)t;
    return i_load(p);
}
ALWAYS vf dot_pairs(vf acc, vi w, uint32_t x) {
    (void)w, (void)x;
    return acc;
}
#endif

// ---- scales

struct scales {
    vf d, m;
};
// Of the block at w, whose group begins with `head`.
ALWAYS struct scales scales_of(const struct cpu_form f, const struct scales *head,
                               const unsigned char *w) {
    if (!f.k) return *head;
    struct scales s = *head;
    s.d = s.d * load_bytes(w, f.plane == PLANE_Q6);
    if (f.min) s.m = v_set1(0.0f) - s.m * load_bytes(w + VL, false);
    return s;
}
ALWAYS struct scales head_of(const struct cpu_form f, const unsigned char *w) {
    struct scales s = {v_set1(1.0f), v_set1(0.0f)};
    if (cpu_plane_scaled(f.plane)) s.d = load_halves(w);
    if (f.min) s.m = load_halves(w + 2 * VL);
    return s;
}

ALWAYS float word_float(uint32_t w) {
    float x;
    memcpy(&x, &w, sizeof x);
    return x;
}

// ---- a panel

// Where a block is at work: its words of w, and of x in row 0.
struct block_at {
    const unsigned char *w;
    const uint32_t *words, *sum, *scale, *start;
    int64_t ld;
};

ALWAYS void block_floats(const struct cpu_form f, const enum cpu_mode mode, const int m,
                         const struct block_at *b, const struct tables *t, vf *s) {
    const int n = cpu_plane_block(f.plane) / cpu_mode_step(mode);
#pragma GCC unroll 8
    for (int r = 0; r < m; r++) s[r] = v_set1(0.0f);
    UNROLL_STEPS
    for (int i = 0; i < n; i++) {
        if (mode == MODE_PAIRS) {
            const vi w = step_pairs(f, b->w, i, t);
#pragma GCC unroll 8
            for (int r = 0; r < m; r++) s[r] = dot_pairs(s[r], w, b->words[r * b->ld + i]);
        } else {
            const vf w = step_f32(f, b->w, i);
#pragma GCC unroll 8
            for (int r = 0; r < m; r++)
                s[r] = v_fma(v_set1(word_float(b->words[r * b->ld + i])), w, s[r]);
        }
    }
}

ALWAYS void block_ints(const struct cpu_form f, const int m, const struct block_at *b, vf *s) {
    const int n = cpu_plane_block(f.plane) / 4;
    vi acc[ROWS_MAX];
#pragma GCC unroll 8
    for (int r = 0; r < m; r++) acc[r] = i_set1(b->start[r * b->ld]);
    UNROLL_STEPS
    for (int i = 0; i < n; i++) {
        const vi w = step_int8(f, b->w, i);
#pragma GCC unroll 8
        for (int r = 0; r < m; r++) {
            const vi x = i_set1(b->words[r * b->ld + i]);
            acc[r] = f.plane == PLANE_Q8 ? i_dot_q8(acc[r], w, x) : i_dot(acc[r], w, x);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < m; r++) s[r] = i_float(acc[r]) * v_set1(word_float(b->scale[r * b->ld]));
}

enum { AHEAD = 4096 }; // bytes: what the hardware fetches ahead ends at each page

// One panel times rows 0..m-1 at x; c is [m, VL], ldc apart.
ALWAYS void panel_body(const struct cpu_form f, const enum cpu_mode mode, const int m,
                       const struct cpu_packed *p, const uint32_t *x, const unsigned char *w,
                       const float *bias, float *c, int64_t ldc) {
    const struct tables t = tables_of(f);
    const int steps = cpu_plane_block(f.plane) / cpu_mode_step(mode), group = cpu_form_group(f);
    const size_t block_bytes = (size_t)cpu_form_block(f) * VL;
    const size_t skip = block_bytes - (size_t)cpu_plane_words(f.plane) * VL * 4;
    struct block_at b = {NULL, x, x + p->sum, x + p->scale, x + p->start, p->ld};
    vf tot[ROWS_MAX], s[ROWS_MAX];
#pragma GCC unroll 8
    for (int r = 0; r < m; r++) tot[r] = v_load(bias);
    for (int64_t g = 0; g < p->n_block; g += group) {
        const struct scales head = head_of(f, w);
        w += cpu_form_head(f) * VL;
        for (int i = 0; i < group; i++, w += block_bytes, b.words += steps) {
            const struct scales sc = scales_of(f, &head, w);
            b.w = w + skip;
            for (size_t at = 0; at < block_bytes; at += 64) __builtin_prefetch(w + AHEAD + at);
            if (mode == MODE_INT8)
                block_ints(f, m, &b, s);
            else
                block_floats(f, mode, m, &b, &t, s);
#pragma GCC unroll 8
            for (int r = 0; r < m; r++)
                if (cpu_plane_scaled(f.plane))
                    tot[r] = v_fma(sc.d, s[r], tot[r]);
                else
                    tot[r] = tot[r] + s[r];
            if (f.min) {
#pragma GCC unroll 8
                for (int r = 0; r < m; r++)
                    tot[r] = v_fma(sc.m, v_set1(word_float(b.sum[r * b.ld])), tot[r]);
            }
            b.sum++, b.scale++, b.start++;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < m; r++) v_store(c + r * ldc, tot[r]);
}

// Rows that go together at most: beside them, one accumulator more for each must be in registers.
// Multiply-adds of f32 gain nothing from more than four.
ALWAYS int most_rows(const enum cpu_mode mode) {
    return mode == MODE_F32 ? 4 : ROWS_MAX;
}

#define PANEL(name, type, mode)                                                                    \
    static void name(int rows, const struct cpu_packed *p, const uint32_t *x,                      \
                     const unsigned char *w, const float *bias, float *c, int64_t ldc) {           \
        switch (rows) {                                                                            \
        case 1: panel_body(cpu_form_of(type), mode, 1, p, x, w, bias, c, ldc); break;              \
        case 8: panel_body(cpu_form_of(type), mode, most_rows(mode), p, x, w, bias, c, ldc);       \
            break;                                                                                 \
        default: panel_body(cpu_form_of(type), mode, 4, p, x, w, bias, c, ldc); break;             \
        }                                                                                          \
    }
#define QUANTIZED(X, mode, suffix)                                                                 \
    X(q8_0_##suffix, DT_Q8_0, mode)                                                                \
    X(q4_0_##suffix, DT_Q4_0, mode)                                                                \
    X(q4_1_##suffix, DT_Q4_1, mode)                                                                \
    X(q5_0_##suffix, DT_Q5_0, mode)                                                                \
    X(q5_1_##suffix, DT_Q5_1, mode)                                                                \
    X(q4_k_##suffix, DT_Q4_K, mode)                                                                \
    X(q5_k_##suffix, DT_Q5_K, mode)                                                                \
    X(q6_k_##suffix, DT_Q6_K, mode)
#define F32_INSTANCES(X)                                                                           \
    X(f32_f32, DT_F32, MODE_F32)                                                                   \
    X(bf16_f32, DT_BF16, MODE_F32)                                                                 \
    QUANTIZED(X, MODE_F32, f32)

F32_INSTANCES(PANEL)
QUANTIZED(PANEL, MODE_INT8, int8)
#if VEC_ISA == 2
PANEL(bf16_pairs, DT_BF16, MODE_PAIRS)
QUANTIZED(PANEL, MODE_PAIRS, pairs)
#define PAIRS_INSTANCES(X) X(bf16_pairs, DT_BF16, MODE_PAIRS) QUANTIZED(X, MODE_PAIRS, pairs)
#else
#define PAIRS_INSTANCES(X)
#endif

typedef void panel_fn(int rows, const struct cpu_packed *p, const uint32_t *x,
                      const unsigned char *w, const float *bias, float *c, int64_t ldc);

static panel_fn *panel_for(enum dtype type, enum cpu_mode mode) {
    static panel_fn *const table[3][DT_COUNT] = {
#define ENTRY(name, type, mode) [mode][type] = name,
        F32_INSTANCES(ENTRY) QUANTIZED(ENTRY, MODE_INT8, int8) PAIRS_INSTANCES(ENTRY)};
    return table[mode][type];
}

// The columns that are there of a panel whose last ones are not.
static void copy_columns(float *c, int64_t ldc, const float *from, int64_t ld, int64_t n_row,
                         int64_t n_col) {
    for (int64_t r = 0; r < n_row; r++)
        memcpy(c + r * ldc, from + r * ld, (size_t)n_col * sizeof *c);
}

static void panels(const struct cpu_panels *p) {
    static const float zeros[VL] = {0};
    panel_fn *run = panel_for(p->x->type, p->x->mode);
    const int64_t most = most_rows(p->x->mode);
    for (int64_t i = 0; i < p->n_panel; i++) {
        const int64_t col = i * VL, n_col = p->n_col - col < VL ? p->n_col - col : VL;
        for (int64_t r = 0, m = 0; r < p->n_row; r += m) {
            const int64_t left = p->n_row - r;
            m = left >= most ? most : left >= 4 ? 4 : 1;
            float edge[ROWS_MAX * VL], *c = p->c + r * p->ldc + col;
            const bool whole = n_col == VL;
            run((int)m, p->x, p->x->words + r * p->x->ld, p->w + (size_t)i * p->panel_bytes,
                p->bias != NULL ? p->bias + col : zeros, whole ? c : edge, whole ? p->ldc : VL);
            if (!whole) copy_columns(c, p->ldc, edge, VL, m, n_col);
        }
    }
}

// ---- rows of x

// The next n elements of a row, at most a block of them, and zeros to the end of the block.
ALWAYS void load_block(float *x, const float *from, int64_t n, int block) {
    if (n < block) memset(x, 0, (size_t)block * sizeof *x);
    memcpy(x, from, (size_t)(n < block ? n : block) * sizeof *x);
}

ALWAYS uint32_t float_word(float x) {
    uint32_t w;
    memcpy(&w, &x, sizeof w);
    return w;
}

ALWAYS float sum_block(const float *x, int n) {
    vf s = v_load(x);
    for (int i = VL; i < n; i += VL) s = s + v_load(x + i);
    return v_sum(s);
}

/* The n floats as int8: rounded to the nearest multiple of the scale (ties to even: adding 1.5 * 2^23
 * leaves the integer in the low bits). What is not finite makes the scale NaN. */
ALWAYS void pack_int8(const struct cpu_packed *p, uint32_t *row, int64_t b, const float *x, int n,
                      int zero) {
    const vf none = v_set1(0.0f), magic = v_set1(12582912.0f);
    vf most = none, nan = none;
    for (int i = 0; i < n; i += VL) {
        const vf v = v_load(x + i);
        most = v_max(most, v_max(v, none - v));
        nan = v_fma(v, none, nan);
    }
    const float max = v_max_lane(most), bad = v_sum(nan);
    const bool finite = bad == bad;
    const vf inv = v_set1(finite && max > 0.0f ? 127.0f / max : 0.0f);
    int32_t q[32], total = 0;
    int8_t bytes[32];
    for (int i = 0; i < n; i += VL) {
        const vf y = v_min(v_set1(127.0f), v_max(v_set1(-127.0f), v_load(x + i) * inv)) + magic;
        v_store((float *)(void *)(q + i), y);
    }
    for (int i = 0; i < n; i++) {
        q[i] = finite ? q[i] - 0x4B400000 : 0;
        total += q[i];
        bytes[i] = (int8_t)q[i];
    }
    memcpy(row + b * (n / 4), bytes, (size_t)n);
    const float d = finite ? max / 127.0f : bad;
    row[p->sum + b] = float_word(d * (float)total);
    row[p->scale + b] = float_word(d);
    row[p->start + b] = (uint32_t)(-zero * total);
}

#if VEC_ISA == 2
// For each half of a block's words, the element that it holds.
static void pair_order(uint16_t order[32], enum cpu_plane plane) {
    for (int i = 0; i < 32; i++) {
        const int q = i % 8 / 2; // nibbles: the halves of a word hold bytes 0 1 and 2 3
        order[i] = (uint16_t)i;
        if (plane >= PLANE_Q4) order[i] = (uint16_t)(i / 8 * 8 + q / 2 + 4 * (q % 2) + 2 * (i % 2));
        if (plane == PLANE_Q8) order[i] = (uint16_t)(i / 4 * 4 + i % 4 / 2 + 2 * (i % 2));
    }
}

ALWAYS void pack_pairs(uint32_t *row, int64_t sum, int64_t b, const float *x, int n, vi order) {
    const vf hi = n == 32 ? v_load(x + VL) : v_set1(0.0f);
    const vi h = (vi)_mm512_cvtne2ps_pbh(hi, v_load(x));
    const vf even = i_as_float(i_shl(h, 16)), odd = i_as_float(i_and(h, i_set1(0xFFFF0000u)));
    const vi words = _mm512_permutexvar_epi16(order, h);
    if (n == 32)
        _mm512_storeu_si512(row + b * 16, words);
    else
        _mm256_storeu_si256((__m256i *)(void *)(row + b * 8), _mm512_castsi512_si256(words));
    row[sum + b] = float_word(v_sum(even + odd));
}
#endif

static void pack(const struct cpu_packed *p, int64_t r, const float *from, int64_t n) {
    const struct cpu_form f = cpu_form_of(p->type);
    const int block = cpu_plane_block(f.plane);
    uint32_t *row = p->words + r * p->ld;
    float x[32];
#if VEC_ISA == 2
    uint16_t order[32];
    pair_order(order, f.plane);
    const vi pairs = i_load(order);
    if (p->mode == MODE_PAIRS) {
        for (int64_t b = 0; b < p->n_block; b++, from += block, n -= block) {
            if (n < block) load_block(x, from, n, block);
            pack_pairs(row, p->sum, b, n < block ? x : from, block, pairs);
        }
        return;
    }
#endif
    for (int64_t b = 0; b < p->n_block; b++, from += block, n -= block) {
        load_block(x, from, n, block);
        if (p->mode == MODE_INT8) {
            pack_int8(p, row, b, x, block, f.plane == PLANE_Q8 ? Q8_ZERO : f.zero);
            continue;
        }
        if (p->round)
            for (int i = 0; i < block; i++) x[i] = dtype_bf16_to_f32(dtype_f32_to_bf16(x[i]));
        memcpy(row + b * block, x, (size_t)block * sizeof *x);
        row[p->sum + b] = float_word(sum_block(x, block));
    }
}
