/* Models without files: the dimensions of known ones, and made-up weights of sizes that keep a forward pass
 * away from infinity. */
#include "core/model.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/sbuf.h"
#include "base/suggest.h"
#include "core/model_files.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- tensors ---- */

static bool is_scale(enum arch_role role) {
    switch (role) {
    case ARCH_NORM_OUT:
    case ARCH_NORM_ATTN:
    case ARCH_NORM_Q:
    case ARCH_NORM_K:
    case ARCH_NORM_ATTN_POST:
    case ARCH_NORM_MLP:
    case ARCH_NORM_MLP_POST: return true;
    default: return false;
    }
}

// The sum over a row of elements times numbers around 1 is to be around 1: a byte is 74 in the mean square.
static int shift_of(int64_t n_in) {
    return (int)lround(log2(74 * sqrt((double)n_in)));
}

static enum status add_tensor(struct model_made *m, const struct arch *a,
                              const struct arch_tensor *t, int64_t layer, size_t first,
                              struct err *e) {
    char name[sizeof *m->names];
    arch_tensor_name(name, sizeof name, t->name, layer);
    for (size_t i = first; i < m->n; i++)
        if (strcmp(m->names[i], name) == 0) return OK; // another role's part of the same tensor
    const struct arch_place p = arch_place(a, t->role, t->part);
    const bool vector = arch_use(t->role) == WT_VECTOR;
    struct model_tensor *s = &m->tensors[m->n];
    size_t n = 0;
    *s = (struct model_tensor){.dtype = DT_BF16,
                               .dtype_text = "BF16",
                               .n_dim = vector ? 1 : 2,
                               .dim = {t->transposed ? p.n_in : p.n_stored_rows,
                                       t->transposed ? p.n_stored_rows : p.n_in}};
    if (!mem_mul((size_t)p.n_stored_rows, (size_t)p.n_in, &n) ||
        !mem_mul(n, sizeof(bf16_t), &s->bytes))
        return err_fail(e, E_NOMEM, "tensor %s is too large", name);
    if (vector) {
        s->data = (const unsigned char *)(is_scale(t->role) ? m->ones : m->zeros);
    } else {
        s->made = hash_64(name, strlen(name)) | 1;
        s->made_shift = shift_of(p.n_in);
    }
    memcpy(m->names[m->n++], name, sizeof name);
    return OK;
}

static enum status add_all(struct model_made *m, const struct arch *a, struct err *e) {
    enum status st = OK;
    for (int64_t l = -1; l < a->n_layer; l++) { // -1: what is of no layer
        const size_t first = m->n;
        for (int i = 0; i < a->family->n_tensor; i++) {
            const struct arch_tensor *t = &a->family->tensors[i];
            if (t->name == NULL || !arch_has(a, t) || arch_per_layer(t) != (l >= 0)) continue;
            TRY(add_tensor(m, a, t, l, first, e));
        }
    }
done:
    return st;
}

// Ones and zeros for the longest vector.
static enum status make_vectors(struct model_made *m, const struct arch *a, struct err *e) {
    enum status st = OK;
    int64_t most = 0;
    for (int i = 0; i < a->family->n_tensor; i++) {
        const struct arch_tensor *t = &a->family->tensors[i];
        if (arch_use(t->role) != WT_VECTOR || !arch_has(a, t)) continue;
        const int64_t n = arch_place(a, t->role, t->part).n_stored_rows;
        if (n > most) most = n;
    }
    TRY(mem_zalloc(&m->ones, (size_t)most + 1, sizeof *m->ones, e));
    TRY(mem_zalloc(&m->zeros, (size_t)most + 1, sizeof *m->zeros, e));
    for (int64_t i = 0; i < most; i++) m->ones[i] = dtype_f32_to_bf16((float)(1 - a->norm_offset));
done:
    return st;
}

static enum status fill(struct model_made *m, int n_thread, struct err *e) {
    enum status st = OK;
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++)
        if (m->tensors[i].made != 0) n += m->tensors[i].bytes / sizeof(bf16_t);
    TRY(mem_alloc64(&m->elements, n, sizeof *m->elements, e));
    bf16_t *at = m->elements;
    for (size_t i = 0; i < m->n; i++) {
        struct model_tensor *s = &m->tensors[i];
        if (s->made == 0) continue;
        const int64_t k = (int64_t)(s->bytes / sizeof(bf16_t));
        dev_made_fill(at, s->made, s->made_shift, 0, k, n_thread);
        s->data = (const unsigned char *)at;
        at += k;
    }
done:
    return st;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct model_tensor *)a)->name, ((const struct model_tensor *)b)->name);
}

enum status model_made_open(struct model_made *out, const struct arch *a, int n_thread,
                            struct err *e) {
    enum status st = OK;
    struct model_made m = {0};
    const size_t most = (size_t)((a->n_layer + 1) * a->family->n_tensor);
    TRY(mem_zalloc(&m.tensors, most, sizeof *m.tensors, e));
    TRY(mem_zalloc(&m.names, most, sizeof *m.names, e));
    TRY(make_vectors(&m, a, e));
    TRY(add_all(&m, a, e));
    if (n_thread > 0) TRY(fill(&m, n_thread, e));
    for (size_t i = 0; i < m.n; i++) m.tensors[i].name = m.names[i];
    qsort(m.tensors, m.n, sizeof *m.tensors, by_name);
    *out = m;
    m = (struct model_made){0};
done:
    model_made_free(&m);
    return st;
}

void model_made_free(struct model_made *m) {
    mem_free(m->tensors);
    mem_free(m->names);
    mem_free(m->ones);
    mem_free(m->zeros);
    mem_free(m->elements);
}

/* ---- shapes: what the models' config.json say ---- */

#define SIZES(d, ff, layer, head, kv, vocab, ctx)                                                  \
    "\"hidden_size\":" #d ",\"intermediate_size\":" #ff ",\"num_hidden_layers\":" #layer           \
    ",\"num_attention_heads\":" #head ",\"num_key_value_heads\":" #kv ",\"vocab_size\":" #vocab    \
    ",\"max_position_embeddings\":" #ctx ",\"rms_norm_eps\":1e-5,"
#define LLAMA(type, sizes, theta, tied)                                                            \
    "{\"model_type\":\"" type "\",\"hidden_act\":\"silu\"," sizes "\"rope_theta\":" #theta         \
    ",\"tie_word_embeddings\":" tied "}"
#define LLAMA_HEADS(type, sizes, d_head, theta, tied)                                              \
    LLAMA(type, sizes "\"head_dim\":" #d_head ",", theta, tied)
#define GEMMA3(sizes)                                                                              \
    "{\"model_type\":\"gemma3_text\",\"hidden_activation\":\"gelu_pytorch_tanh\"," sizes           \
    "\"head_dim\":256,\"query_pre_attn_scalar\":256,\"rope_theta\":1000000,"                       \
    "\"rope_local_base_freq\":10000,\"sliding_window\":512,\"sliding_window_pattern\":6}"

static const struct {
    const char *name, *config;
} shapes[] = {
    {"stories260k", LLAMA("llama", SIZES(64, 172, 5, 8, 4, 512, 512), 10000, "true")},
    {"stories15m", LLAMA("llama", SIZES(288, 768, 6, 6, 6, 32000, 256), 10000, "true")},
    {"smollm2-135m", LLAMA("llama", SIZES(576, 1536, 30, 9, 3, 49152, 8192), 100000, "true")},
    {"gemma3-270m", GEMMA3(SIZES(640, 2048, 18, 4, 1, 262144, 32768))},
    {"smollm2-360m", LLAMA("llama", SIZES(960, 2560, 32, 15, 5, 49152, 8192), 100000, "true")},
    {"qwen2.5-0.5b", LLAMA("qwen2", SIZES(896, 4864, 24, 14, 2, 151936, 32768), 1000000, "true")},
    {"gemma3-1b", GEMMA3(SIZES(1152, 6912, 26, 4, 1, 262144, 32768))},
    {"llama3-1b",
     LLAMA_HEADS("llama", SIZES(2048, 8192, 16, 32, 8, 128256, 131072), 64, 500000, "true")},
    {"qwen2.5-1.5b", LLAMA("qwen2", SIZES(1536, 8960, 28, 12, 2, 151936, 32768), 1000000, "true")},
    {"smollm2-1.7b", LLAMA("llama", SIZES(2048, 8192, 24, 32, 32, 49152, 8192), 130000, "true")},
    {"llama3-3b",
     LLAMA_HEADS("llama", SIZES(3072, 8192, 28, 24, 8, 128256, 131072), 128, 500000, "true")},
    {"llama2-7b", LLAMA("llama", SIZES(4096, 11008, 32, 32, 32, 32000, 4096), 10000, "false")},
    {"mistral-7b", LLAMA("mistral", SIZES(4096, 14336, 32, 32, 8, 32000, 32768), 10000, "false")},
    {"falcon-7b", "{\"model_type\":\"falcon\",\"hidden_size\":4544,\"num_attention_heads\":71,"
                  "\"num_hidden_layers\":32,\"vocab_size\":65024,\"max_position_embeddings\":2048,"
                  "\"layer_norm_epsilon\":1e-5,\"multi_query\":true,\"parallel_attn\":true,"
                  "\"bias\":false,\"alibi\":false,\"new_decoder_architecture\":false}"},
    {"qwen2.5-7b", LLAMA("qwen2", SIZES(3584, 18944, 28, 28, 4, 152064, 32768), 1000000, "false")},
    {"llama3-8b", LLAMA("llama", SIZES(4096, 14336, 32, 32, 8, 128256, 8192), 500000, "false")},
    {"qwen3-8b",
     LLAMA_HEADS("qwen3", SIZES(4096, 12288, 36, 32, 8, 151936, 40960), 128, 1000000, "false")},
    {"llama2-13b", LLAMA("llama", SIZES(5120, 13824, 40, 40, 40, 32000, 4096), 10000, "false")},
    {"llama2-70b", LLAMA("llama", SIZES(8192, 28672, 80, 64, 8, 32000, 4096), 10000, "false")},
    {"llama3-70b", LLAMA("llama", SIZES(8192, 28672, 80, 64, 8, 128256, 8192), 500000, "false")},
    {"llama3-405b",
     LLAMA("llama", SIZES(16384, 53248, 126, 128, 8, 128256, 8192), 500000, "false")},
};

const char *const *model_shape_names(void) {
    static const char *const names[] = {
        "stories260k",  "stories15m", "smollm2-135m", "gemma3-270m",  "smollm2-360m",
        "qwen2.5-0.5b", "gemma3-1b",  "llama3-1b",    "qwen2.5-1.5b", "smollm2-1.7b",
        "llama3-3b",    "llama2-7b",  "mistral-7b",   "falcon-7b",    "qwen2.5-7b",
        "llama3-8b",    "qwen3-8b",   "llama2-13b",   "llama2-70b",   "llama3-70b",
        "llama3-405b",  NULL};
    _Static_assert(COUNTOF(names) == COUNTOF(shapes) + 1, "a name for each shape");
    return names;
}

static enum status unknown(const char *shape, struct err *e) {
    struct sbuf list;
    const char *near = suggest_closest(shape, model_shape_names());
    sbuf_init(&list);
    for (const char *const *n = model_shape_names(); *n != NULL; n++)
        sbuf_printf(&list, "%s%s", list.n > 0 ? ", " : "", *n);
    const enum status st =
        err_fail(e, E_ARG, "\"%.64s\" is not a shape this program knows%s%s%s There are %s", shape,
                 near != NULL ? "; did you mean \"" : "", near != NULL ? near : "",
                 near != NULL ? "\"?" : ".", sbuf_str(&list));
    sbuf_fini(&list);
    return st;
}

enum status model_open_shape(struct model **out, const char *shape, int n_thread, struct err *e) {
    *out = NULL;
    for (size_t i = 0; i < COUNTOF(shapes); i++) {
        if (strcmp(shapes[i].name, shape) == 0)
            return model_open_made(out, shape, shapes[i].config, n_thread, e);
    }
    return unknown(shape, e);
}
