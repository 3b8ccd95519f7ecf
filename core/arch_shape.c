/* Architectures: what follows from the numbers of a model, whatever file they came from. */
#include "core/arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_DIM = 1 << 24 }; /* far above any model; keeps every product in 63 bits */

void arch_begin(struct arch *a, const struct arch_family *family) {
    *a = family->defaults;
    a->family = family;
    const struct arch_rope usual = {
        .theta = 10000, .factor = 1, .beta_fast = 32, .beta_slow = 1, .truncate = true};
    const double theta[2] = {a->rope.theta, a->rope_local.theta};
    a->rope = a->rope_local = usual;
    if (theta[0] > 0) a->rope.theta = theta[0];
    if (theta[1] > 0) a->rope_local.theta = theta[1];
}

bool arch_settle(struct arch *a) {
    if (a->n_kv == 0) a->n_kv = a->n_head;
    if (a->d_head == 0) {
        if (a->d_model % a->n_head != 0) return false;
        a->d_head = a->d_model / a->n_head;
    }
    if (a->embed_scale == 0) a->embed_scale = 1;
    if (a->branch_scale == 0) a->branch_scale = 1;
    if (a->logit_scale == 0) a->logit_scale = 1;
    if (a->alibi_scale == 0) a->alibi_scale = 1;
    if (a->alibi_max == 0) a->alibi_max = 8;
    if (a->family->settle != NULL) a->family->settle(a);
    if (a->attn_scale == 0) a->attn_scale = 1 / sqrt((double)a->d_head);
    if (a->rope.kind == ROPE_PLAIN) a->rope.n_ctx_original = 0;
    if (a->rope.kind == ROPE_LONG && a->rope.n_ctx_original > 0)
        a->rope.factor = (double)a->n_ctx_train / (double)a->rope.n_ctx_original;
    if (a->positions != POS_ROPE) a->n_rot = 0;
    if (a->positions == POS_ROPE && a->n_rot == 0) {
        const double share = a->rotary_share > 0 ? a->rotary_share : 1;
        a->n_rot = (int64_t)(share * (double)a->d_head);
    }
    return true;
}

/* ---- what cannot be ---- */

static bool find_long_fault(const struct arch *a, struct arch_fault *fault) {
    const struct arch_long *l = &a->rope_long;
    if (a->rope.kind != ROPE_LONG) return false;
    if (a->rope.n_ctx_original < 2) {
        *fault = (struct arch_fault){offsetof(struct arch, rope), E_UNSUPPORTED,
                                     "longrope needs original_max_position_embeddings"};
        return true;
    }
    if (l->n_short == a->n_rot / 2 && l->n_long == a->n_rot / 2) return false;
    *fault = (struct arch_fault){offsetof(struct arch, rope), E_FORMAT,
                                 "longrope needs a factor for each pair of dimensions that turn"};
    return true;
}

static bool find_rope_fault(const struct arch *a, struct arch_fault *fault) {
    if (a->positions != POS_ROPE) return false;
    if (a->n_logn > 0 && a->n_rot != a->d_head) {
        *fault = (struct arch_fault){offsetof(struct arch, rotary_share), E_UNSUPPORTED,
                                     "heads that turn in part are not supported with logn scaling"};
        return true;
    }
    if (a->n_logn == 1) {
        *fault = (struct arch_fault){offsetof(struct arch, n_ctx_train), E_FORMAT,
                                     "must be above 1 for logn scaling"};
        return true;
    }
    if (find_long_fault(a, fault)) return true;
    if (a->n_rot >= 2 && a->n_rot <= a->d_head && a->n_rot % 2 == 0) return false;
    const size_t at = a->n_rot == a->d_head ? offsetof(struct arch, d_head)
                      : a->rotary_share > 0 ? offsetof(struct arch, rotary_share)
                                            : offsetof(struct arch, n_rot);
    *fault = (struct arch_fault){at, E_FORMAT,
                                 a->n_rot == a->d_head
                                     ? "must be even for rotary positions"
                                     : "must turn an even number of a head's dimensions"};
    return true;
}

static bool find_layer_fault(const struct arch *a, struct arch_fault *fault) {
    bool local = false;
    for (int64_t l = 0; l < a->n_layer; l++) local = local || arch_is_local(a, l);
    if (a->given.n_layer_types > 0 && a->given.n_layer_types != a->n_layer) {
        *fault = (struct arch_fault){offsetof(struct arch, local_layers), E_FORMAT,
                                     "must name the type of every layer"};
        return true;
    }
    const bool windows = a->window > 0 && a->family->window == WINDOW_NONE;
    if (windows || (local && a->family->window != WINDOW_LOCAL)) {
        *fault = (struct arch_fault){windows ? offsetof(struct arch, window)
                                             : offsetof(struct arch, local_layers),
                                     E_UNSUPPORTED, "this family has no layers with a window"};
        return true;
    }
    if (local && a->window == 0) {
        *fault = (struct arch_fault){offsetof(struct arch, window), E_FORMAT,
                                     "missing: there are layers with a window"};
        return true;
    }
    return false;
}

bool arch_find_fault(const struct arch *a, struct arch_fault *fault) {
    const struct {
        size_t offset;
        int64_t value, most;
    } limits[] = {{offsetof(struct arch, d_model), a->d_model, MAX_DIM},
                  {offsetof(struct arch, d_ff), a->d_ff, MAX_DIM},
                  {offsetof(struct arch, n_vocab), a->n_vocab, MAX_DIM},
                  {offsetof(struct arch, n_layer), a->n_layer, ARCH_MAX_LAYERS},
                  {offsetof(struct arch, n_head), a->n_head, 65536},
                  {offsetof(struct arch, d_head), a->d_head, 65536}};
    for (size_t i = 0; i < COUNTOF(limits); i++) {
        if (limits[i].value >= 1 && limits[i].value <= limits[i].most) continue;
        *fault = (struct arch_fault){limits[i].offset, E_FORMAT, "out of range"};
        return true;
    }
    if (a->n_kv < 1 || a->n_head % a->n_kv != 0) {
        *fault = (struct arch_fault){offsetof(struct arch, n_kv), E_FORMAT,
                                     "must divide the number of attention heads"};
        return true;
    }
    if (a->given.embed_dim > 0 && a->given.embed_dim != a->d_model) {
        *fault =
            (struct arch_fault){offsetof(struct arch, given.embed_dim), E_UNSUPPORTED,
                                "embeddings of another width than the layers are not supported"};
        return true;
    }
    return find_rope_fault(a, fault) || find_layer_fault(a, fault);
}

/* ---- positions ---- */

void arch_rope_freqs_past(const struct arch *a, double *freq) {
    for (int64_t k = 0; k < a->n_rot / 2; k++)
        freq[k] = pow(a->rope.theta, -2.0 * (double)k / (double)a->n_rot) / a->rope_long.long_by[k];
}

static void long_freqs(const struct arch *a, const struct arch_rope *r, double *freq,
                       double *mscale) {
    for (int64_t k = 0; k < a->n_rot / 2; k++) freq[k] /= a->rope_long.short_by[k];
    *mscale = r->attention_factor > 0 ? r->attention_factor
              : r->factor <= 1        ? 1
                                      : sqrt(1 + log(r->factor) / log((double)r->n_ctx_original));
}

void arch_rope_freqs(const struct arch *a, const struct arch_rope *r, double *freq,
                     double *mscale) {
    const int n = (int)(a->n_rot / 2);
    const double dim = (double)a->n_rot, two_pi = 2 * acos(-1.0);
    *mscale = 1;
    for (int k = 0; k < n; k++) freq[k] = pow(r->theta, -2.0 * k / dim);
    if (r->kind == ROPE_LONG) {
        long_freqs(a, r, freq, mscale);
    } else if (r->kind == ROPE_LINEAR) {
        for (int k = 0; k < n; k++) freq[k] /= r->factor;
    } else if (r->kind == ROPE_LLAMA3) {
        const double ctx = (double)r->n_ctx_original;
        for (int k = 0; k < n; k++) {
            const double turns = ctx * freq[k] / two_pi; // of this pair over the original context
            const double share =
                (turns - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
            const double keep = fmin(1, fmax(0, share));
            freq[k] = (1 - keep) * freq[k] / r->factor + keep * freq[k];
        }
    } else if (r->kind == ROPE_YARN) {
        const double ctx = (double)(r->n_ctx_original > 0 ? r->n_ctx_original : a->n_ctx_train);
        double lo = dim * log(ctx / (r->beta_fast * two_pi)) / (2 * log(r->theta));
        double hi = dim * log(ctx / (r->beta_slow * two_pi)) / (2 * log(r->theta));
        if (r->truncate) {
            lo = floor(lo);
            hi = ceil(hi);
        }
        lo = fmax(lo, 0);
        hi = fmin(hi, dim - 1);
        if (lo == hi) hi += 0.001;
        for (int k = 0; k < n; k++) {
            const double ramp = fmin(1, fmax(0, (k - lo) / (hi - lo)));
            freq[k] = freq[k] / r->factor * ramp + freq[k] * (1 - ramp);
        }
        const double base = r->factor <= 1 ? 0 : 0.1 * log(r->factor);
        *mscale = r->attention_factor > 0 ? r->attention_factor
                  : r->mscale > 0 && r->mscale_all > 0
                      ? (base * r->mscale + 1) / (base * r->mscale_all + 1)
                      : base + 1;
    }
}

void arch_slopes(const struct arch *a, double *slope) {
    int64_t whole = 1; // the power of two at or below n_head
    while (whole * 2 <= a->n_head) whole *= 2;
    for (int64_t h = 0; h < a->n_head; h++) {
        // Heads past a power of two take every second slope of twice as many.
        const double at = h < whole ? (double)(h + 1) / (double)whole
                                    : (double)(2 * (h - whole) + 1) / (double)(2 * whole);
        slope[h] = a->alibi_scale * exp2(-a->alibi_max * at);
    }
}

bool arch_is_local(const struct arch *a, int64_t layer) {
    return (a->local_layers[layer / 64] >> layer % 64 & 1) != 0;
}

/* ---- tensors ---- */

const struct arch_tensor *arch_tensor_of(const struct arch_family *f, enum arch_role role) {
    for (int i = 0; i < f->n_tensor; i++) {
        if (f->tensors[i].role == role) return &f->tensors[i];
    }
    return NULL;
}

bool arch_per_layer(const struct arch_tensor *t) {
    return t->role >= ARCH_NORM_ATTN;
}

void arch_tensor_name(char *name, size_t cap, const char *pattern, int64_t layer) {
    const char *mark = strstr(pattern, "%d");
    if (mark == NULL) {
        snprintf(name, cap, "%s", pattern);
    } else {
        snprintf(name, cap, "%.*s%lld%s", (int)(mark - pattern), pattern, (long long)layer,
                 mark + 2);
    }
}

enum dim {
    DIM_ONE,
    DIM_MODEL,
    DIM_HEADS,
    DIM_KV,
    DIM_NORM_Q,
    DIM_NORM_K,
    DIM_FF,
    DIM_VOCAB,
    DIM_TABLE,
    DIM_PAIRS,
    DIM_SLOPES
};

static const struct {
    enum wt_use use;
    enum dim n_out, n_in;
} roles[ARCH_ROLE_COUNT] = {
    [ARCH_EMBED] = {WT_TABLE, DIM_VOCAB, DIM_MODEL},
    [ARCH_POSITIONS] = {WT_TABLE, DIM_TABLE, DIM_MODEL},
    [ARCH_NORM_OUT] = {WT_VECTOR, DIM_MODEL, DIM_ONE},
    [ARCH_NORM_OUT_BIAS] = {WT_VECTOR, DIM_MODEL, DIM_ONE},
    [ARCH_HEAD] = {WT_MATRIX, DIM_VOCAB, DIM_MODEL},
    [ARCH_HEAD_BIAS] = {WT_VECTOR, DIM_VOCAB, DIM_ONE},
    [ARCH_SLOPES] = {WT_VECTOR, DIM_SLOPES, DIM_ONE},
    [ARCH_ROPE_FREQS] = {WT_VECTOR, DIM_PAIRS, DIM_ONE},
    [ARCH_NORM_ATTN] = {WT_VECTOR, DIM_MODEL, DIM_ONE},
    [ARCH_NORM_ATTN_BIAS] = {WT_VECTOR, DIM_MODEL, DIM_ONE},
    [ARCH_Q] = {WT_MATRIX, DIM_HEADS, DIM_MODEL},
    [ARCH_Q_BIAS] = {WT_VECTOR, DIM_HEADS, DIM_ONE},
    [ARCH_K] = {WT_MATRIX, DIM_KV, DIM_MODEL},
    [ARCH_K_BIAS] = {WT_VECTOR, DIM_KV, DIM_ONE},
    [ARCH_V] = {WT_MATRIX, DIM_KV, DIM_MODEL},
    [ARCH_V_BIAS] = {WT_VECTOR, DIM_KV, DIM_ONE},
    [ARCH_NORM_Q] = {WT_VECTOR, DIM_NORM_Q, DIM_ONE},
    [ARCH_NORM_K] = {WT_VECTOR, DIM_NORM_K, DIM_ONE},
    [ARCH_O] = {WT_MATRIX, DIM_MODEL, DIM_HEADS},
    [ARCH_O_BIAS] = {WT_VECTOR, DIM_MODEL, DIM_ONE},
    [ARCH_NORM_ATTN_POST] = {WT_VECTOR, DIM_MODEL, DIM_ONE},
    [ARCH_NORM_MLP] = {WT_VECTOR, DIM_MODEL, DIM_ONE},
    [ARCH_NORM_MLP_BIAS] = {WT_VECTOR, DIM_MODEL, DIM_ONE},
    [ARCH_GATE] = {WT_MATRIX, DIM_FF, DIM_MODEL},
    [ARCH_GATE_BIAS] = {WT_VECTOR, DIM_FF, DIM_ONE},
    [ARCH_UP] = {WT_MATRIX, DIM_FF, DIM_MODEL},
    [ARCH_UP_BIAS] = {WT_VECTOR, DIM_FF, DIM_ONE},
    [ARCH_DOWN] = {WT_MATRIX, DIM_MODEL, DIM_FF},
    [ARCH_DOWN_BIAS] = {WT_VECTOR, DIM_MODEL, DIM_ONE},
    [ARCH_NORM_MLP_POST] = {WT_VECTOR, DIM_MODEL, DIM_ONE},
};

static int64_t dim_of(const struct arch *a, enum dim d) {
    switch (d) {
    case DIM_ONE: return 1;
    case DIM_MODEL: return a->d_model;
    case DIM_HEADS: return a->n_head * a->d_head;
    case DIM_KV: return a->n_kv * a->d_head;
    case DIM_NORM_Q: return (a->qk_norm_row ? a->n_head : 1) * a->d_head;
    case DIM_NORM_K: return (a->qk_norm_row ? a->n_kv : 1) * a->d_head;
    case DIM_FF: return a->d_ff;
    case DIM_VOCAB: return a->n_vocab;
    case DIM_TABLE: return a->n_ctx_train + a->pos_offset;
    case DIM_PAIRS: return a->n_rot / 2;
    case DIM_SLOPES: return a->n_head;
    }
    return 0;
}

enum wt_use arch_use(enum arch_role role) {
    return roles[role].use;
}

struct arch_place arch_place(const struct arch *a, enum arch_role role, enum arch_part part) {
    const int64_t n_out = dim_of(a, roles[role].n_out), group = a->n_head / a->n_kv;
    const int64_t q = a->n_head * a->d_head, kv = a->n_kv * a->d_head;
    const bool is_k = role == ARCH_K || role == ARCH_K_BIAS;
    const bool is_v = role == ARCH_V || role == ARCH_V_BIAS;
    const bool is_up = role == ARCH_UP || role == ARCH_UP_BIAS;
    struct arch_place p = {.n_out = n_out,
                           .n_in = dim_of(a, roles[role].n_in),
                           .n_stored_rows = n_out,
                           .block = n_out};
    switch (part) {
    case PART_WHOLE: break;
    case PART_QKV:
        p.n_stored_rows = q + 2 * kv;
        p.first = is_v ? q + kv : is_k ? q : 0;
        break;
    case PART_QKV_GROUPS:
        p.n_stored_rows = q + 2 * kv;
        p.first = (is_v ? group + 1 : is_k ? group : 0) * a->d_head;
        p.block = (is_k || is_v ? 1 : group) * a->d_head;
        p.stride = (group + 2) * a->d_head;
        break;
    case PART_GATE_UP:
        p.n_stored_rows = 2 * a->d_ff;
        p.first = is_up ? a->d_ff : 0;
        break;
    }
    return p;
}

bool arch_has(const struct arch *a, const struct arch_tensor *t) {
    switch (t->when) {
    case WHEN_ALWAYS: return true;
    case WHEN_UNTIED: return !a->tied;
    case WHEN_QKV_BIAS: return a->qkv_bias;
    case WHEN_O_BIAS: return a->o_bias;
    case WHEN_MLP_BIAS: return a->mlp_bias;
    case WHEN_NORM_BIAS: return a->norm_bias;
    case WHEN_QK_NORM: return a->qk_norm;
    case WHEN_NORM_MLP: return a->norm_mlp;
    case WHEN_NORM_MLP_BIAS: return a->norm_mlp && a->norm_bias;
    case WHEN_ROPE_FREQS: return a->rope_freqs;
    }
    return false;
}
