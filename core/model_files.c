#include "core/model_files.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/sbuf.h"
#include "io/fmap.h"
#include "io/safetensors.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CONFIG_MOST = 1 << 20 };

struct model_files {
    struct st_files *st;     /* owned; one of the two is there */
    struct gguf_files *gguf; /* owned */
    struct model_made made;  /* owned; empty when there are files */
    struct model_tensor
        *tensors; /* owned, but for made ones [n_tensors], in bytewise order of names */
    size_t n_tensors;
    char identity[HASH_TEXT];
};

/* ---- a Hugging Face directory ---- */

static enum status identify_hf(struct model_files *f, const char *config_path, struct err *e) {
    enum status st = OK;
    struct hash *h = NULL;
    struct fmap *config = NULL;
    char files[HASH_TEXT];
    TRY(hash_open(&h, e));
    TRY(fmap_open(&config, config_path, e));
    TRY(st_identity(f->st, files, e));
    hash_add(h, fmap_borrow_data(config), fmap_bytes(config));
    hash_add(h, files, strlen(files));
    hash_text(h, f->identity);
done:
    hash_close(h);
    fmap_close(config);
    return st;
}

static enum status open_hf(struct model_files *f, struct arch *a, const char *dir, struct err *e) {
    enum status st = OK;
    struct json *config = NULL;
    struct sbuf path;
    sbuf_init(&path);
    sbuf_printf(&path, "%s/config.json", dir);
    TRY(sbuf_status(&path, e));
    TRY(json_open(&config, path.s, CONFIG_MOST, e));
    TRY(arch_read(a, config, e));
    TRY(st_open(&f->st, dir, e));
    TRY(identify_hf(f, path.s, e));
    f->n_tensors = st_count(f->st);
    TRY(mem_zalloc(&f->tensors, f->n_tensors, sizeof *f->tensors, e));
    for (size_t i = 0; i < f->n_tensors; i++) {
        const struct st_tensor *s = st_at(f->st, i);
        f->tensors[i] = (struct model_tensor){.name = s->name,
                                              .dtype = s->dtype,
                                              .dtype_text = s->dtype_text,
                                              .n_dim = s->n_dim,
                                              .data = s->data,
                                              .bytes = s->bytes};
        memcpy(f->tensors[i].dim, s->dim, sizeof s->dim);
    }
done:
    sbuf_fini(&path);
    json_close(config);
    return st;
}

/* ---- a GGUF file ---- */

static enum status open_gguf(struct model_files *f, struct arch *a, const char *path,
                             struct err *e) {
    enum status st = OK;
    TRY(gguf_open(&f->gguf, path, e));
    TRY(arch_read_gguf(a, f->gguf, e));
    TRY(gguf_identity(f->gguf, f->identity, e));
    f->n_tensors = gguf_count(f->gguf);
    TRY(mem_zalloc(&f->tensors, f->n_tensors, sizeof *f->tensors, e));
    for (size_t i = 0; i < f->n_tensors; i++) {
        const struct gguf_tensor *s = gguf_at(f->gguf, i);
        f->tensors[i] = (struct model_tensor){.name = s->name,
                                              .dtype = s->dtype,
                                              .dtype_text = s->dtype_text,
                                              .n_dim = s->n_dim,
                                              .data = s->data,
                                              .bytes = s->bytes};
        memcpy(f->tensors[i].dim, s->dim, sizeof s->dim);
    }
done:
    return st;
}

/* ---- no file ---- */

enum status model_files_make(struct model_files **out, struct arch *a, const char *label,
                             const char *config, int n_thread, struct err *e) {
    enum status st = OK;
    struct model_files *f = NULL;
    struct json *j = NULL;
    *out = NULL;
    TRY(mem_zalloc(&f, 1, sizeof *f, e));
    TRY(json_open_text(&j, label, config, strlen(config), e));
    TRY(arch_read(a, j, e));
    TRY(model_made_open(&f->made, a, n_thread, e));
    f->tensors = f->made.tensors;
    f->n_tensors = f->made.n;
    hash_once(config, strlen(config), f->identity);
    *out = f;
    f = NULL;
done:
    json_close(j);
    model_files_close(f);
    return st;
}

/* ---- any of them ---- */

static bool exists(const char *dir, const char *name) {
    struct sbuf path;
    sbuf_init(&path);
    sbuf_printf(&path, "%s/%s", dir, name);
    const bool there = access(sbuf_str(&path), F_OK) == 0;
    sbuf_fini(&path);
    return there;
}

enum status model_files_open(struct model_files **out, struct arch *a, const char *path,
                             struct err *e) {
    enum status st = OK;
    struct model_files *f = NULL;
    struct stat sb;
    struct sbuf gguf;
    sbuf_init(&gguf);
    *out = NULL;
    TRY(mem_zalloc(&f, 1, sizeof *f, e));
    if (stat(path, &sb) == 0 && !S_ISDIR(sb.st_mode)) {
        sbuf_puts(&gguf, path);
    } else if (!exists(path, "model.safetensors") &&
               !exists(path, "model.safetensors.index.json")) {
        TRY(gguf_find(&gguf, path, e));
    }
    TRY(sbuf_status(&gguf, e));
    TRY(gguf.n > 0 ? open_gguf(f, a, gguf.s, e) : open_hf(f, a, path, e));
    *out = f;
    f = NULL;
done:
    sbuf_fini(&gguf);
    model_files_close(f);
    return st;
}

void model_files_close(struct model_files *f) {
    if (f == NULL) return;
    st_close(f->st);
    gguf_close(f->gguf);
    if (f->made.tensors == NULL) mem_free(f->tensors);
    model_made_free(&f->made);
    mem_free(f);
}

size_t model_files_count(const struct model_files *f) {
    return f->n_tensors;
}

const struct model_tensor *model_files_at(const struct model_files *f, size_t i) {
    return &f->tensors[i];
}

const struct model_tensor *model_files_get(const struct model_files *f, const char *name) {
    size_t lo = 0, hi = f->n_tensors;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const int order = strcmp(f->tensors[mid].name, name);
        if (order == 0) return &f->tensors[mid];
        if (order < 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return NULL;
}

const char *model_files_name(const struct model_files *f, const struct arch_tensor *t) {
    return f->gguf != NULL ? t->gguf : t->name;
}

const char *model_files_also(const struct model_files *f, const struct arch_tensor *t) {
    return f->gguf != NULL ? t->gguf_also : t->also;
}

enum arch_part model_files_part(const struct model_files *f, const struct arch_tensor *t) {
    return f->gguf != NULL && t->part == PART_QKV_GROUPS ? PART_QKV : t->part;
}

bool model_files_transposed(const struct model_files *f, const struct arch_tensor *t) {
    return f->gguf == NULL && t->transposed;
}

const char *model_files_config(const struct model_files *f) {
    return f->gguf != NULL ? "the metadata" : "config.json";
}

bool model_files_torn(const struct model_files *f, const char **path) {
    if (f->gguf != NULL) return gguf_torn(f->gguf, path);
    return f->st != NULL && st_torn(f->st, path);
}

const char *model_files_identity(const struct model_files *f) {
    return f->identity;
}
