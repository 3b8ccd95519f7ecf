#include "tests/support_convert.h"

#include "core/model.h"
#include "io/safetensors.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void must(enum status st, const struct err *e) {
    if (st != OK) fail_msg("%s: %s", err_name(st), e->msg);
}

/* ---- metadata ---- */

/* What converters write of a family besides its sizes. A family that is not here comes as `llama`. */
struct writes {
    const char *family, *arch;
    bool n_kv, theta, n_rot, d_head, n_vocab, parallel;
};
static const struct writes writes[] = {
    {"llama", "llama", .n_kv = true, .theta = true, .n_rot = true, .d_head = true, .n_vocab = true},
    {"qwen2", "qwen2", .n_kv = true, .theta = true},
    {"qwen3", "qwen3", .n_kv = true, .theta = true, .d_head = true},
    {"gemma3", "gemma3", .n_kv = true, .theta = true, .d_head = true},
    {"phi3", "phi3", .n_kv = true, .theta = true, .n_rot = true},
    {"stablelm", "stablelm", .n_kv = true, .n_rot = true, .parallel = true},
    {"falcon", "falcon", .n_kv = true},
    {"gpt_neox", "gptneox", .n_rot = true, .parallel = true},
    {"mpt", "mpt", .n_kv = false},
    {"qwen", "qwen", .theta = true, .n_rot = true},
    {"gpt2", "gpt2", .n_kv = false},
};

static const struct writes *writes_of(const struct arch *a) {
    for (size_t i = 0; i < COUNTOF(writes); i++) {
        if (strcmp(writes[i].family, a->family->name) == 0) return &writes[i];
    }
    return &writes[0];
}

static const char *under(const char *arch, const char *key) {
    static char name[128];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    return name;
}

static void put_rope(struct gw *w, const struct arch *a, const struct writes *f) {
    static const char *const kinds[] = {"none", "linear", NULL, "yarn"};
    const struct arch_rope *r = &a->rope;
    if (f->n_rot) gw_u32(w, under(f->arch, "rope.dimension_count"), (uint32_t)a->n_rot);
    if (!f->theta) return;
    gw_f32(w, under(f->arch, "rope.freq_base"), (float)r->theta);
    if (kinds[r->kind] != NULL) gw_str(w, under(f->arch, "rope.scaling.type"), kinds[r->kind]);
    if (r->kind == ROPE_LINEAR || r->kind == ROPE_YARN)
        gw_f32(w, under(f->arch, "rope.scaling.factor"), (float)r->factor);
    const int64_t original = strcmp(f->arch, "phi3") == 0 ? a->n_ctx_train : r->n_ctx_original;
    if (original > 0)
        gw_u32(w, under(f->arch, "rope.scaling.original_context_length"), (uint32_t)original);
}

void support_put_metadata(struct gw *w, const struct arch *a, enum support_local local) {
    const struct writes *f = writes_of(a);
    gw_str(w, "general.architecture", f->arch);
    gw_u32(w, "general.quantization_version", 2);
    gw_u32(w, under(f->arch, "block_count"), (uint32_t)a->n_layer);
    gw_u32(w, under(f->arch, "context_length"), (uint32_t)a->n_ctx_train);
    gw_u32(w, under(f->arch, "embedding_length"), (uint32_t)a->d_model);
    // Qwen 1 counts both branches.
    const bool both = strcmp(f->arch, "qwen") == 0;
    gw_u32(w, under(f->arch, "feed_forward_length"), (uint32_t)(both ? 2 * a->d_ff : a->d_ff));
    gw_u32(w, under(f->arch, "attention.head_count"), (uint32_t)a->n_head);
    if (f->n_kv && a->n_layer > 1) { // either way of saying it
        uint32_t n_kv[16];
        for (int i = 0; i < a->n_layer; i++) n_kv[i] = (uint32_t)a->n_kv;
        gw_u32s(w, under(f->arch, "attention.head_count_kv"), n_kv, (size_t)a->n_layer);
    } else if (f->n_kv) {
        gw_u32(w, under(f->arch, "attention.head_count_kv"), (uint32_t)a->n_kv);
    }
    put_rope(w, a, f);
    const bool rms = a->family->norm == NORM_RMS;
    gw_f32(
        w,
        under(f->arch, rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon"),
        (float)a->norm_eps);
    if (f->n_vocab) gw_u32(w, under(f->arch, "vocab_size"), (uint32_t)a->n_vocab);
    if (f->d_head) gw_u32(w, under(f->arch, "attention.key_length"), (uint32_t)a->d_head);
    if (f->d_head) gw_u32(w, under(f->arch, "attention.value_length"), (uint32_t)a->d_head);
    // StableLM's converter writes its own default where config.json says nothing.
    if (f->parallel)
        gw_bool(w, under(f->arch, "use_parallel_residual"),
                a->parallel || strcmp(f->arch, "stablelm") == 0);
    if (a->qkv_clip > 0) gw_f32(w, under(f->arch, "attention.clamp_kqv"), (float)a->qkv_clip);
    if (a->positions == POS_ALIBI)
        gw_f32(w, under(f->arch, "attention.max_alibi_bias"), (float)a->alibi_max);
    if (strcmp(f->arch, "phi3") == 0 || strcmp(f->arch, "gemma3") == 0)
        gw_u32(w, under(f->arch, "attention.sliding_window"), (uint32_t)a->window);
    if (strcmp(f->arch, "falcon") == 0) gw_str(w, "falcon.tensor_data_layout", "jploski");
    if (strcmp(f->arch, "gemma3") != 0) return;
    uint32_t flags[16];
    int64_t every = 1;
    while (arch_is_local(a, every - 1)) every++;
    for (int i = 0; i < a->n_layer; i++) flags[i] = arch_is_local(a, i);
    gw_f32(w, "gemma3.rope.freq_base_swa", (float)a->rope_local.theta);
    if (local == LOCAL_NUMBER)
        gw_u32(w, "gemma3.attention.sliding_window_pattern", (uint32_t)every);
    if (local == LOCAL_FLAGS)
        gw_u32s(w, "gemma3.attention.sliding_window_pattern", flags, (size_t)a->n_layer);
}

/* ---- tensors ---- */

// llama3's scaling as a tensor: what each frequency is divided by.
static void put_rope_freqs(struct gw *w, const struct arch *a) {
    double scaled[64], mscale = 0;
    float by[64];
    const int64_t n = a->d_head / 2;
    arch_rope_freqs(a, &a->rope, scaled, &mscale);
    for (int k = 0; k < n; k++)
        by[k] = (float)(pow(a->rope.theta, -2.0 * k / (double)a->d_head) / scaled[k]);
    gw_tensor(w, "rope_freqs.weight", 1, &n, DT_F32, by, (size_t)n * sizeof *by);
}

int64_t support_paired_row(enum arch_role role, const struct arch *a, int64_t row) {
    const bool turns =
        role == ARCH_Q || role == ARCH_K || role == ARCH_Q_BIAS || role == ARCH_K_BIAS;
    const int64_t half = a->d_head / 2, i = row % a->d_head;
    return turns ? row - i + i % half * 2 + i / half : row;
}

/* Rows of q, k and v that stand head by head (a group of q, its k, its v), one after the other. */
static int64_t ungrouped_row(const struct arch *a, int64_t row) {
    const int64_t d = a->d_head, group = a->n_head / a->n_kv, block = (group + 2) * d;
    const int64_t g = row / block, i = row % block;
    if (i < group * d) return g * group * d + i;
    if (i < (group + 1) * d) return (a->n_head + g) * d + i - group * d;
    return (a->n_head + a->n_kv + g) * d + i - (group + 1) * d;
}

// The F32 tensor as [n_out, n_in], its rows and values as converters put them.
static void convert_rows(float *to, const float *from, const struct arch *a,
                         const struct arch_tensor *t, int64_t n_out, int64_t n_in) {
    const bool pairs = writes_of(a) == &writes[0];
    const bool norm = arch_use(t->role) == WT_VECTOR && strstr(t->name, "norm.weight") != NULL;
    for (int64_t r = 0; r < n_out; r++) {
        const int64_t at = t->part == PART_QKV_GROUPS ? ungrouped_row(a, r)
                           : pairs                    ? support_paired_row(t->role, a, r)
                                                      : r;
        for (int64_t c = 0; c < n_in; c++) {
            const float x = from[t->transposed ? c * n_out + r : r * n_in + c];
            to[at * n_in + c] = norm ? x + (float)a->norm_offset : x;
        }
    }
}

// Fused tensors stand in the table once for each of their roles.
static bool seen_before(const struct arch_family *f, const struct arch_tensor *t) {
    for (const struct arch_tensor *u = f->tensors; u < t; u++) {
        if (u->name != NULL && t->name != NULL && strcmp(u->name, t->name) == 0) return true;
    }
    return t->name == NULL;
}

static void convert_tensor(struct gw *w, const struct arch *a, const struct arch_tensor *t,
                           int64_t layer, const struct st_files *st) {
    char name[256];
    bool also = false;
    arch_tensor_name(name, sizeof name, t->name, layer);
    const struct st_tensor *s = st_get(st, name);
    if (s == NULL && t->also != NULL) {
        also = true;
        arch_tensor_name(name, sizeof name, t->also, layer);
        s = st_get(st, name);
    }
    assert_non_null(s);
    assert_int_equal(s->dtype, DT_F32);
    const int64_t n_out = t->transposed ? s->dim[1] : s->dim[0];
    const int64_t n_in = s->n_dim < 2 ? 1 : t->transposed ? s->dim[0] : s->dim[1];
    const int64_t dim[2] = {n_out, n_in};
    float *data = malloc(s->bytes), *from = malloc(s->bytes);
    assert_non_null(data);
    assert_non_null(from);
    memcpy(from, s->data, s->bytes);
    convert_rows(data, from, a, t, n_out, n_in);
    arch_tensor_name(name, sizeof name, also && t->gguf_also != NULL ? t->gguf_also : t->gguf,
                     layer);
    gw_tensor(w, name, s->n_dim, dim, DT_F32, data, s->bytes);
    free(from);
    free(data);
}

void support_convert(const char *dir, const char *path, enum support_local local) {
    struct err e = {0};
    struct model *m = NULL;
    struct st_files *st = NULL;
    struct gw w;
    must(model_open(&m, dir, &e), &e);
    must(st_open(&st, dir, &e), &e);
    const struct arch *a = model_arch(m);
    gw_init(&w);
    support_put_metadata(&w, a, local);
    if (a->rope.kind == ROPE_LLAMA3) put_rope_freqs(&w, a);
    for (int i = 0; i < a->family->n_tensor; i++) {
        const struct arch_tensor *t = &a->family->tensors[i];
        if (!arch_has(a, t) || seen_before(a->family, t)) continue;
        for (int64_t l = 0; l < (arch_per_layer(t) ? a->n_layer : 1); l++)
            convert_tensor(&w, a, t, l, st);
    }
    gw_save(&w, path);
    gw_fini(&w);
    st_close(st);
    model_close(m);
}
