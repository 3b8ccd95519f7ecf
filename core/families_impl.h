/* Private to the files of families: how a row of a descriptor is written down. */
#ifndef BASIN_CORE_FAMILIES_IMPL_H
#define BASIN_CORE_FAMILIES_IMPL_H

#include "core/arch.h"

/* A tensor by role, the models it is in, its name, and its name in GGUF files. */
#define TENSOR(role, when, name, gguf)                                                             \
    { ARCH_##role, WHEN_##when, name, NULL, gguf, NULL, PART_WHOLE, false }
/* The same with another name that some exports use. */
#define TENSOR_ALSO(role, when, name, also, gguf)                                                  \
    { ARCH_##role, WHEN_##when, name, also, gguf, NULL, PART_WHOLE, false }
/* Part of a fused tensor. */
#define TENSOR_PART(role, when, part, name, gguf)                                                  \
    { ARCH_##role, WHEN_##when, name, NULL, gguf, NULL, PART_##part, false }
/* GPT-2's Conv1D: whole or part, stored as [n_in, n_out]. */
#define CONV1D(role, part, name, also, gguf)                                                       \
    { ARCH_##role, WHEN_ALWAYS, name, also, gguf, NULL, PART_##part, true }

/* GPT-2's fused bias, whose name comes with and without a prefix. */
#define QKV_ALSO(role, name, also, gguf)                                                           \
    { ARCH_##role, WHEN_ALWAYS, name, also, gguf, NULL, PART_QKV, false }
/* Names of its own for a model that has two of its kind. */
#define TENSOR_TWO(role, when, name, also, gguf, gguf_also)                                        \
    { ARCH_##role, WHEN_##when, name, also, gguf, gguf_also, PART_WHOLE, false }

#define FIELD(key, kind, required, member)                                                         \
    { key, FIELD_##kind, required, offsetof(struct arch, member), NULL }
#define MUST_BE(key, kind)                                                                         \
    { key, FIELD_##kind, false, 0, NULL }
/* The same, saying why. */
#define MUST_BE_FOR(key, kind, why)                                                                \
    { key, FIELD_##kind, false, 0, why }
#define MUST_SAY(key, required, word)                                                              \
    { key, FIELD_WORD, required, 0, word }
#define GROUP(key)                                                                                 \
    { key, FIELD_GROUP, false, 0, NULL }
#define IGNORED(key)                                                                               \
    { key, FIELD_IGNORED, false, 0, NULL }

// What every config.json with Llama's names says.
#define LLAMA_FIELDS                                                                               \
    FIELD("hidden_size", INT, true, d_model), FIELD("intermediate_size", INT, true, d_ff),         \
        FIELD("num_hidden_layers", INT, true, n_layer),                                            \
        FIELD("num_attention_heads", INT, true, n_head),                                           \
        FIELD("num_key_value_heads", INT, false, n_kv), FIELD("head_dim", INT, false, d_head),     \
        FIELD("vocab_size", INT, true, n_vocab),                                                   \
        FIELD("max_position_embeddings", INT, true, n_ctx_train),                                  \
        FIELD("rope_theta", NUM, false, rope.theta), FIELD("rope_scaling", ROPE, false, rope),     \
        FIELD("rope_parameters", ROPE, false, rope), FIELD("hidden_act", ACT, true, act),          \
        FIELD("tie_word_embeddings", BOOL, false, tied)

// What the metadata of every GGUF file of these families says; the first one counts the layers.
#define GGUF_KEYS                                                                                  \
    FIELD("block_count", INT, true, n_layer), FIELD("context_length", INT, true, n_ctx_train),     \
        FIELD("embedding_length", INT, true, d_model),                                             \
        FIELD("feed_forward_length", LAYERS, true, d_ff),                                          \
        FIELD("vocab_size", INT, false, n_vocab),                                                  \
        FIELD("attention.head_count", LAYERS, true, n_head),                                       \
        FIELD("attention.head_count_kv", LAYERS, false, n_kv),                                     \
        FIELD("attention.key_length", INT, false, d_head),                                         \
        FIELD("attention.value_length", SAME, false, d_head), MUST_BE("attention.causal", TRUE),   \
        MUST_BE("expert_count", FALSE), MUST_BE("expert_used_count", FALSE),                       \
        IGNORED("tensor_data_layout")

#define GGUF_ROPE_KEYS                                                                             \
    FIELD("rope.freq_base", NUM, false, rope.theta),                                               \
        FIELD("rope.scale_linear", NUM, false, rope.factor), /* the older name of the next */      \
        FIELD("rope.scaling.factor", NUM, false, rope.factor),                                     \
        FIELD("rope.scaling.type", ROPE, false, rope.kind),                                        \
        FIELD("rope.scaling.original_context_length", INT, false, rope.n_ctx_original),            \
        FIELD("rope.scaling.attn_factor", NUM, false, rope.attention_factor),                      \
        FIELD("rope.scaling.yarn_beta_fast", NUM, false, rope.beta_fast),                          \
        FIELD("rope.scaling.yarn_beta_slow", NUM, false, rope.beta_slow),                          \
        IGNORED("rope.scaling.finetuned")

#define TENSORS(list) .tensors = list, .n_tensor = COUNTOF(list)
#define FIELDS(list) .fields = list, .n_field = COUNTOF(list)
#define KEYS(list) .keys = list, .n_key = COUNTOF(list)

extern const struct arch_family arch_llama, arch_mistral, arch_qwen2, arch_qwen3, arch_granite,
    arch_stablelm, arch_phi3, arch_gemma3, arch_gpt_neox, arch_gptj, arch_falcon, arch_mpt,
    arch_btlm, arch_qwen, arch_gpt2, arch_opt;

#endif
