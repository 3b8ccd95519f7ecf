/* Softmax over tiles of keys and blocks of the vocabulary, included by each kern_*.c behind
 * kern_rows.inc.h. Sums run over VL lanes in one order and end in one tree. */

/* Visible keys of a column of VL lanes. */
struct soft_view {
    vf first, end;
};

static inline vf only_visible(vf x, int key, const struct soft_view *w, vf fill) {
    const vf at = v_set1((float)key);
    return v_lt_select(at, w->first, fill, v_lt_select(at, w->end, x, fill));
}

// Softcap and ALiBi of one column, in place, and from there to powers of two.
static void soft_shape(const struct cpu_soft *t, int col) {
    const vf log2e = v_set1(1.44269504f), cap = v_set1(t->cap), inv = v_set1(t->inv_cap);
    const vf slope = t->slope != NULL ? v_load(t->slope + col) : v_set1(0.0f);
    const vf dist = t->slope != NULL ? v_load(t->dist + col) : v_set1(0.0f);
    for (int i = t->lo; i < t->hi; i++) {
        float *at = t->s + i * NR + col;
        vf x = v_load(at);
        if (t->cap > 0.0f) x = cap * v_tanh(x * inv);
        x = x - slope * (dist - v_set1((float)i));
        v_store(at, x * log2e);
    }
}

// The largest visible score of each lane; the order of maxima does not matter.
ALWAYS vf soft_max(const struct cpu_soft *t, int col, const bool whole, const struct soft_view *w) {
    const vf lowest = v_set1(-3.402823466e38f);
    vf m[4] = {lowest, lowest, lowest, lowest};
    int i = t->lo;
    for (; i + 4 <= t->hi; i += 4)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const vf x = v_load(t->s + (i + j) * NR + col);
            m[j] = v_max(m[j], whole ? x : only_visible(x, i + j, w, lowest));
        }
    for (; i < t->hi; i++) {
        const vf x = v_load(t->s + i * NR + col);
        m[0] = v_max(m[0], whole ? x : only_visible(x, i, w, lowest));
    }
    return v_max(v_max(m[0], m[1]), v_max(m[2], m[3]));
}

#if VEC_ISA == 2
// This conversion flushes denormals: a p below 1e-38 adds nothing to a sum that holds a 1.
ALWAYS void store_pairs(uint32_t *out, vf a, vf b) {
    const __m512i zip = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512bh h = _mm512_cvtne2ps_pbh(b, a);
    __m512i u;
    memcpy(&u, &h, sizeof u);
    _mm512_storeu_si512(out, _mm512_permutexvar_epi16(zip, u));
}
#else
ALWAYS void store_pairs(uint32_t *out, vf a, vf b) {
    (void)out, (void)a, (void)b; // never called: bf16_pairs is false
}
#endif

/* p of two keys i, i + 1 (i is even) of a column, over their scores. As pairs they take the room of
 * the key i / 2, whose scores have been read. */
ALWAYS void soft_two(const struct cpu_soft *t, int i, int col, vf max, const bool whole,
                     const struct soft_view *w, const bool rough, vf sum[2]) {
    float *at = t->s + i * NR + col;
    vf e[2];
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
        const vf x = v_load(at + j * NR) - max;
        e[j] = rough ? v_exp2_rough(x) : v_exp2(x);
        if (!whole) e[j] = only_visible(e[j], i + j, w, v_set1(0.0f));
        sum[j] = sum[j] + e[j];
    }
    if (rough && VEC_ISA == 2) {
        store_pairs((uint32_t *)t->s + i / 2 * NR + col, e[0], e[1]);
        return;
    }
    v_store(at, e[0]);
    v_store(at + NR, e[1]);
    if (!rough) return;
    round_bf16(at, at, VL);
    round_bf16(at + NR, at + NR, VL);
}

/* A lane's sum has four chains, by the key's place in its tile: what it does not see adds zeros. */
ALWAYS bool soft_column(const struct cpu_soft *t, int col, const bool whole, const bool rough) {
    const vf one = v_set1(1.0f), zero = v_set1(0.0f), far = v_set1(8.0f);
    const struct soft_view w = {v_load(t->first + col), v_load(t->end + col)};
    const vf old = v_load(t->max + col), top = soft_max(t, col, whole, &w);
    // A NaN score may get lost here, but not in p.
    const vf max = v_lt_select(old + far, top, top, old);
    const vf scale = v_exp2(old - max);
    vf a[2] = {zero, zero}, b[2] = {zero, zero};
    int i = t->lo / 4 * 4;
    for (; i < t->hi; i += 4) {
        if (i >= t->lo) soft_two(t, i, col, max, whole, &w, rough, a);
        if (i + 2 < t->hi) soft_two(t, i + 2, col, max, whole, &w, rough, b);
    }
    const vf sum = (a[0] + a[1]) + (b[0] + b[1]);
    v_store(t->max + col, max);
    v_store(t->scale + col, scale);
    v_store(t->sum + col, v_fma(v_load(t->sum + col), scale, sum));
    return v_max_lane(v_max(one - scale, scale - one)) != 0.0f;
}

static bool soften(const struct cpu_soft *t) {
    bool moved = false;
    const bool rough = t->pairs || t->round;
    for (int col = 0; col < NR; col += VL) {
        if (t->cap > 0.0f || t->slope != NULL) soft_shape(t, col);
        if (t->whole && rough)
            moved |= soft_column(t, col, true, true);
        else if (rough)
            moved |= soft_column(t, col, false, true);
        else if (t->whole)
            moved |= soft_column(t, col, true, false);
        else
            moved |= soft_column(t, col, false, false);
    }
    return moved;
}

static void scale_lanes(float *x, int64_t n, const float *scale) {
    for (int64_t i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int col = 0; col < NR; col += VL)
            v_store(x + i * NR + col, v_load(x + i * NR + col) * v_load(scale + col));
}

static void scale_out(float *y, const float *x, float scale, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * scale + 0.0f;
}

// Lanes i..i+VL-1 of a single query's stretch: x where the key is visible, `fill` elsewhere.
static inline vf row_visible(vf x, int i, const struct cpu_soft_row *r, vf fill) {
    const vf lane = v_iota() + v_set1((float)i);
    const vf below = v_lt_select(lane, v_set1((float)r->hi), x, fill);
    return v_lt_select(lane, v_set1((float)r->lo), fill, below);
}

static float row_max(float s[CPU_KEYS], const struct cpu_soft_row *r) {
    const vf lowest = v_set1(-3.402823466e38f);
    vf max = lowest;
    for (int i = 0; i < CPU_KEYS; i += VL) {
        vf x = v_load(s + i);
        if (r->cap > 0.0f) x = v_set1(r->cap) * v_tanh(x * v_set1(r->inv_cap));
        if (r->slope != 0.0f)
            x = x - v_set1(r->slope) * (v_set1(r->dist) - (v_iota() + v_set1((float)i)));
        v_store(s + i, x);
        max = v_max(max, row_visible(x, i, r, lowest));
    }
    return v_max_lane(max);
}

static float row_exp(float p[CPU_KEYS], const float s[CPU_KEYS], const struct cpu_soft_row *r,
                     float max) {
    const vf m = v_set1(max);
    vf total = v_set1(0.0f);
    for (int i = 0; i < CPU_KEYS; i += VL) {
        const vf e = row_visible(v_exp(v_load(s + i) - m), i, r, v_set1(0.0f));
        total = total + e;
        v_store(p + i, e);
    }
    return v_sum(total);
}

static void exp_small(float x[CPU_MR_MAX]) {
    for (int i = 0; i < CPU_MR_MAX; i += VL) v_store(x + i, v_exp(v_load(x + i)));
}

// The rows of logits are padded to a whole vector, which may be overwritten; n counts the real
// ones.
static float logit_max(float *l, int64_t n, float scale, float cap, bool *finite) {
    const vf sc = v_set1(scale), zero = v_set1(0.0f);
    vf max = v_set1(-3.402823466e38f), nan = zero; // x * 0 is NaN unless x is finite
    for (int64_t i = 0; i < n; i += VL) {
        vf x = n - i >= VL ? v_load(l + i) : load_tail(l + i, n - i, l[i]); // repeats a real one
        x = x * sc;
        nan = v_fma(x, zero, nan);
        if (cap > 0.0f) x = v_set1(cap) * v_tanh(x * v_set1(1.0f / cap));
        v_store(l + i, x);
        max = v_max(max, x);
    }
    const float bad = v_sum(nan);
    *finite = bad == bad;
    return v_max_lane(max);
}

static float logit_sum(const float *l, int64_t n, float max) {
    const vf m = v_set1(max), zero = v_set1(0.0f);
    vf s = zero;
    int64_t i = 0;
    for (; i + VL <= n; i += VL) s = s + v_exp(v_load(l + i) - m);
    if (i < n)
        s = s + v_lt_select(v_iota(), v_set1((float)(n - i)), v_exp(v_load(l + i) - m), zero);
    return v_sum(s);
}
