/* Softmax over tiles of keys and blocks of the vocabulary, included by each kern_*.c behind
 * kern_rows.inc.h. Sums run over VL lanes in one order and end in one tree. */

// Lanes i..i+VL-1 of a tile: x where the key is visible, `fill` elsewhere.
static inline vf only_visible(vf x, int i, const struct cpu_soft_row *r, vf fill) {
    const vf lane = v_iota() + v_set1((float)i);
    const vf below = v_lt_select(lane, v_set1((float)r->hi), x, fill);
    return v_lt_select(lane, v_set1((float)r->lo), fill, below);
}

static float soft_max(float s[CPU_KEYS], const struct cpu_soft_row *r) {
    const vf lowest = v_set1(-3.402823466e38f);
    const bool plain = r->cap <= 0.0f && r->slope == 0.0f, whole = r->lo == 0 && r->hi == CPU_KEYS;
    vf max = lowest;
    for (int i = 0; i < CPU_KEYS; i += VL) {
        vf x = v_load(s + i);
        if (!plain) {
            if (r->cap > 0.0f) x = v_set1(r->cap) * v_tanh(x * v_set1(r->inv_cap));
            if (r->slope != 0.0f)
                x = x - v_set1(r->slope) * (v_set1(r->dist) - (v_iota() + v_set1((float)i)));
            v_store(s + i, x);
        }
        max = v_max(max, whole ? x : only_visible(x, i, r, lowest));
    }
    return v_max_lane(max);
}

#if VEC_ISA == 2
// This conversion flushes denormals: a p below 1e-38 adds nothing to a sum that holds a 1.
static void to_pairs(void *p, const float x[CPU_KEYS]) {
    for (int i = 0; i < CPU_KEYS; i += 2 * VL) {
        const __m512bh h = _mm512_cvtne2ps_pbh(v_load(x + i + VL), v_load(x + i));
        memcpy((bf16_t *)p + i, &h, sizeof h);
    }
}
#else
static void to_pairs(void *p, const float x[CPU_KEYS]) {
    to_bf16(p, x, CPU_KEYS);
}
#endif

static float soft_exp(void *p, const float s[CPU_KEYS], const struct cpu_soft_row *r, float max,
                      bool pairs, bool round) {
    const bool whole = r->lo == 0 && r->hi == CPU_KEYS;
    const vf m = v_set1(max);
    float tmp[CPU_KEYS], *out = pairs ? tmp : p;
    vf total = v_set1(0.0f);
    for (int i = 0; i < CPU_KEYS; i += VL) {
        vf e = v_exp(v_load(s + i) - m);
        if (!whole) e = only_visible(e, i, r, v_set1(0.0f));
        total = total + e;
        v_store(out + i, e);
    }
    if (pairs) to_pairs(p, tmp);
    if (round) round_bf16(out, out, CPU_KEYS);
    return v_sum(total);
}

// n is a multiple of VL: packed rows are padded.
static void scale_add(float *y, const float *x, float scale, int64_t n) {
    const vf s = v_set1(scale);
    for (int64_t i = 0; i < n; i += VL) v_store(y + i, v_fma(v_load(y + i), s, v_load(x + i)));
}

static void scale_out(float *y, const float *x, float scale, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * scale + 0.0f;
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
