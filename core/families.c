/* The table of model families. A new family is a new row: README.md of this folder says how. */
#include "core/families_impl.h"

#include <stdio.h>
#include <string.h>

static const struct arch_family *const families[] = {
    &arch_llama, &arch_mistral, &arch_qwen2,    &arch_qwen3, &arch_granite, &arch_stablelm,
    &arch_phi3,  &arch_gemma3,  &arch_gpt_neox, &arch_gptj,  &arch_falcon,  &arch_mpt,
    &arch_btlm,  &arch_qwen,    &arch_gpt2,     &arch_opt,
};

// Training, generation and bookkeeping; and what no family of this program does.
static const struct arch_field common_fields[] = {
    MUST_BE("quantization_config", FALSE),
    IGNORED("_name_or_path"),
    IGNORED("activation_dropout"),
    IGNORED("architectures"),
    IGNORED("attention_dropout"),
    IGNORED("attn_pdrop"),
    IGNORED("auto_map"),
    IGNORED("bos_token_id"),
    IGNORED("cache_implementation"),
    IGNORED("classifier_dropout"),
    IGNORED("dropout"),
    IGNORED("dtype"),
    IGNORED("emb_pdrop"),
    IGNORED("embd_pdrop"),
    IGNORED("eos_token_id"),
    IGNORED("gradient_checkpointing"),
    IGNORED("hidden_dropout"),
    IGNORED("init_std"),
    IGNORED("initializer_range"),
    IGNORED("is_llama_config"),
    IGNORED("layerdrop"),
    IGNORED("model_type"),
    IGNORED("pad_token_id"),
    IGNORED("prefix"),
    IGNORED("pretraining_tp"),
    IGNORED("resid_pdrop"),
    IGNORED("sep_token_id"),
    IGNORED("summary_activation"),
    IGNORED("summary_first_dropout"),
    IGNORED("summary_proj_to_labels"),
    IGNORED("summary_type"),
    IGNORED("summary_use_proj"),
    IGNORED("task_specific_params"),
    IGNORED("tokenizer_class"),
    IGNORED("torch_dtype"),
    IGNORED("transformers.js_config"),
    IGNORED("transformers_version"),
    IGNORED("unsloth_fixed"),
    IGNORED("unsloth_version"),
    IGNORED("use_cache"),
};

const struct arch_field *arch_field_common(const char *key) {
    for (size_t i = 0; i < COUNTOF(common_fields); i++) {
        if (strcmp(common_fields[i].key, key) == 0) return &common_fields[i];
    }
    return NULL;
}

void arch_family_names(char *text, size_t cap, bool gguf) {
    size_t n = 0;
    text[0] = '\0';
    for (size_t i = 0; i < COUNTOF(families); i++) {
        for (size_t k = 0; k < COUNTOF(families[i]->model_types); k++) {
            const char *name = gguf ? families[i]->gguf_arch : families[i]->model_types[k];
            if (name == NULL || (gguf && k > 0) || n + strlen(name) + 3 > cap) continue;
            n += (size_t)snprintf(text + n, cap - n, "%s%s", n > 0 ? ", " : "", name);
        }
    }
}

const struct arch_family *arch_family_at(int i) {
    return i >= 0 && (size_t)i < COUNTOF(families) ? families[i] : NULL;
}

const struct arch_family *arch_family_find(const char *model_type) {
    for (size_t i = 0; i < COUNTOF(families); i++) {
        for (size_t k = 0; k < COUNTOF(families[i]->model_types); k++) {
            const char *name = families[i]->model_types[k];
            if (name != NULL && strcmp(name, model_type) == 0) return families[i];
        }
    }
    return NULL;
}

const struct arch_family *arch_family_find_gguf(const char *architecture, size_t bytes) {
    for (size_t i = 0; i < COUNTOF(families); i++) {
        const char *name = families[i]->gguf_arch;
        if (name != NULL && strlen(name) == bytes && memcmp(name, architecture, bytes) == 0) {
            return families[i];
        }
    }
    return NULL;
}
