/* GPT-NeoX, GPT-J, Falcon and MPT: LayerNorm, and no gate in the MLP. */
#include "core/families_impl.h"

#include <math.h>

// Masks and tables that old exports carry.
static const char *const gpt_ignored[] = {".attention.bias",      ".attention.masked_bias",
                                          ".rotary_emb.inv_freq", ".attn.bias",
                                          ".attn.masked_bias",    NULL};

/* ---- GPT-NeoX, Pythia: q, k and v of each head side by side; attention and MLP in parallel ---- */

static const struct arch_tensor neox_tensors[] = {
    TENSOR(EMBED, ALWAYS, "gpt_neox.embed_in.weight", "token_embd.weight"),
    TENSOR(NORM_OUT, ALWAYS, "gpt_neox.final_layer_norm.weight", "output_norm.weight"),
    TENSOR(NORM_OUT_BIAS, ALWAYS, "gpt_neox.final_layer_norm.bias", "output_norm.bias"),
    TENSOR(HEAD, UNTIED, "embed_out.weight", "output.weight"),
    TENSOR(NORM_ATTN, ALWAYS, "gpt_neox.layers.%d.input_layernorm.weight",
           "blk.%d.attn_norm.weight"),
    TENSOR(NORM_ATTN_BIAS, ALWAYS, "gpt_neox.layers.%d.input_layernorm.bias",
           "blk.%d.attn_norm.bias"),
    TENSOR_PART(Q, ALWAYS, QKV_GROUPS, "gpt_neox.layers.%d.attention.query_key_value.weight",
                "blk.%d.attn_qkv.weight"),
    TENSOR_PART(K, ALWAYS, QKV_GROUPS, "gpt_neox.layers.%d.attention.query_key_value.weight",
                "blk.%d.attn_qkv.weight"),
    TENSOR_PART(V, ALWAYS, QKV_GROUPS, "gpt_neox.layers.%d.attention.query_key_value.weight",
                "blk.%d.attn_qkv.weight"),
    TENSOR_PART(Q_BIAS, QKV_BIAS, QKV_GROUPS, "gpt_neox.layers.%d.attention.query_key_value.bias",
                "blk.%d.attn_qkv.bias"),
    TENSOR_PART(K_BIAS, QKV_BIAS, QKV_GROUPS, "gpt_neox.layers.%d.attention.query_key_value.bias",
                "blk.%d.attn_qkv.bias"),
    TENSOR_PART(V_BIAS, QKV_BIAS, QKV_GROUPS, "gpt_neox.layers.%d.attention.query_key_value.bias",
                "blk.%d.attn_qkv.bias"),
    TENSOR(O, ALWAYS, "gpt_neox.layers.%d.attention.dense.weight", "blk.%d.attn_output.weight"),
    TENSOR(O_BIAS, O_BIAS, "gpt_neox.layers.%d.attention.dense.bias", "blk.%d.attn_output.bias"),
    TENSOR(NORM_MLP, ALWAYS, "gpt_neox.layers.%d.post_attention_layernorm.weight",
           "blk.%d.ffn_norm.weight"),
    TENSOR(NORM_MLP_BIAS, ALWAYS, "gpt_neox.layers.%d.post_attention_layernorm.bias",
           "blk.%d.ffn_norm.bias"),
    TENSOR(UP, ALWAYS, "gpt_neox.layers.%d.mlp.dense_h_to_4h.weight", "blk.%d.ffn_up.weight"),
    TENSOR(UP_BIAS, ALWAYS, "gpt_neox.layers.%d.mlp.dense_h_to_4h.bias", "blk.%d.ffn_up.bias"),
    TENSOR(DOWN, ALWAYS, "gpt_neox.layers.%d.mlp.dense_4h_to_h.weight", "blk.%d.ffn_down.weight"),
    TENSOR(DOWN_BIAS, ALWAYS, "gpt_neox.layers.%d.mlp.dense_4h_to_h.bias", "blk.%d.ffn_down.bias"),
};

static const struct arch_field neox_fields[] = {
    FIELD("hidden_size", INT, true, d_model),
    FIELD("intermediate_size", INT, true, d_ff),
    FIELD("num_hidden_layers", INT, true, n_layer),
    FIELD("num_attention_heads", INT, true, n_head),
    FIELD("vocab_size", INT, true, n_vocab),
    FIELD("max_position_embeddings", INT, true, n_ctx_train),
    FIELD("layer_norm_eps", NUM, true, norm_eps),
    FIELD("rotary_pct", NUM, false, rotary_share),
    FIELD("partial_rotary_factor", NUM, false, rotary_share),
    FIELD("rotary_emb_base", NUM, false, rope.theta),
    FIELD("rope_theta", NUM, false, rope.theta),
    FIELD("rope_scaling", ROPE, false, rope),
    FIELD("hidden_act", ACT, true, act),
    FIELD("use_parallel_residual", BOOL, false, parallel),
    FIELD("attention_bias", BOOL, false, qkv_bias),
    FIELD("tie_word_embeddings", BOOL, false, tied),
};

static const struct arch_field neox_keys[] = {
    GGUF_KEYS,
    GGUF_ROPE_KEYS,
    FIELD("attention.layer_norm_epsilon", NUM, true, norm_eps),
    FIELD("rope.dimension_count", INT, true, n_rot),
    FIELD("use_parallel_residual", BOOL, true, parallel),
};

static void settle_neox(struct arch *a) {
    a->o_bias = a->qkv_bias;
    // The metadata do not name the activation: the exact GELU but in the 20B, known by its layers.
    if (a->given.gguf && a->n_layer == 44) a->act = ACT_GELU_TANH;
}

const struct arch_family arch_gpt_neox = {
    .name = "gpt_neox",
    .model_types = {"gpt_neox"},
    .gguf_arch = "gptneox",
    .norm = NORM_LAYER,
    .defaults = {.act = ACT_GELU_ERF, .rotary_share = 0.25, .parallel = true, .qkv_bias = true},
    TENSORS(neox_tensors),
    FIELDS(neox_fields),
    KEYS(neox_keys),
    .ignored_tensors = gpt_ignored,
    .settle = settle_neox};

/* ---- GPT-J: neighbouring dimensions turn; attention and MLP in parallel from one norm ---- */

static const struct arch_tensor gptj_tensors[] = {
    TENSOR(EMBED, ALWAYS, "transformer.wte.weight", NULL),
    TENSOR(NORM_OUT, ALWAYS, "transformer.ln_f.weight", NULL),
    TENSOR(NORM_OUT_BIAS, ALWAYS, "transformer.ln_f.bias", NULL),
    TENSOR(HEAD, UNTIED, "lm_head.weight", NULL),
    TENSOR(HEAD_BIAS, ALWAYS, "lm_head.bias", NULL),
    TENSOR(NORM_ATTN, ALWAYS, "transformer.h.%d.ln_1.weight", NULL),
    TENSOR(NORM_ATTN_BIAS, ALWAYS, "transformer.h.%d.ln_1.bias", NULL),
    TENSOR(Q, ALWAYS, "transformer.h.%d.attn.q_proj.weight", NULL),
    TENSOR(K, ALWAYS, "transformer.h.%d.attn.k_proj.weight", NULL),
    TENSOR(V, ALWAYS, "transformer.h.%d.attn.v_proj.weight", NULL),
    TENSOR(O, ALWAYS, "transformer.h.%d.attn.out_proj.weight", NULL),
    TENSOR(UP, ALWAYS, "transformer.h.%d.mlp.fc_in.weight", NULL),
    TENSOR(UP_BIAS, ALWAYS, "transformer.h.%d.mlp.fc_in.bias", NULL),
    TENSOR(DOWN, ALWAYS, "transformer.h.%d.mlp.fc_out.weight", NULL),
    TENSOR(DOWN_BIAS, ALWAYS, "transformer.h.%d.mlp.fc_out.bias", NULL),
};

static const struct arch_field gptj_fields[] = {
    FIELD("n_embd", INT, true, d_model),          FIELD("n_inner", INT, false, d_ff),
    FIELD("n_layer", INT, true, n_layer),         FIELD("n_head", INT, true, n_head),
    FIELD("vocab_size", INT, true, n_vocab),      FIELD("n_positions", INT, true, n_ctx_train),
    FIELD("rotary_dim", INT, true, n_rot),        FIELD("layer_norm_epsilon", NUM, true, norm_eps),
    FIELD("activation_function", ACT, true, act), FIELD("tie_word_embeddings", BOOL, false, tied),
    MUST_BE("scale_attn_weights", TRUE),          MUST_BE("rotary", TRUE),
};

static void settle_gptj(struct arch *a) {
    if (a->d_ff == 0) a->d_ff = 4 * a->d_model;
}

const struct arch_family arch_gptj = {.name = "gptj",
                                      .model_types = {"gptj"},
                                      .norm = NORM_LAYER,
                                      .rope_interleaved = true,
                                      .defaults = {.parallel = true},
                                      TENSORS(gptj_tensors),
                                      FIELDS(gptj_fields),
                                      .ignored_tensors = gpt_ignored,
                                      .settle = settle_gptj};

/* ---- Falcon: heads of q share k and v, all of them, in groups or not at all ---- */

static const struct arch_tensor falcon_tensors[] = {
    TENSOR(EMBED, ALWAYS, "transformer.word_embeddings.weight", "token_embd.weight"),
    TENSOR(NORM_OUT, ALWAYS, "transformer.ln_f.weight", "output_norm.weight"),
    TENSOR(NORM_OUT_BIAS, ALWAYS, "transformer.ln_f.bias", "output_norm.bias"),
    TENSOR(HEAD, UNTIED, "lm_head.weight", "output.weight"),
    TENSOR_TWO(NORM_ATTN, ALWAYS, "transformer.h.%d.input_layernorm.weight",
               "transformer.h.%d.ln_attn.weight", "blk.%d.attn_norm.weight",
               "blk.%d.attn_norm_2.weight"),
    TENSOR_TWO(NORM_ATTN_BIAS, ALWAYS, "transformer.h.%d.input_layernorm.bias",
               "transformer.h.%d.ln_attn.bias", "blk.%d.attn_norm.bias", "blk.%d.attn_norm_2.bias"),
    TENSOR_PART(Q, ALWAYS, QKV_GROUPS, "transformer.h.%d.self_attention.query_key_value.weight",
                "blk.%d.attn_qkv.weight"),
    TENSOR_PART(K, ALWAYS, QKV_GROUPS, "transformer.h.%d.self_attention.query_key_value.weight",
                "blk.%d.attn_qkv.weight"),
    TENSOR_PART(V, ALWAYS, QKV_GROUPS, "transformer.h.%d.self_attention.query_key_value.weight",
                "blk.%d.attn_qkv.weight"),
    TENSOR_PART(Q_BIAS, QKV_BIAS, QKV_GROUPS,
                "transformer.h.%d.self_attention.query_key_value.bias", NULL),
    TENSOR_PART(K_BIAS, QKV_BIAS, QKV_GROUPS,
                "transformer.h.%d.self_attention.query_key_value.bias", NULL),
    TENSOR_PART(V_BIAS, QKV_BIAS, QKV_GROUPS,
                "transformer.h.%d.self_attention.query_key_value.bias", NULL),
    TENSOR(O, ALWAYS, "transformer.h.%d.self_attention.dense.weight", "blk.%d.attn_output.weight"),
    TENSOR(O_BIAS, O_BIAS, "transformer.h.%d.self_attention.dense.bias", NULL),
    TENSOR_ALSO(NORM_MLP, NORM_MLP, "transformer.h.%d.post_attention_layernorm.weight",
                "transformer.h.%d.ln_mlp.weight", "blk.%d.attn_norm.weight"),
    TENSOR_ALSO(NORM_MLP_BIAS, NORM_MLP, "transformer.h.%d.post_attention_layernorm.bias",
                "transformer.h.%d.ln_mlp.bias", "blk.%d.attn_norm.bias"),
    TENSOR(UP, ALWAYS, "transformer.h.%d.mlp.dense_h_to_4h.weight", "blk.%d.ffn_up.weight"),
    TENSOR(UP_BIAS, MLP_BIAS, "transformer.h.%d.mlp.dense_h_to_4h.bias", NULL),
    TENSOR(DOWN, ALWAYS, "transformer.h.%d.mlp.dense_4h_to_h.weight", "blk.%d.ffn_down.weight"),
    TENSOR(DOWN_BIAS, MLP_BIAS, "transformer.h.%d.mlp.dense_4h_to_h.bias", NULL),
};

static const struct arch_field falcon_fields[] = {
    FIELD("hidden_size", INT, true, d_model),
    FIELD("ffn_hidden_size", INT, false, d_ff),
    IGNORED("ff_factor"), // says the same
    FIELD("num_hidden_layers", INT, true, n_layer),
    FIELD("n_layer", INT, false, n_layer), // the names of RefinedWeb
    FIELD("num_attention_heads", INT, true, n_head),
    FIELD("n_head", INT, false, n_head),
    FIELD("num_kv_heads", INT, false, n_kv),
    FIELD("n_head_kv", INT, false, given.n_group),
    FIELD("vocab_size", INT, true, n_vocab),
    FIELD("max_position_embeddings", INT, false, n_ctx_train),
    FIELD("layer_norm_epsilon", NUM, true, norm_eps),
    FIELD("rope_theta", NUM, false, rope.theta),
    FIELD("rope_scaling", ROPE, false, rope),
    FIELD("activation", ACT, false, act),
    FIELD("alibi", BOOL, false, given.alibi),
    FIELD("bias", BOOL, false, given.linear_bias),
    FIELD("multi_query", BOOL, false, given.multi_query),
    FIELD("new_decoder_architecture", BOOL, false, given.new_decoder),
    FIELD("num_ln_in_parallel_attn", INT, false, given.n_parallel_norm),
    FIELD("parallel_attn", BOOL, false, parallel),
    FIELD("tie_word_embeddings", BOOL, false, tied),
    MUST_BE("apply_residual_connection_post_layernorm", FALSE),
};

// There is no GGUF form of the models with ALiBi: their biases have no place.
static const struct arch_field falcon_keys[] = {
    GGUF_KEYS,
    GGUF_ROPE_KEYS,
    FIELD("attention.layer_norm_epsilon", NUM, true, norm_eps),
    FIELD("rope.dimension_count", SAME, false, d_head),
};

static void settle_falcon(struct arch *a) {
    struct arch_given *g = &a->given;
    if (g->n_group > 0) { // RefinedWeb: says nothing else of the new decoder
        a->n_kv = g->n_group;
        g->new_decoder = true;
    }
    if (!g->gguf && !g->new_decoder) a->n_kv = g->multi_query ? 1 : a->n_head;
    a->parallel = a->parallel || g->new_decoder;
    a->norm_mlp = g->new_decoder ? g->n_parallel_norm != 1 : !a->parallel;
    if (g->gguf) a->norm_mlp = g->gguf_also;
    a->qkv_bias = a->o_bias = a->mlp_bias = g->linear_bias;
    if (a->d_ff == 0) a->d_ff = 4 * a->d_model;
    if (!g->alibi) return;
    a->positions = POS_ALIBI;
    a->alibi_scale =
        1 / sqrt((double)a->d_head); // the bias joins the scores before they are scaled
}

const struct arch_family arch_falcon = {.name = "falcon",
                                        .model_types = {"falcon", "RefinedWeb", "RefinedWebModel"},
                                        .gguf_arch = "falcon",
                                        .norm = NORM_LAYER,
                                        .defaults = {.act = ACT_GELU_ERF,
                                                     .n_ctx_train = 2048,
                                                     .parallel = true,
                                                     .tied = true,
                                                     .given = {.multi_query = true}},
                                        TENSORS(falcon_tensors),
                                        FIELDS(falcon_fields),
                                        KEYS(falcon_keys),
                                        .ignored_tensors = gpt_ignored,
                                        .settle = settle_falcon};

/* ---- MPT: ALiBi, no bias anywhere ---- */

static const struct arch_tensor mpt_tensors[] = {
    TENSOR(EMBED, ALWAYS, "transformer.wte.weight", "token_embd.weight"),
    TENSOR(NORM_OUT, ALWAYS, "transformer.norm_f.weight", "output_norm.weight"),
    TENSOR(HEAD, UNTIED, "lm_head.weight", "output.weight"),
    TENSOR(NORM_ATTN, ALWAYS, "transformer.blocks.%d.norm_1.weight", "blk.%d.attn_norm.weight"),
    TENSOR_PART(Q, ALWAYS, QKV, "transformer.blocks.%d.attn.Wqkv.weight", "blk.%d.attn_qkv.weight"),
    TENSOR_PART(K, ALWAYS, QKV, "transformer.blocks.%d.attn.Wqkv.weight", "blk.%d.attn_qkv.weight"),
    TENSOR_PART(V, ALWAYS, QKV, "transformer.blocks.%d.attn.Wqkv.weight", "blk.%d.attn_qkv.weight"),
    TENSOR(NORM_Q, QK_NORM, "transformer.blocks.%d.attn.q_ln.weight", "blk.%d.attn_q_norm.weight"),
    TENSOR(NORM_K, QK_NORM, "transformer.blocks.%d.attn.k_ln.weight", "blk.%d.attn_k_norm.weight"),
    TENSOR(O, ALWAYS, "transformer.blocks.%d.attn.out_proj.weight", "blk.%d.attn_output.weight"),
    TENSOR(NORM_MLP, ALWAYS, "transformer.blocks.%d.norm_2.weight", "blk.%d.ffn_norm.weight"),
    TENSOR(UP, ALWAYS, "transformer.blocks.%d.ffn.up_proj.weight", "blk.%d.ffn_up.weight"),
    TENSOR(DOWN, ALWAYS, "transformer.blocks.%d.ffn.down_proj.weight", "blk.%d.ffn_down.weight"),
};

static const struct arch_field mpt_fields[] = {
    FIELD("d_model", INT, true, d_model),
    FIELD("expansion_ratio", NUM, false, given.expansion),
    FIELD("n_layers", INT, true, n_layer),
    FIELD("n_heads", INT, true, n_head),
    FIELD("vocab_size", INT, true, n_vocab),
    FIELD("max_seq_len", INT, true, n_ctx_train),
    FIELD("layer_norm_epsilon", NUM, false, norm_eps),
    FIELD("tie_word_embeddings", BOOL, false, tied),
    GROUP("attn_config"),
    FIELD("attn_config.alibi_bias_max", NUM, false, alibi_max),
    FIELD("attn_config.softmax_scale", NUM, false, attn_scale),
    MUST_BE("attn_config.alibi", TRUE),
    FIELD("attn_config.clip_qkv", NUM, false, qkv_clip),
    FIELD("attn_config.qk_ln", BOOL, false, qk_norm),
    MUST_BE("attn_config.prefix_lm", FALSE),
    MUST_BE("attn_config.attn_uses_sequence_id", FALSE),
    MUST_SAY("attn_config.attn_type", false, "multihead_attention"),
    IGNORED("attn_config.attn_impl"),
    IGNORED("attn_config.attn_pdrop"),
    IGNORED("attn_config.model_type"),
    MUST_BE("no_bias", TRUE),
    MUST_SAY("norm_type", false, "low_precision_layernorm"),
    MUST_BE("logit_scale", FALSE),
    IGNORED("embedding_fraction"), // of gradients
    IGNORED("init_config"),
    IGNORED("init_device"),
    IGNORED("learned_pos_emb"), // without alibi only
    IGNORED("tokenizer_name"),
    IGNORED("verbose"),
};

static const struct arch_field mpt_keys[] = {
    GGUF_KEYS,
    FIELD("attention.layer_norm_epsilon", NUM, true, norm_eps),
    FIELD("attention.max_alibi_bias", NUM, true, alibi_max),
    FIELD("attention.clamp_kqv", NUM, false, qkv_clip),
};

static void settle_mpt(struct arch *a) {
    if (a->given.gguf) {
        a->qk_norm = a->given.gguf_qk_norm;
        return;
    }
    const double by = a->given.expansion > 0 ? a->given.expansion : 4;
    a->d_ff = (int64_t)fmin(by * (double)a->d_model, 1e9);
}

const struct arch_family arch_mpt = {.name = "mpt",
                                     .model_types = {"mpt"},
                                     .gguf_arch = "mpt",
                                     .norm = NORM_LAYER,
                                     .defaults = {.act = ACT_GELU_ERF,
                                                  .norm_eps = 1e-5,
                                                  .positions = POS_ALIBI,
                                                  .tied = true,
                                                  .qk_norm_row = true},
                                     TENSORS(mpt_tensors),
                                     FIELDS(mpt_fields),
                                     KEYS(mpt_keys),
                                     .settle = settle_mpt};
