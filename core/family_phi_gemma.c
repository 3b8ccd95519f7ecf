/* Phi-3 and Gemma 3: Llama's shape with other tensors. */
#include "core/families_impl.h"

#include <math.h>

/* ---- Phi-3: q, k and v in one tensor, gate and up in another ---- */

static const struct arch_tensor phi3_tensors[] = {
    TENSOR(EMBED, ALWAYS, "model.embed_tokens.weight", "token_embd.weight"),
    TENSOR(NORM_OUT, ALWAYS, "model.norm.weight", "output_norm.weight"),
    TENSOR(HEAD, UNTIED, "lm_head.weight", "output.weight"),
    TENSOR(NORM_ATTN, ALWAYS, "model.layers.%d.input_layernorm.weight", "blk.%d.attn_norm.weight"),
    TENSOR_PART(Q, ALWAYS, QKV, "model.layers.%d.self_attn.qkv_proj.weight",
                "blk.%d.attn_qkv.weight"),
    TENSOR_PART(K, ALWAYS, QKV, "model.layers.%d.self_attn.qkv_proj.weight",
                "blk.%d.attn_qkv.weight"),
    TENSOR_PART(V, ALWAYS, QKV, "model.layers.%d.self_attn.qkv_proj.weight",
                "blk.%d.attn_qkv.weight"),
    TENSOR(O, ALWAYS, "model.layers.%d.self_attn.o_proj.weight", "blk.%d.attn_output.weight"),
    TENSOR(NORM_MLP, ALWAYS, "model.layers.%d.post_attention_layernorm.weight",
           "blk.%d.ffn_norm.weight"),
    TENSOR_PART(GATE, ALWAYS, GATE_UP, "model.layers.%d.mlp.gate_up_proj.weight",
                "blk.%d.ffn_up.weight"),
    TENSOR_PART(UP, ALWAYS, GATE_UP, "model.layers.%d.mlp.gate_up_proj.weight",
                "blk.%d.ffn_up.weight"),
    TENSOR(DOWN, ALWAYS, "model.layers.%d.mlp.down_proj.weight", "blk.%d.ffn_down.weight"),
};

static const struct arch_field phi3_fields[] = {
    LLAMA_FIELDS,
    FIELD("rms_norm_eps", NUM, true, norm_eps),
    FIELD("sliding_window", INT, false, window),
    FIELD("partial_rotary_factor", NUM, false, rotary_share),
    MUST_BE("attention_bias", FALSE),
    FIELD("original_max_position_embeddings", INT, false, rope.n_ctx_original),
    MUST_BE("lm_head_bias", FALSE),
    MUST_BE("mlp_bias", FALSE),
    IGNORED("full_attn_mod"), // the reference reads neither
    IGNORED("interpolate_factor"),
};

static const struct arch_field phi3_keys[] = {
    GGUF_KEYS,
    GGUF_ROPE_KEYS,
    FIELD("attention.layer_norm_rms_epsilon", NUM, true, norm_eps),
    FIELD("attention.sliding_window", COUNT, false, window),
    FIELD("rope.dimension_count", INT, false, n_rot),
};

const struct arch_family arch_phi3 = {.name = "phi3",
                                      .model_types = {"phi3"},
                                      .gguf_arch = "phi3",
                                      .norm = NORM_RMS,
                                      .window = WINDOW_DENSE,
                                      .defaults = {.norm_mlp = true},
                                      TENSORS(phi3_tensors),
                                      FIELDS(phi3_fields),
                                      KEYS(phi3_keys)};

/* ---- Gemma 3: local layers, normalised heads, norms before and after each branch ---- */

static const struct arch_tensor gemma3_tensors[] = {
    TENSOR(EMBED, ALWAYS, "model.embed_tokens.weight", "token_embd.weight"),
    TENSOR(NORM_OUT, ALWAYS, "model.norm.weight", "output_norm.weight"),
    TENSOR(HEAD, UNTIED, "lm_head.weight", "output.weight"),
    TENSOR(NORM_ATTN, ALWAYS, "model.layers.%d.input_layernorm.weight", "blk.%d.attn_norm.weight"),
    TENSOR(Q, ALWAYS, "model.layers.%d.self_attn.q_proj.weight", "blk.%d.attn_q.weight"),
    TENSOR(K, ALWAYS, "model.layers.%d.self_attn.k_proj.weight", "blk.%d.attn_k.weight"),
    TENSOR(V, ALWAYS, "model.layers.%d.self_attn.v_proj.weight", "blk.%d.attn_v.weight"),
    TENSOR(NORM_Q, ALWAYS, "model.layers.%d.self_attn.q_norm.weight", "blk.%d.attn_q_norm.weight"),
    TENSOR(NORM_K, ALWAYS, "model.layers.%d.self_attn.k_norm.weight", "blk.%d.attn_k_norm.weight"),
    TENSOR(O, ALWAYS, "model.layers.%d.self_attn.o_proj.weight", "blk.%d.attn_output.weight"),
    TENSOR(NORM_ATTN_POST, ALWAYS, "model.layers.%d.post_attention_layernorm.weight",
           "blk.%d.post_attention_norm.weight"),
    TENSOR(NORM_MLP, ALWAYS, "model.layers.%d.pre_feedforward_layernorm.weight",
           "blk.%d.ffn_norm.weight"),
    TENSOR(GATE, ALWAYS, "model.layers.%d.mlp.gate_proj.weight", "blk.%d.ffn_gate.weight"),
    TENSOR(UP, ALWAYS, "model.layers.%d.mlp.up_proj.weight", "blk.%d.ffn_up.weight"),
    TENSOR(DOWN, ALWAYS, "model.layers.%d.mlp.down_proj.weight", "blk.%d.ffn_down.weight"),
    TENSOR(NORM_MLP_POST, ALWAYS, "model.layers.%d.post_feedforward_layernorm.weight",
           "blk.%d.post_ffw_norm.weight"),
};

static const struct arch_field gemma3_fields[] = {
    FIELD("hidden_size", INT, true, d_model),
    FIELD("intermediate_size", INT, true, d_ff),
    FIELD("num_hidden_layers", INT, true, n_layer),
    FIELD("num_attention_heads", INT, true, n_head),
    FIELD("num_key_value_heads", INT, true, n_kv),
    FIELD("head_dim", INT, true, d_head),
    FIELD("query_pre_attn_scalar", NUM, true, given.query_scalar),
    FIELD("vocab_size", INT, true, n_vocab),
    FIELD("max_position_embeddings", INT, true, n_ctx_train),
    FIELD("sliding_window", INT, true, window),
    FIELD("sliding_window_pattern", INT, false, given.global_every),
    FIELD("_sliding_window_pattern", INT, false, given.global_every),
    FIELD("layer_types", LOCAL, false, local_layers),
    FIELD("rms_norm_eps", NUM, true, norm_eps),
    FIELD("rope_theta", NUM, true, rope.theta),
    FIELD("rope_local_base_freq", NUM, true, rope_local.theta),
    FIELD("rope_scaling", ROPE, false, rope), // of global layers
    FIELD("hidden_activation", ACT, true, act),
    FIELD("attn_logit_softcapping", NUM, false, attn_softcap),
    FIELD("final_logit_softcapping", NUM, false, logit_softcap),
    FIELD("tie_word_embeddings", BOOL, false, tied),
    MUST_BE("attention_bias", FALSE),
    MUST_BE("use_bidirectional_attention", FALSE),
};

// The metadata name no scale of scores: it follows from d_head but in the 27B, known by its layers.
static const struct arch_field gemma3_keys[] = {
    GGUF_KEYS,
    GGUF_ROPE_KEYS,
    FIELD("attention.layer_norm_rms_epsilon", NUM, true, norm_eps),
    FIELD("attention.sliding_window", COUNT, false, window),
    FIELD("attention.sliding_window_pattern", LOCAL, false, local_layers),
    FIELD("final_logit_softcapping", NUM, false, logit_softcap),
    FIELD("rope.dimension_count", SAME, false, d_head),
    FIELD("rope.freq_base_swa", NUM, false, rope_local.theta),
};

static void settle_gemma3(struct arch *a) {
    const int64_t every = a->given.global_every > 0 ? a->given.global_every : 6;
    const int64_t n = a->n_layer < ARCH_MAX_LAYERS ? a->n_layer : ARCH_MAX_LAYERS;
    for (int64_t l = 0; l < n && a->window > 0 && a->given.n_layer_types == 0; l++) {
        if ((l + 1) % every != 0) a->local_layers[l / 64] |= UINT64_C(1) << l % 64;
    }
    a->embed_scale = sqrt((double)a->d_model);
    if (a->given.gguf && a->n_layer == 62) {
        a->given.query_scalar = (double)a->d_model / (double)a->n_head;
    }
    if (a->given.query_scalar > 0) a->attn_scale = 1 / sqrt(a->given.query_scalar);
}

const struct arch_family arch_gemma3 = {.name = "gemma3",
                                        .model_types = {"gemma3_text"},
                                        .gguf_arch = "gemma3",
                                        .norm = NORM_RMS,
                                        .window = WINDOW_LOCAL,
                                        .defaults = {.act = ACT_GELU_TANH,
                                                     .norm_offset = 1, // GGUF: in the weights
                                                     .tied = true},
                                        TENSORS(gemma3_tensors),
                                        FIELDS(gemma3_fields),
                                        KEYS(gemma3_keys),
                                        .settle = settle_gemma3};
