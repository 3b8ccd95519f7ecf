#include "core/model.h"

#include "base/mem.h"
#include "base/sbuf.h"
#include "core/model_files.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct model {
    struct arch arch;
    struct model_files *files; /* owned */
};

/* ---- binding names to tensors ---- */

static enum status wrong_shape(const struct model *m, const struct model_tensor *s,
                               const int64_t dim[2], bool vector, struct err *e) {
    struct sbuf have, want;
    sbuf_init(&have);
    sbuf_init(&want);
    for (int i = 0; i < s->n_dim; i++)
        sbuf_printf(&have, "%s%lld", i ? ", " : "", (long long)s->dim[i]);
    sbuf_printf(&want, "%lld", (long long)dim[0]);
    if (!vector) sbuf_printf(&want, ", %lld", (long long)dim[1]);
    const enum status st =
        err_fail(e, E_FORMAT, "tensor %s has shape [%s]; %s asks for [%s]", s->name,
                 sbuf_str(&have), model_files_config(m->files), sbuf_str(&want));
    sbuf_fini(&have);
    sbuf_fini(&want);
    return st;
}

static enum status find_tensor(const struct model_tensor **out, const struct model *m,
                               const struct arch_tensor *t, int64_t layer, struct err *e) {
    char name[256];
    const char *also = model_files_also(m->files, t);
    const struct model_tensor *s = NULL;
    if (also != NULL) {
        arch_tensor_name(name, sizeof name, also, layer);
        s = model_files_get(m->files, name);
    }
    if (s == NULL) {
        arch_tensor_name(name, sizeof name, model_files_name(m->files, t), layer);
        s = model_files_get(m->files, name);
    }
    *out = s;
    if (s == NULL) return err_fail(e, E_FORMAT, "tensor %s is missing", name);
    const struct arch_place p = arch_place(&m->arch, t->role, model_files_part(m->files, t));
    const bool transposed = model_files_transposed(m->files, t);
    const int64_t dim[2] = {transposed ? p.n_in : p.n_stored_rows,
                            transposed ? p.n_stored_rows : p.n_in};
    const bool vector = arch_use(t->role) == WT_VECTOR;
    const bool ok = vector ? s->n_dim == 1 && s->dim[0] == dim[0]
                           : s->n_dim == 2 && s->dim[0] == dim[0] && s->dim[1] == dim[1];
    if (!ok) return wrong_shape(m, s, dim, vector, e);
    if (!dtype_is_weight(s->dtype)) {
        return err_fail(e, E_UNSUPPORTED, "tensor %s is stored as %s, which is not computed with",
                        name, s->dtype_text);
    }
    if (vector && dtype_block(s->dtype) > 1) {
        return err_fail(e, E_UNSUPPORTED, "tensor %s is a vector stored as %s", name,
                        s->dtype_text);
    }
    if (transposed && dtype_block(s->dtype) > 1) {
        return err_fail(e, E_UNSUPPORTED, "tensor %s is transposed and stored as %s", name,
                        s->dtype_text);
    }
    return OK;
}

// Layer number in `name` when it fits the per-layer pattern, else -1.
static int64_t match_layer(const char *pattern, const char *name) {
    if (pattern == NULL) return -1;
    const char *mark = strstr(pattern, "%d");
    const size_t head = (size_t)(mark - pattern);
    if (strncmp(name, pattern, head) != 0) return -1;
    int64_t layer = 0;
    const char *p = name + head;
    if (*p < '0' || *p > '9' || (p[0] == '0' && p[1] >= '0' && p[1] <= '9')) return -1;
    for (; *p >= '0' && *p <= '9' && layer < 1000000; p++) layer = layer * 10 + (*p - '0');
    return strcmp(p, mark + 2) == 0 ? layer : -1;
}

static bool ends_with(const char *s, const char *tail) {
    const size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

// Whether `name` is one that t has; then *layer is the layer it names, -1 for none.
static bool is_name_of(const struct model *m, const struct arch_tensor *t, const char *name,
                       int64_t *layer) {
    const char *its = model_files_name(m->files, t), *also = model_files_also(m->files, t);
    *layer = -1;
    if (!arch_per_layer(t)) {
        return (its != NULL && strcmp(its, name) == 0) || (also != NULL && strcmp(also, name) == 0);
    }
    *layer = match_layer(its, name);
    if (*layer < 0) *layer = match_layer(also, name);
    return *layer >= 0 && *layer < m->arch.n_layer;
}

static bool tensor_known(const struct model *m, const char *name) {
    const struct arch *a = &m->arch;
    int64_t layer = -1;
    for (int i = 0; i < a->family->n_tensor; i++) {
        const struct arch_tensor *t = &a->family->tensors[i];
        // A tied model may carry its head again; transformers does not read it either.
        if (!arch_has(a, t) && t->role != ARCH_HEAD) continue;
        if (is_name_of(m, t, name, &layer)) return true;
    }
    const char *const *tail = a->family->ignored_tensors;
    for (; tail != NULL && *tail != NULL; tail++) {
        if (ends_with(name, *tail)) return true;
    }
    return false;
}

static enum status check_tensors(const struct model *m, struct err *e) {
    enum status st = OK;
    const struct arch *a = &m->arch;
    const struct model_tensor *s = NULL;
    for (int i = 0; i < a->family->n_tensor; i++) {
        const struct arch_tensor *t = &a->family->tensors[i];
        const int64_t n = arch_per_layer(t) ? a->n_layer : 1;
        for (int64_t l = 0; l < n && arch_has(a, t); l++) TRY(find_tensor(&s, m, t, l, e));
    }
    for (size_t i = 0; i < model_files_count(m->files); i++) {
        const char *name = model_files_at(m->files, i)->name;
        if (tensor_known(m, name)) continue;
        if (ends_with(name, ".sinks")) {
            FAIL(e, E_UNSUPPORTED,
                 "tensor %s: attention with learned sink logits is another model than this program "
                 "computes",
                 name);
        }
        if (strncmp(name, "rope_factors_", strlen("rope_factors_")) == 0) {
            FAIL(e, E_UNSUPPORTED, "tensor %s: longrope is not supported", name);
        }
        FAIL(e, E_UNSUPPORTED, "tensor %s has no place in the %s family", name, a->family->name);
    }
done:
    return st;
}

/* ---- opening ---- */

// From files, or made by `config` where that is not NULL.
static enum status open_from(struct model **out, const char *path, const char *config, int n_thread,
                             struct err *e) {
    enum status st = OK;
    struct model *m = NULL;
    *out = NULL;
    TRY(mem_zalloc(&m, 1, sizeof *m, e));
    TRY(config != NULL ? model_files_make(&m->files, &m->arch, path, config, n_thread, e)
                       : model_files_open(&m->files, &m->arch, path, e));
    st = check_tensors(m, e);
    if (st != OK) {
        err_prefix(e, "%s: ", path);
        goto done;
    }
    *out = m;
    m = NULL;
done:
    model_close(m);
    return st;
}

enum status model_open(struct model **out, const char *path, struct err *e) {
    return open_from(out, path, NULL, 0, e);
}

enum status model_open_made(struct model **out, const char *label, const char *config, int n_thread,
                            struct err *e) {
    return open_from(out, label, config, n_thread, e);
}

void model_close(struct model *m) {
    if (m == NULL) return;
    model_files_close(m->files);
    mem_free(m);
}

const struct arch *model_arch(const struct model *m) {
    return &m->arch;
}

const char *model_identity(const struct model *m) {
    return model_files_identity(m->files);
}

enum dtype model_stored_dtype(const struct model *m) {
    const struct model_tensor *s = NULL;
    const enum status st = find_tensor(&s, m, arch_tensor_of(m->arch.family, ARCH_DOWN), 0, NULL);
    CHECK(st == OK); // model_open has seen it
    return s->dtype;
}

int64_t model_file_bytes(const struct model *m) {
    int64_t sum = 0;
    for (size_t i = 0; i < model_files_count(m->files); i++)
        sum += (int64_t)model_files_at(m->files, i)->bytes;
    return sum;
}

int64_t model_params(const struct model *m) {
    int64_t sum = 0;
    for (size_t i = 0; i < model_files_count(m->files); i++) {
        const struct model_tensor *s = model_files_at(m->files, i);
        if (s->dtype == DT_COUNT) continue;
        sum += (int64_t)(s->bytes / dtype_bytes(s->dtype)) * dtype_block(s->dtype);
    }
    return sum;
}

enum status model_check_files(const struct model *m, struct err *e) {
    const char *path = NULL;
    if (!model_files_torn(m->files, &path)) return OK;
    return err_fail(e, E_IO,
                    "%s was cut short while it was in use; put the whole file back and run again",
                    path);
}

/* ---- on a device ---- */

static enum status bind(struct wt **out, const struct model_on *mo, enum arch_role role,
                        int64_t layer, enum wt_use use, struct err *e) {
    const struct arch *a = &mo->model->arch;
    const struct arch_tensor *t = arch_tensor_of(a->family, role);
    *out = NULL;
    if (t == NULL || !arch_has(a, t)) return OK;
    const struct model_tensor *s = NULL;
    const enum status st = find_tensor(&s, mo->model, t, layer, e);
    if (st != OK) return st;
    const struct model_files *f = mo->model->files;
    const struct arch_place p = arch_place(a, role, model_files_part(f, t));
    const struct dev_weight_src src = {.name = s->name,
                                       .data = s->data,
                                       .dtype = s->dtype,
                                       .n_out = p.n_out,
                                       .n_in = p.n_in,
                                       .n_stored_rows = p.n_stored_rows,
                                       .first = p.first,
                                       .block = p.block,
                                       .stride = p.stride,
                                       .transposed = model_files_transposed(f, t),
                                       .made = s->made,
                                       .made_shift = s->made_shift};
    return dev_weight_new(out, mo->dev, use, &src, e);
}

// Slopes are in no file: a weight made here, in double for the devices that compute in it.
static enum status make_slopes(struct model_on *mo, struct err *e) {
    enum status st = OK;
    const struct arch *a = &mo->model->arch;
    if (a->positions != POS_ALIBI) return OK;
    TRY(mem_zalloc(&mo->slopes, (size_t)a->n_head, sizeof(double), e));
    arch_slopes(a, mo->slopes);
    const struct dev_weight_src src = {.name = "ALiBi slopes",
                                       .data = mo->slopes,
                                       .dtype = DT_F64,
                                       .n_out = a->n_head,
                                       .n_in = 1,
                                       .n_stored_rows = a->n_head,
                                       .block = a->n_head};
    TRY(dev_weight_new(&mo->top[ARCH_SLOPES], mo->dev, WT_VECTOR, &src, e));
done:
    return st;
}

static enum status bind_all(struct model_on *mo, struct err *e) {
    enum status st = OK;
    const struct arch *a = &mo->model->arch;
    for (int i = 0; i < a->family->n_tensor; i++) {
        const struct arch_tensor *t = &a->family->tensors[i];
        if (t->role == ARCH_ROPE_FREQS) continue; // read by rope_freqs
        const int64_t n = arch_per_layer(t) ? a->n_layer : 1;
        for (int64_t l = 0; l < n; l++) {
            struct wt **at =
                arch_per_layer(t) ? &mo->layer[l * ARCH_ROLE_COUNT + t->role] : &mo->top[t->role];
            TRY(bind(at, mo, t->role, l, arch_use(t->role), e));
        }
    }
    if (a->tied) TRY(bind(&mo->top[ARCH_HEAD], mo, ARCH_EMBED, 0, WT_MATRIX, e));
    TRY(make_slopes(mo, e));
done:
    return st;
}

/* ---- positions ---- */

// Divides by the factors that some GGUF files carry as a tensor.
static enum status divide_freqs(const struct model_on *mo, double *freq, struct err *e) {
    const struct arch *a = &mo->model->arch;
    const struct model_tensor *s = NULL;
    const enum status st =
        find_tensor(&s, mo->model, arch_tensor_of(a->family, ARCH_ROPE_FREQS), 0, e);
    if (st != OK) return st;
    if (s->dtype != DT_F32) {
        return err_fail(e, E_UNSUPPORTED, "tensor %s is stored as %s; F32 is read", s->name,
                        s->dtype_text);
    }
    for (int64_t k = 0; k < a->n_rot / 2; k++) {
        float by = 0;
        memcpy(&by, s->data + (size_t)k * sizeof by, sizeof by);
        if (!(by > 0 && isfinite(by))) {
            return err_fail(e, E_FORMAT, "tensor %s: element %lld is not a positive number",
                            s->name, (long long)k);
        }
        freq[k] /= (double)by;
    }
    return OK;
}

static enum status rope_freqs(struct model_on *mo, struct err *e) {
    enum status st = OK;
    const struct arch *a = &mo->model->arch;
    const struct arch_rope *const settings[2] = {&a->rope, &a->rope_local};
    for (int c = 0; a->n_rot > 0 && c < mo->n_class; c++) {
        struct model_rope *r = &mo->rope[c];
        TRY(mem_zalloc(&r->freq, (size_t)(a->n_rot / 2), sizeof(double), e));
        arch_rope_freqs(a, settings[c], r->freq, &r->mscale);
        if (c == 0 && a->rope.kind == ROPE_LONG) {
            TRY(mem_zalloc(&r->past, (size_t)(a->n_rot / 2), sizeof(double), e));
            arch_rope_freqs_past(a, r->past);
        }
        if (a->rope_freqs && c == 0) TRY(divide_freqs(mo, r->freq, e));
    }
done:
    return st;
}

// Class 0: layers that follow the setting's S and W. Class 1: local layers.
static void classify(struct model_on *mo) {
    const struct arch *a = &mo->model->arch;
    const bool locals = a->family->window == WINDOW_LOCAL;
    mo->n_class = locals ? 2 : 1;
    mo->classes[0] =
        (struct vis_class){.window = a->family->window == WINDOW_DENSE ? a->window : 0};
    mo->classes[1] = (struct vis_class){.window = a->window, .always = true};
    for (int64_t l = 0; l < a->n_layer; l++) {
        mo->class_of_layer[l] = locals && arch_is_local(a, l) ? 1 : 0;
    }
}

enum status model_on_open(struct model_on **out, const struct model *m, struct dev *d,
                          struct err *e) {
    enum status st = OK;
    struct model_on *mo = NULL;
    const struct arch *a = &m->arch;
    *out = NULL;
    TRY(mem_zalloc(&mo, 1, sizeof *mo, e));
    mo->model = m;
    mo->dev = d;
    TRY(mem_zalloc(&mo->layer, (size_t)a->n_layer * ARCH_ROLE_COUNT, sizeof(struct wt *), e));
    TRY(mem_zalloc(&mo->class_of_layer, (size_t)a->n_layer, sizeof(int), e));
    classify(mo);
    TRY(rope_freqs(mo, e));
    TRY(bind_all(mo, e));
    *out = mo;
    mo = NULL;
done:
    model_on_close(mo);
    return st;
}

void model_on_close(struct model_on *mo) {
    if (mo == NULL) return;
    const int64_t n = mo->layer != NULL ? mo->model->arch.n_layer * ARCH_ROLE_COUNT : 0;
    for (int64_t i = 0; i < n; i++) dev_weight_free(mo->layer[i]);
    for (int i = 0; i < ARCH_ROLE_COUNT; i++) dev_weight_free(mo->top[i]);
    mem_free(mo->layer);
    mem_free(mo->class_of_layer);
    for (int c = 0; c < MODEL_MAX_CLASS; c++) {
        mem_free(mo->rope[c].freq);
        mem_free(mo->rope[c].past);
    }
    mem_free(mo->slopes);
    mem_free(mo);
}

struct wt *const *model_layer(const struct model_on *mo, int64_t l) {
    return mo->layer + l * ARCH_ROLE_COUNT;
}

/* ---- for people ---- */

bool model_entry_at(const struct model *m, size_t i, struct model_entry *out) {
    const struct arch *a = &m->arch;
    if (i >= model_files_count(m->files)) return false;
    const struct model_tensor *s = model_files_at(m->files, i);
    *out = (struct model_entry){.name = s->name,
                                .dtype_text = s->dtype_text,
                                .n_dim = s->n_dim,
                                .bytes = (int64_t)s->bytes,
                                .layer = -1,
                                .ignored = "holds nothing that is computed with"};
    _Static_assert(COUNTOF(out->dim) == MODEL_MAX_DIM, "as the files have it");
    memcpy(out->dim, s->dim, sizeof out->dim);
    for (int k = 0; k < a->family->n_tensor; k++) {
        const struct arch_tensor *t = &a->family->tensors[k];
        const struct model_tensor *its = NULL;
        int64_t layer = -1;
        if (!is_name_of(m, t, s->name, &layer)) continue;
        if (arch_has(a, t)) {
            if (find_tensor(&its, m, t, layer, NULL) != OK || its != s)
                continue; // the other name's
            out->use = t;
            out->layer = layer;
            out->ignored = NULL;
        } else {
            out->ignored = "the head is tied to the embedding";
        }
        break;
    }
    return true;
}
