#include "cmd/inspect_arch.h"

#include "cmd/text.h"

#include <inttypes.h>
#include <math.h>

/* ---- words ---- */

const struct cmd_inspect_role *cmd_inspect_role(enum arch_role role) {
    static const struct cmd_inspect_role roles[ARCH_ROLE_COUNT] = {
        [ARCH_EMBED] = {"embed", "embedding"},
        [ARCH_POSITIONS] = {"positions", "table of positions"},
        [ARCH_NORM_OUT] = {"norm_out", "last norm"},
        [ARCH_NORM_OUT_BIAS] = {"norm_out_bias", "last norm's bias"},
        [ARCH_HEAD] = {"head", "head"},
        [ARCH_HEAD_BIAS] = {"head_bias", "head's bias"},
        [ARCH_SLOPES] = {"slopes", "ALiBi slopes"},
        [ARCH_ROPE_FREQS] = {"rope_freqs", "divisors of the rotary angles"},
        [ARCH_NORM_ATTN] = {"norm_attn", "norm before attention"},
        [ARCH_NORM_ATTN_BIAS] = {"norm_attn_bias", "bias of the norm before attention"},
        [ARCH_Q] = {"q", "query"},
        [ARCH_Q_BIAS] = {"q_bias", "query bias"},
        [ARCH_K] = {"k", "key"},
        [ARCH_K_BIAS] = {"k_bias", "key bias"},
        [ARCH_V] = {"v", "value"},
        [ARCH_V_BIAS] = {"v_bias", "value bias"},
        [ARCH_NORM_Q] = {"norm_q", "norm of queries"},
        [ARCH_NORM_K] = {"norm_k", "norm of keys"},
        [ARCH_O] = {"o", "attention output"},
        [ARCH_O_BIAS] = {"o_bias", "attention output bias"},
        [ARCH_NORM_ATTN_POST] = {"norm_attn_post", "norm after attention"},
        [ARCH_NORM_MLP] = {"norm_mlp", "norm before MLP"},
        [ARCH_NORM_MLP_BIAS] = {"norm_mlp_bias", "bias of the norm before MLP"},
        [ARCH_GATE] = {"gate", "MLP gate"},
        [ARCH_GATE_BIAS] = {"gate_bias", "MLP gate bias"},
        [ARCH_UP] = {"up", "MLP up"},
        [ARCH_UP_BIAS] = {"up_bias", "MLP up bias"},
        [ARCH_DOWN] = {"down", "MLP down"},
        [ARCH_DOWN_BIAS] = {"down_bias", "MLP down bias"},
        [ARCH_NORM_MLP_POST] = {"norm_mlp_post", "norm after MLP"},
    };
    return &roles[role];
}

static const char *act_name(enum act_kind k) {
    static const char *const names[] = {"silu", "gelu", "gelu_tanh", "relu"};
    return names[k];
}

static const char *rope_name(enum arch_rope_kind k) {
    static const char *const names[] = {"plain", "linear", "llama3", "yarn", "longrope"};
    return names[k];
}

static const char *norm_name(enum norm_kind k) {
    return k == NORM_RMS ? "rms" : "layer";
}

static const char *heads_name(const struct arch *a) {
    return a->n_kv == a->n_head ? "mha" : a->n_kv == 1 ? "mqa" : "gqa";
}

static const char *positions_name(const struct arch *a) {
    return a->positions == POS_ROPE ? "rope" : a->positions == POS_ALIBI ? "alibi" : "learned";
}

static bool has_role(const struct arch *a, enum arch_role role) {
    const struct arch_tensor *t = arch_tensor_of(a->family, role);
    return t != NULL && arch_has(a, t);
}

static int64_t local_layers(const struct arch *a) {
    int64_t n = 0;
    for (int64_t l = 0; l < a->n_layer; l++) n += arch_is_local(a, l);
    return n;
}

/* ---- for machines ---- */

static void put_number_or_null(struct sbuf *b, const char *name, double x) {
    cmd_text_json_num(b, name, x > 0 ? x : NAN);
}

static void put_rope_json(struct sbuf *b, const struct arch *a) {
    const struct arch_rope *r = &a->rope;
    cmd_text_key(b, "rope");
    sbuf_puts(b, "{");
    cmd_text_json_str(b, "kind", rope_name(r->kind));
    cmd_text_json_num(b, "theta", r->theta);
    cmd_text_json_bool(b, "interleaved", a->rope_interleaved);
    if (r->kind != ROPE_PLAIN) cmd_text_json_num(b, "factor", r->factor);
    if (r->n_ctx_original > 0) cmd_text_json_int(b, "original_context", r->n_ctx_original);
    if (r->kind == ROPE_LLAMA3) {
        cmd_text_json_num(b, "low_freq_factor", r->low_freq_factor);
        cmd_text_json_num(b, "high_freq_factor", r->high_freq_factor);
    }
    if (r->kind == ROPE_YARN) {
        cmd_text_json_num(b, "beta_fast", r->beta_fast);
        cmd_text_json_num(b, "beta_slow", r->beta_slow);
        if (r->attention_factor > 0) {
            cmd_text_json_num(b, "attention_factor", r->attention_factor);
        }
    }
    sbuf_puts(b, "}");
}

static void put_local_json(struct sbuf *b, const struct arch *a) {
    cmd_text_key(b, "window"); // of layers with a window of their own
    if (a->window > 0) {
        sbuf_printf(b, "%" PRId64, a->window);
    } else {
        sbuf_puts(b, "null");
    }
    cmd_text_json_int(b, "local_layers", local_layers(a));
    put_number_or_null(b, "local_theta", local_layers(a) > 0 ? a->rope_local.theta : 0);
}

void cmd_inspect_put_json(struct sbuf *b, const struct arch *a) {
    cmd_text_json_str(b, "family", a->family->name);
    cmd_text_json_int(b, "layers", a->n_layer);
    cmd_text_json_int(b, "d_model", a->d_model);
    cmd_text_json_int(b, "d_ff", a->d_ff);
    cmd_text_json_int(b, "heads", a->n_head);
    cmd_text_json_int(b, "kv_heads", a->n_kv);
    cmd_text_json_int(b, "d_head", a->d_head);
    cmd_text_json_int(b, "vocabulary", a->n_vocab);
    cmd_text_json_bool(b, "tied", a->tied);
    cmd_text_json_bool(b, "parallel", a->parallel);
    cmd_text_json_str(b, "attention", heads_name(a));
    cmd_text_json_bool(b, "attention_bias", has_role(a, ARCH_Q_BIAS) || has_role(a, ARCH_O_BIAS));
    cmd_text_json_bool(b, "qk_norm", has_role(a, ARCH_NORM_Q));
    cmd_text_json_bool(b, "mlp_bias", has_role(a, ARCH_UP_BIAS));
    cmd_text_json_bool(b, "gated", has_role(a, ARCH_GATE));
    cmd_text_json_str(b, "activation", act_name(a->act));
    cmd_text_json_str(b, "norm", norm_name(a->family->norm));
    cmd_text_json_num(b, "norm_eps", a->norm_eps);
    cmd_text_json_bool(b, "post_norms", has_role(a, ARCH_NORM_ATTN_POST));
    cmd_text_json_num(b, "embed_scale", a->embed_scale);
    cmd_text_json_num(b, "attention_scale", a->attn_scale);
    cmd_text_json_num(b, "logit_scale", a->logit_scale);
    put_number_or_null(b, "attention_softcap", a->attn_softcap);
    put_number_or_null(b, "logit_softcap", a->logit_softcap);
    cmd_text_json_int(b, "context", a->n_ctx_train);
    put_local_json(b, a);
    cmd_text_json_str(b, "positions", positions_name(a));
    cmd_text_json_int(b, "rotary_dimensions", a->n_rot);
    put_rope_json(b, a);
}

/* ---- for people ---- */

void cmd_inspect_put_label(struct sbuf *b, const char *label) {
    sbuf_printf(b, "%-12s", label);
}

static void put_layers(struct sbuf *b, const struct arch *a) {
    const char *order = "one after the other: norm, attention, add; norm, MLP, add";
    if (a->parallel) order = "side by side: attention and MLP read the same stream, add";
    if (has_role(a, ARCH_NORM_ATTN_POST)) {
        order = "one after the other: norm, attention, norm, add; norm, MLP, norm, add";
    }
    cmd_inspect_put_label(b, "layers");
    cmd_text_count(b, a->n_layer);
    sbuf_puts(b, " of width ");
    cmd_text_count(b, a->d_model);
    sbuf_printf(b, ", %s\n", order);
}

static void put_heads(struct sbuf *b, const struct arch *a) {
    cmd_inspect_put_label(b, "attention");
    cmd_text_plural(b, a->n_head, "head");
    sbuf_printf(b, " of %" PRId64 ", ", a->d_head);
    if (a->n_kv == a->n_head) {
        sbuf_puts(b, "each with its own keys and values");
    } else {
        cmd_text_count(b, a->n_kv);
        sbuf_puts(b, " of keys and values");
    }
    sbuf_printf(b, ", %s%s\n",
                has_role(a, ARCH_Q_BIAS) || has_role(a, ARCH_O_BIAS) ? "with biases" : "no biases",
                has_role(a, ARCH_NORM_Q) ? ", queries and keys normalised" : "");
}

// What is not 1, or not there, in most models.
static void put_scales(struct sbuf *b, const struct arch *a) {
    const struct {
        const char *what;
        double x;
        bool usual;
    } scales[] = {
        {"embedding times", a->embed_scale, a->embed_scale == 1},
        {"scores times", a->attn_scale, fabs(a->attn_scale * sqrt((double)a->d_head) - 1) < 1e-12},
        {"logits times", a->logit_scale, a->logit_scale == 1},
        {"scores within", a->attn_softcap, a->attn_softcap == 0},
        {"logits within", a->logit_softcap, a->logit_softcap == 0}};
    bool any = false;
    for (size_t i = 0; i < COUNTOF(scales); i++) {
        if (scales[i].usual) continue;
        if (!any) cmd_inspect_put_label(b, "scales");
        sbuf_printf(b, "%s%s %g", any ? ", " : "", scales[i].what, scales[i].x);
        any = true;
    }
    if (any) sbuf_putc(b, '\n');
}

static void put_scaling(struct sbuf *b, const struct arch_rope *r) {
    if (r->kind == ROPE_PLAIN) {
        sbuf_puts(b, "not scaled");
    } else {
        sbuf_printf(b, "scaled %s by %g", rope_name(r->kind), r->factor);
    }
    if (r->kind == ROPE_LLAMA3) {
        sbuf_printf(b, " (frequencies %g..%g)", r->low_freq_factor, r->high_freq_factor);
    } else if (r->kind == ROPE_YARN) {
        sbuf_printf(b, " (beta %g..%g)", r->beta_slow, r->beta_fast);
    }
    if (r->kind == ROPE_PLAIN || r->n_ctx_original == 0) return;
    sbuf_puts(b, " from ");
    cmd_text_plural(b, r->n_ctx_original, "token");
}

static void put_positions(struct sbuf *b, const struct arch *a) {
    cmd_inspect_put_label(b, "positions");
    if (a->positions == POS_ALIBI) {
        sbuf_printf(b, "ALiBi, slopes from 2^(-%g / heads)", a->alibi_max);
    } else if (a->positions == POS_LEARNED) {
        sbuf_puts(b, "learned, a table");
    } else {
        if (a->n_rot < a->d_head)
            sbuf_printf(b, "%" PRId64 " of %" PRId64 " dimensions ", a->n_rot, a->d_head);
        sbuf_printf(b, "rotary, theta %g, pairs %s, ", a->rope.theta,
                    a->rope_interleaved ? "side by side" : "half a head apart");
        put_scaling(b, &a->rope);
    }
    sbuf_puts(b, "; trained to ");
    cmd_text_plural(b, a->n_ctx_train, "token");
    sbuf_puts(b, "\n");
}

static void put_window(struct sbuf *b, const struct arch *a) {
    const int64_t n = local_layers(a);
    if (a->positions != POS_ROPE) return;
    cmd_inspect_put_label(b, "window");
    if (n > 0) {
        cmd_text_plural(b, a->window, "token");
        sbuf_puts(b, " in ");
        cmd_text_count(b, n);
        sbuf_puts(b, " of the layers, in every mode, theta ");
        sbuf_printf(b, "%g there\n", a->rope_local.theta);
    } else if (a->window > 0 && a->family->window == WINDOW_DENSE) {
        cmd_text_plural(b, a->window, "token");
        sbuf_puts(b, " in dense mode, as trained\n");
    } else {
        sbuf_puts(b, "none of its own\n");
    }
}

void cmd_inspect_put_text(struct sbuf *b, const struct arch *a) {
    put_layers(b, a);
    put_heads(b, a);
    cmd_inspect_put_label(b, "MLP");
    cmd_text_count(b, a->d_ff);
    sbuf_printf(b, ", %s%s, %s\n", has_role(a, ARCH_GATE) ? "gated " : "", act_name(a->act),
                has_role(a, ARCH_UP_BIAS) ? "with biases" : "no biases");
    cmd_inspect_put_label(b, "norm");
    sbuf_printf(b, "%s, eps %g\n", norm_name(a->family->norm), a->norm_eps);
    put_scales(b, a);
    put_positions(b, a);
    put_window(b, a);
    cmd_inspect_put_label(b, "vocabulary");
    cmd_text_count(b, a->n_vocab);
    sbuf_printf(b, ", head %s\n", a->tied ? "tied to the embedding" : "of its own");
}
