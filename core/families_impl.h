/* Private to the files of families: how a row of a descriptor is written down. */
#ifndef BASIN_CORE_FAMILIES_IMPL_H
#define BASIN_CORE_FAMILIES_IMPL_H

#include "core/arch.h"

/* A tensor by role, the models it is in, its name, and its name in GGUF files. */
#define TENSOR(role, when, name, gguf)                                                             \
    { ARCH_##role, WHEN_##when, name, NULL, gguf, PART_WHOLE, false }
/* The same with another name that some exports use. */
#define TENSOR_ALSO(role, when, name, also, gguf)                                                  \
    { ARCH_##role, WHEN_##when, name, also, gguf, PART_WHOLE, false }
/* Part of a fused tensor. */
#define TENSOR_PART(role, when, part, name, gguf)                                                  \
    { ARCH_##role, WHEN_##when, name, NULL, gguf, PART_##part, false }
/* GPT-2's Conv1D: whole or part, stored as [n_in, n_out]. */
#define CONV1D(role, part, name, also)                                                             \
    { ARCH_##role, WHEN_ALWAYS, name, also, NULL, PART_##part, true }

/* GPT-2's fused bias, whose name comes with and without a prefix. */
#define QKV_ALSO(role, name, also)                                                                 \
    { ARCH_##role, WHEN_ALWAYS, name, also, NULL, PART_QKV, false }

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

#define TENSORS(list) .tensors = list, .n_tensor = COUNTOF(list)
#define FIELDS(list) .fields = list, .n_field = COUNTOF(list)
#define KEYS(list) .keys = list, .n_key = COUNTOF(list)

extern const struct arch_family arch_llama, arch_mistral, arch_qwen2, arch_qwen3, arch_granite,
    arch_stablelm, arch_phi3, arch_gemma3, arch_gpt_neox, arch_gptj, arch_falcon, arch_mpt,
    arch_btlm, arch_qwen, arch_gpt2, arch_opt;

#endif
