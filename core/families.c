/* The table of model families. A new family is a new row: README.md of this folder says how. */
#include "core/arch.h"

#include <string.h>

#define FIELD(key, kind, required, member)                                                         \
    { key, kind, required, offsetof(struct arch, member) }
#define IGNORED(key)                                                                               \
    { key, FIELD_IGNORED, false, 0 }

static const struct arch_tensor llama_tensors[] = {
    {ARCH_EMBED, WT_TABLE, WHEN_ALWAYS, DIM_VOCAB, DIM_MODEL, "model.embed_tokens.weight", NULL,
     "token_embd.weight"},
    {ARCH_NORM_OUT, WT_VECTOR, WHEN_ALWAYS, DIM_MODEL, DIM_ONE, "model.norm.weight", NULL,
     "output_norm.weight"},
    {ARCH_HEAD, WT_MATRIX, WHEN_UNTIED, DIM_VOCAB, DIM_MODEL, "lm_head.weight", NULL,
     "output.weight"},
    {ARCH_ROPE_FREQS, WT_VECTOR, WHEN_ROPE_FREQS, DIM_PAIRS, DIM_ONE, NULL, NULL,
     "rope_freqs.weight"},
    {ARCH_NORM_ATTN, WT_VECTOR, WHEN_ALWAYS, DIM_MODEL, DIM_ONE,
     "model.layers.%d.input_layernorm.weight", "model.layers.%d.ln1.weight",
     "blk.%d.attn_norm.weight"},
    {ARCH_Q, WT_MATRIX, WHEN_ALWAYS, DIM_HEADS, DIM_MODEL,
     "model.layers.%d.self_attn.q_proj.weight", NULL, "blk.%d.attn_q.weight"},
    {ARCH_Q_BIAS, WT_VECTOR, WHEN_ATTN_BIAS, DIM_HEADS, DIM_ONE,
     "model.layers.%d.self_attn.q_proj.bias", NULL, "blk.%d.attn_q.bias"},
    {ARCH_K, WT_MATRIX, WHEN_ALWAYS, DIM_KV, DIM_MODEL, "model.layers.%d.self_attn.k_proj.weight",
     NULL, "blk.%d.attn_k.weight"},
    {ARCH_K_BIAS, WT_VECTOR, WHEN_ATTN_BIAS, DIM_KV, DIM_ONE,
     "model.layers.%d.self_attn.k_proj.bias", NULL, "blk.%d.attn_k.bias"},
    {ARCH_V, WT_MATRIX, WHEN_ALWAYS, DIM_KV, DIM_MODEL, "model.layers.%d.self_attn.v_proj.weight",
     NULL, "blk.%d.attn_v.weight"},
    {ARCH_V_BIAS, WT_VECTOR, WHEN_ATTN_BIAS, DIM_KV, DIM_ONE,
     "model.layers.%d.self_attn.v_proj.bias", NULL, "blk.%d.attn_v.bias"},
    {ARCH_O, WT_MATRIX, WHEN_ALWAYS, DIM_MODEL, DIM_HEADS,
     "model.layers.%d.self_attn.o_proj.weight", NULL, "blk.%d.attn_output.weight"},
    {ARCH_O_BIAS, WT_VECTOR, WHEN_ATTN_BIAS, DIM_MODEL, DIM_ONE,
     "model.layers.%d.self_attn.o_proj.bias", NULL, "blk.%d.attn_output.bias"},
    {ARCH_NORM_MLP, WT_VECTOR, WHEN_ALWAYS, DIM_MODEL, DIM_ONE,
     "model.layers.%d.post_attention_layernorm.weight", "model.layers.%d.ln2.weight",
     "blk.%d.ffn_norm.weight"},
    {ARCH_GATE, WT_MATRIX, WHEN_ALWAYS, DIM_FF, DIM_MODEL, "model.layers.%d.mlp.gate_proj.weight",
     NULL, "blk.%d.ffn_gate.weight"},
    {ARCH_GATE_BIAS, WT_VECTOR, WHEN_MLP_BIAS, DIM_FF, DIM_ONE,
     "model.layers.%d.mlp.gate_proj.bias", NULL, "blk.%d.ffn_gate.bias"},
    {ARCH_UP, WT_MATRIX, WHEN_ALWAYS, DIM_FF, DIM_MODEL, "model.layers.%d.mlp.up_proj.weight", NULL,
     "blk.%d.ffn_up.weight"},
    {ARCH_UP_BIAS, WT_VECTOR, WHEN_MLP_BIAS, DIM_FF, DIM_ONE, "model.layers.%d.mlp.up_proj.bias",
     NULL, "blk.%d.ffn_up.bias"},
    {ARCH_DOWN, WT_MATRIX, WHEN_ALWAYS, DIM_MODEL, DIM_FF, "model.layers.%d.mlp.down_proj.weight",
     NULL, "blk.%d.ffn_down.weight"},
    {ARCH_DOWN_BIAS, WT_VECTOR, WHEN_MLP_BIAS, DIM_MODEL, DIM_ONE,
     "model.layers.%d.mlp.down_proj.bias", NULL, "blk.%d.ffn_down.bias"},
};

static const struct arch_field llama_fields[] = {
    FIELD("hidden_size", FIELD_INT, true, d_model),
    FIELD("intermediate_size", FIELD_INT, true, d_ff),
    FIELD("num_hidden_layers", FIELD_INT, true, n_layer),
    FIELD("num_attention_heads", FIELD_INT, true, n_head),
    FIELD("num_key_value_heads", FIELD_INT, false, n_kv),
    FIELD("head_dim", FIELD_INT, false, d_head),
    FIELD("vocab_size", FIELD_INT, true, n_vocab),
    FIELD("max_position_embeddings", FIELD_INT, true, n_ctx_train),
    FIELD("sliding_window", FIELD_INT, false, window),
    FIELD("rms_norm_eps", FIELD_NUM, true, norm_eps),
    FIELD("rope_theta", FIELD_NUM, false, rope.theta),
    FIELD("rope_scaling", FIELD_ROPE, false, rope),
    FIELD("rope_parameters", FIELD_ROPE, false, rope),
    FIELD("hidden_act", FIELD_ACT, true, act),
    FIELD("tie_word_embeddings", FIELD_BOOL, false, tied),
    FIELD("attention_bias", FIELD_BOOL, false, attn_bias),
    FIELD("mlp_bias", FIELD_BOOL, false, mlp_bias),
    {"rope_interleaved", FIELD_FALSE, false, 0},
    {"quantization_config", FIELD_FALSE, false, 0},
    IGNORED("architectures"),
    IGNORED("model_type"),
    IGNORED("_name_or_path"),
    IGNORED("attention_dropout"),
    IGNORED("auto_map"),
    IGNORED("bos_token_id"),
    IGNORED("dtype"),
    IGNORED("eos_token_id"),
    IGNORED("initializer_range"),
    IGNORED("is_llama_config"),
    IGNORED("pad_token_id"),
    IGNORED("pretraining_tp"),
    IGNORED("torch_dtype"),
    IGNORED("transformers.js_config"),
    IGNORED("transformers_version"),
    IGNORED("unsloth_version"),
    IGNORED("use_cache"),
};

static const struct arch_field llama_keys[] = {
    FIELD("block_count", FIELD_INT, true, n_layer), // first: lengths of arrays are checked by it
    FIELD("context_length", FIELD_INT, true, n_ctx_train),
    FIELD("embedding_length", FIELD_INT, true, d_model),
    FIELD("feed_forward_length", FIELD_LAYERS, true, d_ff),
    FIELD("vocab_size", FIELD_INT, false, n_vocab),
    FIELD("attention.head_count", FIELD_LAYERS, true, n_head),
    FIELD("attention.head_count_kv", FIELD_LAYERS, false, n_kv),
    FIELD("attention.key_length", FIELD_INT, false, d_head),
    FIELD("attention.value_length", FIELD_SAME, false, d_head),
    FIELD("attention.layer_norm_rms_epsilon", FIELD_NUM, true, norm_eps),
    FIELD("rope.dimension_count", FIELD_SAME, false, d_head),
    FIELD("rope.freq_base", FIELD_NUM, false, rope.theta),
    FIELD("rope.scale_linear", FIELD_NUM, false, rope.factor), // the older name of the next
    FIELD("rope.scaling.factor", FIELD_NUM, false, rope.factor),
    FIELD("rope.scaling.type", FIELD_ROPE, false, rope.kind),
    FIELD("rope.scaling.original_context_length", FIELD_INT, false, rope.n_ctx_original),
    FIELD("rope.scaling.attn_factor", FIELD_NUM, false, rope.attention_factor),
    FIELD("rope.scaling.yarn_beta_fast", FIELD_NUM, false, rope.beta_fast),
    FIELD("rope.scaling.yarn_beta_slow", FIELD_NUM, false, rope.beta_slow),
    {"expert_count", FIELD_FALSE, false, 0},
    {"expert_used_count", FIELD_FALSE, false, 0},
    {"use_parallel_residual", FIELD_FALSE, false, 0},
    IGNORED("rope.scaling.finetuned"),
    IGNORED("tensor_data_layout"),
};

// Written by old exports: a table that can be computed.
static const char *const llama_ignored_tensors[] = {".rotary_emb.inv_freq", NULL};

static const struct arch_family families[] = {
    {.name = "llama",
     .model_types = {"llama", "Yi"},
     .gguf_arch = "llama",
     .gguf_act = ACT_SILU,
     .gguf_rope_interleaved = true,
     .norm = NORM_RMS,
     .window = WINDOW_NONE,
     .tensors = llama_tensors,
     .n_tensor = COUNTOF(llama_tensors),
     .fields = llama_fields,
     .n_field = COUNTOF(llama_fields),
     .keys = llama_keys,
     .n_key = COUNTOF(llama_keys),
     .ignored_tensors = llama_ignored_tensors},
    {.name = "mistral",
     .model_types = {"mistral"},
     .norm = NORM_RMS,
     .window = WINDOW_DENSE,
     .tensors = llama_tensors,
     .n_tensor = COUNTOF(llama_tensors),
     .fields = llama_fields,
     .n_field = COUNTOF(llama_fields),
     .ignored_tensors = llama_ignored_tensors},
};

const struct arch_family *arch_family_at(int i) {
    return i >= 0 && (size_t)i < COUNTOF(families) ? &families[i] : NULL;
}

const struct arch_family *arch_family_find(const char *model_type) {
    for (size_t i = 0; i < COUNTOF(families); i++) {
        for (size_t k = 0; k < COUNTOF(families[i].model_types); k++) {
            const char *name = families[i].model_types[k];
            if (name != NULL && strcmp(name, model_type) == 0) return &families[i];
        }
    }
    return NULL;
}

const struct arch_family *arch_family_find_gguf(const char *architecture, size_t bytes) {
    for (size_t i = 0; i < COUNTOF(families); i++) {
        const char *name = families[i].gguf_arch;
        if (name != NULL && strlen(name) == bytes && memcmp(name, architecture, bytes) == 0) {
            return &families[i];
        }
    }
    return NULL;
}
