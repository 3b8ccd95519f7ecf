/* Llama and the families whose tensors have its names. */
#include "core/families_impl.h"

static const struct arch_tensor llama_tensors[] = {
    TENSOR(EMBED, ALWAYS, "model.embed_tokens.weight", "token_embd.weight"),
    TENSOR(NORM_OUT, ALWAYS, "model.norm.weight", "output_norm.weight"),
    TENSOR(NORM_OUT_BIAS, NORM_BIAS, "model.norm.bias", "output_norm.bias"),
    TENSOR(HEAD, UNTIED, "lm_head.weight", "output.weight"),
    TENSOR(ROPE_FREQS, ROPE_FREQS, NULL, "rope_freqs.weight"),
    TENSOR_ALSO(NORM_ATTN, ALWAYS, "model.layers.%d.input_layernorm.weight",
                "model.layers.%d.ln1.weight", "blk.%d.attn_norm.weight"),
    TENSOR(NORM_ATTN_BIAS, NORM_BIAS, "model.layers.%d.input_layernorm.bias",
           "blk.%d.attn_norm.bias"),
    TENSOR(Q, ALWAYS, "model.layers.%d.self_attn.q_proj.weight", "blk.%d.attn_q.weight"),
    TENSOR(Q_BIAS, QKV_BIAS, "model.layers.%d.self_attn.q_proj.bias", "blk.%d.attn_q.bias"),
    TENSOR(K, ALWAYS, "model.layers.%d.self_attn.k_proj.weight", "blk.%d.attn_k.weight"),
    TENSOR(K_BIAS, QKV_BIAS, "model.layers.%d.self_attn.k_proj.bias", "blk.%d.attn_k.bias"),
    TENSOR(V, ALWAYS, "model.layers.%d.self_attn.v_proj.weight", "blk.%d.attn_v.weight"),
    TENSOR(V_BIAS, QKV_BIAS, "model.layers.%d.self_attn.v_proj.bias", "blk.%d.attn_v.bias"),
    TENSOR(NORM_Q, QK_NORM, "model.layers.%d.self_attn.q_norm.weight", "blk.%d.attn_q_norm.weight"),
    TENSOR(NORM_K, QK_NORM, "model.layers.%d.self_attn.k_norm.weight", "blk.%d.attn_k_norm.weight"),
    TENSOR(O, ALWAYS, "model.layers.%d.self_attn.o_proj.weight", "blk.%d.attn_output.weight"),
    TENSOR(O_BIAS, O_BIAS, "model.layers.%d.self_attn.o_proj.bias", "blk.%d.attn_output.bias"),
    TENSOR_ALSO(NORM_MLP, NORM_MLP, "model.layers.%d.post_attention_layernorm.weight",
                "model.layers.%d.ln2.weight", "blk.%d.ffn_norm.weight"),
    TENSOR(NORM_MLP_BIAS, NORM_MLP_BIAS, "model.layers.%d.post_attention_layernorm.bias",
           "blk.%d.ffn_norm.bias"),
    TENSOR(GATE, ALWAYS, "model.layers.%d.mlp.gate_proj.weight", "blk.%d.ffn_gate.weight"),
    TENSOR(GATE_BIAS, MLP_BIAS, "model.layers.%d.mlp.gate_proj.bias", "blk.%d.ffn_gate.bias"),
    TENSOR(UP, ALWAYS, "model.layers.%d.mlp.up_proj.weight", "blk.%d.ffn_up.weight"),
    TENSOR(UP_BIAS, MLP_BIAS, "model.layers.%d.mlp.up_proj.bias", "blk.%d.ffn_up.bias"),
    TENSOR(DOWN, ALWAYS, "model.layers.%d.mlp.down_proj.weight", "blk.%d.ffn_down.weight"),
    TENSOR(DOWN_BIAS, MLP_BIAS, "model.layers.%d.mlp.down_proj.bias", "blk.%d.ffn_down.bias"),
};

static const struct arch_field llama_fields[] = {
    LLAMA_FIELDS,
    FIELD("rms_norm_eps", NUM, true, norm_eps),
    FIELD("sliding_window", INT, false, window),
    FIELD("attention_bias", BOOL, false, qkv_bias),
    FIELD("mlp_bias", BOOL, false, mlp_bias),
    MUST_BE("rope_interleaved", FALSE),
};

static const struct arch_field llama_keys[] = {
    GGUF_KEYS,
    GGUF_ROPE_KEYS,
    FIELD("attention.layer_norm_rms_epsilon", NUM, true, norm_eps),
    FIELD("rope.dimension_count", SAME, false, d_head),
    MUST_BE("use_parallel_residual", FALSE),
};

// Written by old exports: a table that can be computed.
static const char *const llama_ignored[] = {".rotary_emb.inv_freq", NULL};

static void settle_llama(struct arch *a) {
    if (!a->given.gguf) a->o_bias = a->qkv_bias; // attention_bias is of all four
}

const struct arch_family arch_llama = {.name = "llama",
                                       .model_types = {"llama", "Yi"},
                                       .gguf_arch = "llama",
                                       .gguf_rope_interleaved = true,
                                       .norm = NORM_RMS,
                                       .defaults = {.norm_mlp = true},
                                       TENSORS(llama_tensors),
                                       FIELDS(llama_fields),
                                       KEYS(llama_keys),
                                       .ignored_tensors = llama_ignored,
                                       .settle = settle_llama};

const struct arch_family arch_mistral = {.name = "mistral",
                                         .model_types = {"mistral"},
                                         .norm = NORM_RMS,
                                         .window = WINDOW_DENSE,
                                         .defaults = {.norm_mlp = true},
                                         TENSORS(llama_tensors),
                                         FIELDS(llama_fields),
                                         .ignored_tensors = llama_ignored,
                                         .settle = settle_llama};

/* ---- Qwen 2 and 3: biases of q, k and v; normalised heads ---- */

// sliding_window and max_window_layers are in force with use_sliding_window only.
#define QWEN_FIELDS                                                                                \
    LLAMA_FIELDS, FIELD("rms_norm_eps", NUM, true, norm_eps),                                      \
        FIELD("layer_types", LOCAL, false, local_layers), MUST_BE("use_sliding_window", FALSE),    \
        IGNORED("sliding_window"), IGNORED("max_window_layers")

static const struct arch_field qwen2_fields[] = {QWEN_FIELDS, MUST_BE("use_mrope", FALSE)};
static const struct arch_field qwen3_fields[] = {QWEN_FIELDS,
                                                 FIELD("attention_bias", BOOL, false, qkv_bias)};

static const struct arch_field qwen_keys[] = {
    GGUF_KEYS,
    GGUF_ROPE_KEYS,
    FIELD("attention.layer_norm_rms_epsilon", NUM, true, norm_eps),
    FIELD("rope.dimension_count", SAME, false, d_head),
};

const struct arch_family arch_qwen2 = {.name = "qwen2",
                                       .model_types = {"qwen2"},
                                       .gguf_arch = "qwen2",
                                       .norm = NORM_RMS,
                                       .defaults = {.qkv_bias = true, .norm_mlp = true},
                                       TENSORS(llama_tensors),
                                       FIELDS(qwen2_fields),
                                       KEYS(qwen_keys),
                                       .ignored_tensors = llama_ignored};

const struct arch_family arch_qwen3 = {.name = "qwen3",
                                       .model_types = {"qwen3"},
                                       .gguf_arch = "qwen3",
                                       .norm = NORM_RMS,
                                       .defaults = {.qk_norm = true, .norm_mlp = true},
                                       TENSORS(llama_tensors),
                                       FIELDS(qwen3_fields),
                                       KEYS(qwen_keys),
                                       .ignored_tensors = llama_ignored,
                                       .settle = settle_llama};

/* ---- Granite: Llama with four scales ---- */

static const struct arch_field granite_fields[] = {
    LLAMA_FIELDS,
    FIELD("rms_norm_eps", NUM, true, norm_eps),
    FIELD("attention_bias", BOOL, false, qkv_bias),
    FIELD("mlp_bias", BOOL, false, mlp_bias),
    FIELD("embedding_multiplier", NUM, true, embed_scale),
    FIELD("attention_multiplier", NUM, true, attn_scale),
    FIELD("residual_multiplier", NUM, true, branch_scale),
    FIELD("logits_scaling", NUM, true, given.logits_by),
};

static void settle_granite(struct arch *a) {
    settle_llama(a);
    a->logit_scale = 1 / a->given.logits_by;
}

const struct arch_family arch_granite = {.name = "granite",
                                         .model_types = {"granite"},
                                         .norm = NORM_RMS,
                                         .defaults = {.norm_mlp = true},
                                         TENSORS(llama_tensors),
                                         FIELDS(granite_fields),
                                         .ignored_tensors = llama_ignored,
                                         .settle = settle_granite};

/* ---- StableLM: LayerNorm, a quarter of each head turns ---- */

static const struct arch_field stablelm_fields[] = {
    LLAMA_FIELDS,
    FIELD("layer_norm_eps", NUM, false, norm_eps),
    FIELD("norm_eps", NUM, false, norm_eps), // the older names of this and the next
    FIELD("rope_pct", NUM, false, rotary_share),
    FIELD("partial_rotary_factor", NUM, false, rotary_share),
    FIELD("use_qkv_bias", BOOL, false, qkv_bias),
    FIELD("use_parallel_residual", BOOL, false, parallel),
    MUST_BE_FOR("qk_layernorm", FALSE, "each head has a norm of its own"),
    MUST_BE("attention_bias", FALSE),
    IGNORED("rms_norm_eps"),
};

static const struct arch_field stablelm_keys[] = {
    GGUF_KEYS,
    GGUF_ROPE_KEYS,
    FIELD("attention.layer_norm_epsilon", NUM, true, norm_eps),
    FIELD("rope.dimension_count", INT, true, n_rot),
    IGNORED("use_parallel_residual"), // says true of models that are serial: the tensors decide
};

static void settle_stablelm(struct arch *a) {
    if (a->given.gguf) a->parallel = !a->given.gguf_norm_mlp;
    a->norm_mlp = !a->parallel;
}

const struct arch_family arch_stablelm = {
    .name = "stablelm",
    .model_types = {"stablelm", "stablelm_epoch"},
    .gguf_arch = "stablelm",
    .norm = NORM_LAYER,
    .defaults = {.norm_eps = 1e-5, .rotary_share = 0.25, .norm_bias = true},
    TENSORS(llama_tensors),
    FIELDS(stablelm_fields),
    KEYS(stablelm_keys),
    .ignored_tensors = llama_ignored,
    .settle = settle_stablelm};
