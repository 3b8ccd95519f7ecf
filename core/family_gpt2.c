/* GPT-2, BTLM, Qwen 1 and OPT: GPT-2's names, or its learned positions. */
#include "core/families_impl.h"

static const char *const gpt2_ignored[] = {".attn.bias", ".attn.masked_bias",
                                           ".rotary_emb.inv_freq", NULL};

static void settle_gpt2(struct arch *a) {
    if (a->d_ff == 0) a->d_ff = 4 * a->d_model;
}

/* ---- GPT-2: matrices stored as [n_in, n_out], learned positions ---- */

static const struct arch_tensor gpt2_tensors[] = {
    TENSOR_ALSO(EMBED, ALWAYS, "transformer.wte.weight", "wte.weight", "token_embd.weight"),
    TENSOR_ALSO(POSITIONS, ALWAYS, "transformer.wpe.weight", "wpe.weight", "position_embd.weight"),
    TENSOR_ALSO(NORM_OUT, ALWAYS, "transformer.ln_f.weight", "ln_f.weight", "output_norm.weight"),
    TENSOR_ALSO(NORM_OUT_BIAS, ALWAYS, "transformer.ln_f.bias", "ln_f.bias", "output_norm.bias"),
    TENSOR(HEAD, UNTIED, "lm_head.weight", "output.weight"),
    TENSOR_ALSO(NORM_ATTN, ALWAYS, "transformer.h.%d.ln_1.weight", "h.%d.ln_1.weight",
                "blk.%d.attn_norm.weight"),
    TENSOR_ALSO(NORM_ATTN_BIAS, ALWAYS, "transformer.h.%d.ln_1.bias", "h.%d.ln_1.bias",
                "blk.%d.attn_norm.bias"),
    CONV1D(Q, QKV, "transformer.h.%d.attn.c_attn.weight", "h.%d.attn.c_attn.weight",
           "blk.%d.attn_qkv.weight"),
    CONV1D(K, QKV, "transformer.h.%d.attn.c_attn.weight", "h.%d.attn.c_attn.weight",
           "blk.%d.attn_qkv.weight"),
    CONV1D(V, QKV, "transformer.h.%d.attn.c_attn.weight", "h.%d.attn.c_attn.weight",
           "blk.%d.attn_qkv.weight"),
    QKV_ALSO(Q_BIAS, "transformer.h.%d.attn.c_attn.bias", "h.%d.attn.c_attn.bias",
             "blk.%d.attn_qkv.bias"),
    QKV_ALSO(K_BIAS, "transformer.h.%d.attn.c_attn.bias", "h.%d.attn.c_attn.bias",
             "blk.%d.attn_qkv.bias"),
    QKV_ALSO(V_BIAS, "transformer.h.%d.attn.c_attn.bias", "h.%d.attn.c_attn.bias",
             "blk.%d.attn_qkv.bias"),
    CONV1D(O, WHOLE, "transformer.h.%d.attn.c_proj.weight", "h.%d.attn.c_proj.weight",
           "blk.%d.attn_output.weight"),
    TENSOR_ALSO(O_BIAS, ALWAYS, "transformer.h.%d.attn.c_proj.bias", "h.%d.attn.c_proj.bias",
                "blk.%d.attn_output.bias"),
    TENSOR_ALSO(NORM_MLP, ALWAYS, "transformer.h.%d.ln_2.weight", "h.%d.ln_2.weight",
                "blk.%d.ffn_norm.weight"),
    TENSOR_ALSO(NORM_MLP_BIAS, ALWAYS, "transformer.h.%d.ln_2.bias", "h.%d.ln_2.bias",
                "blk.%d.ffn_norm.bias"),
    CONV1D(UP, WHOLE, "transformer.h.%d.mlp.c_fc.weight", "h.%d.mlp.c_fc.weight",
           "blk.%d.ffn_up.weight"),
    TENSOR_ALSO(UP_BIAS, ALWAYS, "transformer.h.%d.mlp.c_fc.bias", "h.%d.mlp.c_fc.bias",
                "blk.%d.ffn_up.bias"),
    CONV1D(DOWN, WHOLE, "transformer.h.%d.mlp.c_proj.weight", "h.%d.mlp.c_proj.weight",
           "blk.%d.ffn_down.weight"),
    TENSOR_ALSO(DOWN_BIAS, ALWAYS, "transformer.h.%d.mlp.c_proj.bias", "h.%d.mlp.c_proj.bias",
                "blk.%d.ffn_down.bias"),
};

static const struct arch_field gpt2_fields[] = {
    FIELD("n_embd", INT, true, d_model),
    FIELD("n_inner", INT, false, d_ff),
    FIELD("n_layer", INT, true, n_layer),
    FIELD("n_head", INT, true, n_head),
    FIELD("vocab_size", INT, true, n_vocab),
    FIELD("n_positions", INT, true, n_ctx_train),
    FIELD("layer_norm_epsilon", NUM, true, norm_eps),
    FIELD("activation_function", ACT, true, act),
    FIELD("tie_word_embeddings", BOOL, false, tied),
    MUST_BE("scale_attn_weights", TRUE),
    MUST_BE("scale_attn_by_inverse_layer_idx", FALSE),
    MUST_BE("add_cross_attention", FALSE),
    IGNORED("n_ctx"),
    IGNORED("reorder_and_upcast_attn"), // of rounding in 16 bits
};

static const struct arch_field gpt2_keys[] = {
    GGUF_KEYS,
    FIELD("attention.layer_norm_epsilon", NUM, true, norm_eps),
};

const struct arch_family arch_gpt2 = {
    .name = "gpt2",
    .model_types = {"gpt2"},
    .gguf_arch = "gpt2",
    .norm = NORM_LAYER,
    .defaults = {.act = ACT_GELU_TANH, .positions = POS_LEARNED, .tied = true},
    TENSORS(gpt2_tensors),
    FIELDS(gpt2_fields),
    KEYS(gpt2_keys),
    .ignored_tensors = gpt2_ignored,
    .settle = settle_gpt2};

/* ---- BTLM: GPT-2's tensors with a gate, ALiBi, and scales of its own (muP) ---- */

static const struct arch_tensor btlm_tensors[] = {
    TENSOR(EMBED, ALWAYS, "transformer.wte.weight", NULL),
    TENSOR(NORM_OUT, ALWAYS, "transformer.ln_f.weight", NULL),
    TENSOR(NORM_OUT_BIAS, ALWAYS, "transformer.ln_f.bias", NULL),
    TENSOR(HEAD, UNTIED, "lm_head.weight", NULL),
    TENSOR(NORM_ATTN, ALWAYS, "transformer.h.%d.ln_1.weight", NULL),
    TENSOR(NORM_ATTN_BIAS, ALWAYS, "transformer.h.%d.ln_1.bias", NULL),
    CONV1D(Q, QKV, "transformer.h.%d.attn.c_attn.weight", NULL, NULL),
    CONV1D(K, QKV, "transformer.h.%d.attn.c_attn.weight", NULL, NULL),
    CONV1D(V, QKV, "transformer.h.%d.attn.c_attn.weight", NULL, NULL),
    TENSOR_PART(Q_BIAS, ALWAYS, QKV, "transformer.h.%d.attn.c_attn.bias", NULL),
    TENSOR_PART(K_BIAS, ALWAYS, QKV, "transformer.h.%d.attn.c_attn.bias", NULL),
    TENSOR_PART(V_BIAS, ALWAYS, QKV, "transformer.h.%d.attn.c_attn.bias", NULL),
    CONV1D(O, WHOLE, "transformer.h.%d.attn.c_proj.weight", NULL, NULL),
    TENSOR(O_BIAS, ALWAYS, "transformer.h.%d.attn.c_proj.bias", NULL),
    TENSOR(NORM_MLP, ALWAYS, "transformer.h.%d.ln_2.weight", NULL),
    TENSOR(NORM_MLP_BIAS, ALWAYS, "transformer.h.%d.ln_2.bias", NULL),
    CONV1D(UP, WHOLE, "transformer.h.%d.mlp.c_fc.weight", NULL, NULL),
    TENSOR(UP_BIAS, ALWAYS, "transformer.h.%d.mlp.c_fc.bias", NULL),
    CONV1D(GATE, WHOLE, "transformer.h.%d.mlp.c_fc2.weight", NULL, NULL),
    TENSOR(GATE_BIAS, ALWAYS, "transformer.h.%d.mlp.c_fc2.bias", NULL),
    CONV1D(DOWN, WHOLE, "transformer.h.%d.mlp.c_proj.weight", NULL, NULL),
    TENSOR(DOWN_BIAS, ALWAYS, "transformer.h.%d.mlp.c_proj.bias", NULL),
};

static const struct arch_field btlm_fields[] = {
    FIELD("n_embd", INT, true, d_model),
    FIELD("hidden_size", INT, false, d_model), // the names of exports by other code
    FIELD("n_inner", INT, false, d_ff),
    FIELD("n_layer", INT, true, n_layer),
    FIELD("num_hidden_layers", INT, false, n_layer),
    FIELD("n_head", INT, true, n_head),
    FIELD("num_attention_heads", INT, false, n_head),
    FIELD("vocab_size", INT, true, n_vocab),
    FIELD("n_positions", INT, true, n_ctx_train),
    FIELD("layer_norm_epsilon", NUM, true, norm_eps),
    FIELD("mup_embeddings_scale", NUM, true, embed_scale),
    FIELD("mup_width_scale", NUM, true, given.width_scale),
    FIELD("mup_output_alpha", NUM, true, given.output_alpha),
    FIELD("mup_scale_qk_dot_by_d", BOOL, true, given.qk_by_d),
    FIELD("tie_word_embeddings", BOOL, false, tied),
    MUST_SAY("activation_function", true, "swiglu"),
    MUST_SAY("position_embedding_type", true, "alibi"),
    MUST_BE("scale_attn_weights", TRUE),
    MUST_BE("scale_attn_by_inverse_layer_idx", FALSE),
    MUST_BE("alibi_scaling", FALSE),
    IGNORED("reorder_and_upcast_attn"), // of rounding in 16 bits
};

// The published model stores the slopes of its biases, which can be computed.
static const char *const btlm_ignored[] = {".attn.bias", ".attn.masked_bias", ".relative_pe.slopes",
                                           NULL};

static void settle_btlm(struct arch *a) {
    settle_gpt2(a);
    a->logit_scale = a->given.output_alpha * a->given.width_scale;
    if (a->given.qk_by_d) a->attn_scale = 1 / (double)a->d_head;
}

const struct arch_family arch_btlm = {.name = "btlm",
                                      .model_types = {"btlm"},
                                      .norm = NORM_LAYER,
                                      .defaults = {.positions = POS_ALIBI, .tied = true},
                                      TENSORS(btlm_tensors),
                                      FIELDS(btlm_fields),
                                      .ignored_tensors = btlm_ignored,
                                      .settle = settle_btlm};

/* ---- Qwen 1: RMSNorm, biases of q, k and v, a gate ---- */

static const struct arch_tensor qwen_tensors[] = {
    TENSOR(EMBED, ALWAYS, "transformer.wte.weight", "token_embd.weight"),
    TENSOR(NORM_OUT, ALWAYS, "transformer.ln_f.weight", "output_norm.weight"),
    TENSOR(HEAD, UNTIED, "lm_head.weight", "output.weight"),
    TENSOR(NORM_ATTN, ALWAYS, "transformer.h.%d.ln_1.weight", "blk.%d.attn_norm.weight"),
    TENSOR_PART(Q, ALWAYS, QKV, "transformer.h.%d.attn.c_attn.weight", "blk.%d.attn_qkv.weight"),
    TENSOR_PART(K, ALWAYS, QKV, "transformer.h.%d.attn.c_attn.weight", "blk.%d.attn_qkv.weight"),
    TENSOR_PART(V, ALWAYS, QKV, "transformer.h.%d.attn.c_attn.weight", "blk.%d.attn_qkv.weight"),
    TENSOR_PART(Q_BIAS, ALWAYS, QKV, "transformer.h.%d.attn.c_attn.bias", "blk.%d.attn_qkv.bias"),
    TENSOR_PART(K_BIAS, ALWAYS, QKV, "transformer.h.%d.attn.c_attn.bias", "blk.%d.attn_qkv.bias"),
    TENSOR_PART(V_BIAS, ALWAYS, QKV, "transformer.h.%d.attn.c_attn.bias", "blk.%d.attn_qkv.bias"),
    TENSOR(O, ALWAYS, "transformer.h.%d.attn.c_proj.weight", "blk.%d.attn_output.weight"),
    TENSOR(NORM_MLP, ALWAYS, "transformer.h.%d.ln_2.weight", "blk.%d.ffn_norm.weight"),
    TENSOR(UP, ALWAYS, "transformer.h.%d.mlp.w1.weight", "blk.%d.ffn_up.weight"),
    TENSOR(GATE, ALWAYS, "transformer.h.%d.mlp.w2.weight", "blk.%d.ffn_gate.weight"),
    TENSOR(DOWN, ALWAYS, "transformer.h.%d.mlp.c_proj.weight", "blk.%d.ffn_down.weight"),
};

static const struct arch_field qwen_fields[] = {
    FIELD("hidden_size", INT, true, d_model),
    FIELD("intermediate_size", INT, true, d_ff), // of both branches together
    FIELD("num_hidden_layers", INT, true, n_layer),
    FIELD("num_attention_heads", INT, true, n_head),
    FIELD("kv_channels", INT, true, d_head),
    FIELD("vocab_size", INT, true, n_vocab),
    FIELD("seq_length", INT, true, n_ctx_train),
    FIELD("layer_norm_epsilon", NUM, true, norm_eps),
    FIELD("rotary_pct", NUM, false, rotary_share),
    FIELD("rotary_emb_base", NUM, false, rope.theta),
    FIELD("use_logn_attn", BOOL, true, given.logn),
    FIELD("use_dynamic_ntk", BOOL, true, given.dynamic_ntk),
    FIELD("tie_word_embeddings", BOOL, false, tied),
    MUST_BE("no_bias", TRUE),
    MUST_BE("scale_attn_weights", TRUE),
    MUST_BE("use_cache_quantization", FALSE),
    IGNORED("attn_dropout_prob"),
    IGNORED("bf16"),
    IGNORED("emb_dropout_prob"),
    IGNORED("fp16"),
    IGNORED("fp32"),
    IGNORED("max_position_embeddings"), // of a table that is computed
    IGNORED("onnx_safe"),
    IGNORED("softmax_in_fp32"),
    IGNORED("use_cache_kernel"),
    IGNORED("use_flash_attn"),
};

static const struct arch_field qwen_keys[] = {
    GGUF_KEYS,
    GGUF_ROPE_KEYS,
    FIELD("attention.layer_norm_rms_epsilon", NUM, true, norm_eps),
    FIELD("rope.dimension_count", SAME, false, d_head),
};

// The seq_length of the published model that has the least.
enum { QWEN_SEQ_LENGTH = 2048 };

static void settle_qwen(struct arch *a) {
    a->d_ff /= 2;
    if (a->given.logn) a->n_logn = a->n_ctx_train;
    // Changes nothing while no query sees more than seq_length keys. The metadata have neither.
    if (a->given.dynamic_ntk) a->n_seen_most = a->n_ctx_train;
    if (!a->given.gguf) return;
    a->n_seen_most = a->n_ctx_train < QWEN_SEQ_LENGTH ? a->n_ctx_train : QWEN_SEQ_LENGTH;
}

const struct arch_family arch_qwen = {.name = "qwen",
                                      .model_types = {"qwen"},
                                      .gguf_arch = "qwen",
                                      .norm = NORM_RMS,
                                      TENSORS(qwen_tensors),
                                      FIELDS(qwen_fields),
                                      KEYS(qwen_keys),
                                      .ignored_tensors = gpt2_ignored,
                                      .settle = settle_qwen};

/* ---- OPT: learned positions that begin at row 2 ---- */

static const struct arch_tensor opt_tensors[] = {
    TENSOR(EMBED, ALWAYS, "model.decoder.embed_tokens.weight", NULL),
    TENSOR(POSITIONS, ALWAYS, "model.decoder.embed_positions.weight", NULL),
    TENSOR(NORM_OUT, ALWAYS, "model.decoder.final_layer_norm.weight", NULL),
    TENSOR(NORM_OUT_BIAS, ALWAYS, "model.decoder.final_layer_norm.bias", NULL),
    TENSOR(HEAD, UNTIED, "lm_head.weight", NULL),
    TENSOR(NORM_ATTN, ALWAYS, "model.decoder.layers.%d.self_attn_layer_norm.weight", NULL),
    TENSOR(NORM_ATTN_BIAS, ALWAYS, "model.decoder.layers.%d.self_attn_layer_norm.bias", NULL),
    TENSOR(Q, ALWAYS, "model.decoder.layers.%d.self_attn.q_proj.weight", NULL),
    TENSOR(Q_BIAS, ALWAYS, "model.decoder.layers.%d.self_attn.q_proj.bias", NULL),
    TENSOR(K, ALWAYS, "model.decoder.layers.%d.self_attn.k_proj.weight", NULL),
    TENSOR(K_BIAS, ALWAYS, "model.decoder.layers.%d.self_attn.k_proj.bias", NULL),
    TENSOR(V, ALWAYS, "model.decoder.layers.%d.self_attn.v_proj.weight", NULL),
    TENSOR(V_BIAS, ALWAYS, "model.decoder.layers.%d.self_attn.v_proj.bias", NULL),
    TENSOR(O, ALWAYS, "model.decoder.layers.%d.self_attn.out_proj.weight", NULL),
    TENSOR(O_BIAS, ALWAYS, "model.decoder.layers.%d.self_attn.out_proj.bias", NULL),
    TENSOR(NORM_MLP, ALWAYS, "model.decoder.layers.%d.final_layer_norm.weight", NULL),
    TENSOR(NORM_MLP_BIAS, ALWAYS, "model.decoder.layers.%d.final_layer_norm.bias", NULL),
    TENSOR(UP, ALWAYS, "model.decoder.layers.%d.fc1.weight", NULL),
    TENSOR(UP_BIAS, ALWAYS, "model.decoder.layers.%d.fc1.bias", NULL),
    TENSOR(DOWN, ALWAYS, "model.decoder.layers.%d.fc2.weight", NULL),
    TENSOR(DOWN_BIAS, ALWAYS, "model.decoder.layers.%d.fc2.bias", NULL),
};

static const struct arch_field opt_fields[] = {
    FIELD("hidden_size", INT, true, d_model),
    FIELD("word_embed_proj_dim", INT, false, given.embed_dim),
    FIELD("ffn_dim", INT, true, d_ff),
    FIELD("num_hidden_layers", INT, true, n_layer),
    FIELD("num_attention_heads", INT, true, n_head),
    FIELD("vocab_size", INT, true, n_vocab),
    FIELD("max_position_embeddings", INT, true, n_ctx_train),
    FIELD("activation_function", ACT, true, act),
    FIELD("tie_word_embeddings", BOOL, false, tied),
    MUST_BE("do_layer_norm_before", TRUE),
    MUST_BE("enable_bias", TRUE),
    MUST_BE("layer_norm_elementwise_affine", TRUE),
    MUST_BE("_remove_final_layer_norm", FALSE),
};

const struct arch_family arch_opt = {
    .name = "opt",
    .model_types = {"opt"},
    .norm = NORM_LAYER,
    .defaults = {.norm_eps = 1e-5, .pos_offset = 2, .positions = POS_LEARNED, .tied = true},
    TENSORS(opt_tensors),
    FIELDS(opt_fields)};
