#include "core/model.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/sbuf.h"
#include "io/fmap.h"
#include "io/safetensors.h"

#include <stdio.h>
#include <string.h>

enum { CONFIG_MOST = 1 << 20 };

struct model {
    struct arch arch;
    struct st_files *files; /* owned */
    char identity[HASH_TEXT];
};

/* ---- binding names to tensors ---- */

static const struct arch_tensor *tensor_of_role(const struct arch *a, enum arch_role role) {
    for (int i = 0; i < a->family->n_tensor; i++) {
        if (a->family->tensors[i].role == role) return &a->family->tensors[i];
    }
    return NULL;
}

static bool per_layer(const struct arch_tensor *t) {
    return t->role >= ARCH_NORM_ATTN;
}

static void tensor_name(char *name, size_t cap, const char *pattern, int64_t layer) {
    const char *mark = strstr(pattern, "%d");
    if (mark == NULL) {
        snprintf(name, cap, "%s", pattern);
    } else {
        snprintf(name, cap, "%.*s%lld%s", (int)(mark - pattern), pattern, (long long)layer,
                 mark + 2);
    }
}

static enum status find_tensor(const struct st_tensor **out, const struct model *m,
                               const struct arch_tensor *t, int64_t layer, struct err *e) {
    char name[256];
    const struct st_tensor *s = NULL;
    if (t->also != NULL) {
        tensor_name(name, sizeof name, t->also, layer);
        s = st_get(m->files, name);
    }
    if (s == NULL) {
        tensor_name(name, sizeof name, t->name, layer);
        s = st_get(m->files, name);
    }
    *out = s;
    if (s == NULL) return err_fail(e, E_FORMAT, "tensor %s is missing", name);
    const int64_t n_out = arch_dim(&m->arch, t->n_out), n_in = arch_dim(&m->arch, t->n_in);
    const bool vector = t->use == WT_VECTOR;
    const bool ok = vector ? s->n_dim == 1 && s->dim[0] == n_out
                           : s->n_dim == 2 && s->dim[0] == n_out && s->dim[1] == n_in;
    if (!ok) {
        struct sbuf have;
        sbuf_init(&have);
        for (int i = 0; i < s->n_dim; i++)
            sbuf_printf(&have, "%s%lld", i ? ", " : "", (long long)s->dim[i]);
        const enum status st =
            vector ? err_fail(e, E_FORMAT, "tensor %s has shape [%s]; config.json asks for [%lld]",
                              name, sbuf_str(&have), (long long)n_out)
                   : err_fail(e, E_FORMAT,
                              "tensor %s has shape [%s]; config.json asks for [%lld, %lld]", name,
                              sbuf_str(&have), (long long)n_out, (long long)n_in);
        sbuf_fini(&have);
        return st;
    }
    if (s->dtype != DT_F32 && s->dtype != DT_F16 && s->dtype != DT_BF16) {
        return err_fail(e, E_UNSUPPORTED, "tensor %s is stored as %s; F32, F16 and BF16 are read",
                        name, s->dtype_text);
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

static bool tensor_known(const struct arch *a, const char *name) {
    for (int i = 0; i < a->family->n_tensor; i++) {
        const struct arch_tensor *t = &a->family->tensors[i];
        // A tied model may carry its head again; transformers does not read it either.
        if (!arch_has(a, t) && t->role != ARCH_HEAD) continue;
        if (per_layer(t)) {
            int64_t layer = match_layer(t->name, name);
            if (layer < 0) layer = match_layer(t->also, name);
            if (layer >= 0 && layer < a->n_layer) return true;
        } else if (strcmp(t->name, name) == 0) {
            return true;
        }
    }
    for (const char *const *tail = a->family->ignored_tensors; *tail != NULL; tail++) {
        if (ends_with(name, *tail)) return true;
    }
    return false;
}

static enum status check_tensors(const struct model *m, struct err *e) {
    enum status st = OK;
    const struct arch *a = &m->arch;
    const struct st_tensor *s = NULL;
    for (int i = 0; i < a->family->n_tensor; i++) {
        const struct arch_tensor *t = &a->family->tensors[i];
        const int64_t n = per_layer(t) ? a->n_layer : 1;
        for (int64_t l = 0; l < n && arch_has(a, t); l++) TRY(find_tensor(&s, m, t, l, e));
    }
    for (size_t i = 0; i < st_count(m->files); i++) {
        const char *name = st_at(m->files, i)->name;
        if (tensor_known(a, name)) continue;
        if (ends_with(name, ".sinks")) {
            FAIL(e, E_UNSUPPORTED,
                 "tensor %s: attention with learned sink logits is another model than this program "
                 "computes",
                 name);
        }
        FAIL(e, E_UNSUPPORTED, "tensor %s has no place in the %s family", name, a->family->name);
    }
done:
    return st;
}

/* ---- opening ---- */

static enum status identify(struct model *m, const char *config_path, struct err *e) {
    enum status st = OK;
    struct hash *h = NULL;
    struct fmap *config = NULL;
    char files[HASH_TEXT];
    TRY(hash_open(&h, e));
    TRY(fmap_open(&config, config_path, e));
    TRY(st_identity(m->files, files, e));
    hash_add(h, fmap_borrow_data(config), fmap_bytes(config));
    hash_add(h, files, strlen(files));
    hash_text(h, m->identity);
done:
    hash_close(h);
    fmap_close(config);
    return st;
}

enum status model_open(struct model **out, const char *dir, struct err *e) {
    enum status st = OK;
    struct model *m = NULL;
    struct json *config = NULL;
    struct sbuf path;
    sbuf_init(&path);
    *out = NULL;
    TRY(mem_zalloc(&m, 1, sizeof *m, e));
    sbuf_printf(&path, "%s/config.json", dir);
    TRY(sbuf_status(&path, e));
    TRY(json_open(&config, path.s, CONFIG_MOST, e));
    TRY(arch_read(&m->arch, config, e));
    TRY(st_open(&m->files, dir, e));
    st = check_tensors(m, e);
    if (st != OK) {
        err_prefix(e, "%s: ", dir);
        goto done;
    }
    TRY(identify(m, path.s, e));
    *out = m;
    m = NULL;
done:
    sbuf_fini(&path);
    json_close(config);
    model_close(m);
    return st;
}

void model_close(struct model *m) {
    if (m == NULL) return;
    st_close(m->files);
    mem_free(m);
}

const struct arch *model_arch(const struct model *m) {
    return &m->arch;
}

const char *model_identity(const struct model *m) {
    return m->identity;
}

enum dtype model_stored_dtype(const struct model *m) {
    const struct st_tensor *s = NULL;
    const enum status st = find_tensor(&s, m, tensor_of_role(&m->arch, ARCH_DOWN), 0, NULL);
    CHECK(st == OK); // model_open has seen it
    return s->dtype;
}

int64_t model_file_bytes(const struct model *m) {
    int64_t sum = 0;
    for (size_t i = 0; i < st_count(m->files); i++) sum += (int64_t)st_at(m->files, i)->bytes;
    return sum;
}

int64_t model_params(const struct model *m) {
    int64_t sum = 0;
    for (size_t i = 0; i < st_count(m->files); i++) {
        const struct st_tensor *s = st_at(m->files, i);
        sum += (int64_t)(s->bytes / dtype_bytes(s->dtype));
    }
    return sum;
}

enum status model_check_files(const struct model *m, struct err *e) {
    const char *path = NULL;
    if (!st_torn(m->files, &path)) return OK;
    return err_fail(e, E_IO,
                    "%s was cut short while it was in use; put the whole file back and run again",
                    path);
}

/* ---- on a device ---- */

static enum status bind(struct wt **out, const struct model_on *mo, enum arch_role role,
                        int64_t layer, enum wt_use use, struct err *e) {
    const struct arch_tensor *t = tensor_of_role(&mo->model->arch, role);
    *out = NULL;
    if (t == NULL || !arch_has(&mo->model->arch, t)) return OK;
    const struct st_tensor *s = NULL;
    const enum status st = find_tensor(&s, mo->model, t, layer, e);
    if (st != OK) return st;
    const int64_t n_out = s->dim[0], n_in = s->n_dim > 1 ? s->dim[1] : 1;
    const struct dev_weight_src src = {.name = s->name,
                                       .data = s->data,
                                       .dtype = s->dtype,
                                       .n_out = n_out,
                                       .n_in = n_in,
                                       .n_stored_rows = n_out,
                                       .block = n_out};
    return dev_weight_new(out, mo->dev, use, &src, e);
}

static enum status bind_all(struct model_on *mo, struct err *e) {
    enum status st = OK;
    const struct arch *a = &mo->model->arch;
    TRY(bind(&mo->top[ARCH_EMBED], mo, ARCH_EMBED, 0, WT_TABLE, e));
    TRY(bind(&mo->top[ARCH_NORM_OUT], mo, ARCH_NORM_OUT, 0, WT_VECTOR, e));
    TRY(bind(&mo->top[ARCH_HEAD], mo, a->tied ? ARCH_EMBED : ARCH_HEAD, 0, WT_MATRIX, e));
    for (int64_t l = 0; l < a->n_layer; l++) {
        for (int i = 0; i < a->family->n_tensor; i++) {
            const struct arch_tensor *t = &a->family->tensors[i];
            if (per_layer(t))
                TRY(bind(&mo->layer[l * ARCH_ROLE_COUNT + t->role], mo, t->role, l, t->use, e));
        }
    }
done:
    return st;
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
    TRY(mem_zalloc(&mo->classes, 1, sizeof(struct vis_class), e));
    TRY(mem_zalloc(&mo->rope_freq, (size_t)(a->d_head / 2), sizeof(double), e));
    // In this version's families every layer looks alike; per-layer windows fill more classes.
    mo->n_class = 1;
    mo->classes[0] =
        (struct vis_class){.window = a->family->window == WINDOW_DENSE ? a->window : 0};
    arch_rope_freqs(a, mo->rope_freq, &mo->rope_mscale);
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
    mem_free(mo->classes);
    mem_free(mo->rope_freq);
    mem_free(mo);
}

struct wt *const *model_layer(const struct model_on *mo, int64_t l) {
    return mo->layer + l * ARCH_ROLE_COUNT;
}

/* ---- for people ---- */

bool model_entry_at(const struct model *m, size_t i, struct model_entry *out) {
    const struct arch *a = &m->arch;
    if (i >= st_count(m->files)) return false;
    const struct st_tensor *s = st_at(m->files, i);
    *out = (struct model_entry){.name = s->name,
                                .dtype_text = s->dtype_text,
                                .bytes = (int64_t)s->bytes,
                                .layer = -1,
                                .ignored = "holds nothing that is computed with"};
    for (; out->n_dim < s->n_dim && out->n_dim < (int)COUNTOF(out->dim); out->n_dim++)
        out->dim[out->n_dim] = s->dim[out->n_dim];
    for (int k = 0; k < a->family->n_tensor; k++) {
        const struct arch_tensor *t = &a->family->tensors[k];
        int64_t layer = -1;
        if (per_layer(t)) {
            layer = match_layer(t->name, s->name);
            if (layer < 0) layer = match_layer(t->also, s->name);
            if (layer < 0) continue;
        } else if (strcmp(t->name, s->name) != 0) {
            continue;
        }
        if (arch_has(a, t)) {
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
