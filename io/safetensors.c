#include "io/safetensors_impl.h"

#include "base/mem.h"
#include "base/sbuf.h"
#include "io/fmap.h"
#include "io/json.h"
#include "io/sample_impl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_INDEX_BYTES = 100000000 };

/* ---- several files ---- */

static int by_name(const void *a, const void *b) {
    const struct st_tensor *x = a, *y = b;
    const int order = strcmp(x->name, y->name);
    return order != 0 ? order : x->file - y->file;
}

static enum status sort_tensors(struct st_files *f, struct err *e) {
    if (f->n_tensors > 0) qsort(f->tensors, f->n_tensors, sizeof *f->tensors, by_name);
    for (size_t i = 1; i < f->n_tensors; i++) {
        const struct st_tensor *a = &f->tensors[i - 1], *b = &f->tensors[i];
        if (strcmp(a->name, b->name) != 0) continue;
        return err_fail(e, E_FORMAT, "%s: tensor \"%s\" is in %s too", f->files[b->file].path,
                        b->name, f->files[a->file].path);
    }
    return OK;
}

static enum status check_shard_name(const struct jnode *v, const char *tensor,
                                    const char *index_path, struct err *e) {
    size_t n = 0;
    if (json_kind_of(v) != JSON_STR) {
        return err_fail(e, E_FORMAT, "%s: tensor \"%s\": its file is not a string", index_path,
                        tensor);
    }
    const char *s = json_str(v, &n);
    const bool plain = n > 0 && memchr(s, '/', n) == NULL && memchr(s, '\0', n) == NULL &&
                       strcmp(s, ".") != 0 && strcmp(s, "..") != 0;
    if (!plain) {
        return err_fail(e, E_FORMAT,
                        "%s: tensor \"%s\": \"%.100s\" is not the plain name of a file", index_path,
                        tensor, s);
    }
    return OK;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

// The distinct files of the weight map, sorted, borrowed from it.
static enum status list_shards(const char ***out, size_t *n_out, const struct jnode *map,
                               const char *index_path, struct err *e) {
    enum status st = OK;
    const char **names = NULL;
    size_t n = 0, kept = 0;
    TRY(mem_zalloc(&names, json_len(map), sizeof *names, e));
    for (struct json_iter it = json_iter(map); it.key != NULL; json_next(&it)) {
        TRY(check_shard_name(it.value, it.key, index_path, e));
        names[n++] = json_str(it.value, NULL);
    }
    if (n == 0) FAIL(e, E_FORMAT, "%s: weight_map is empty", index_path);
    qsort(names, n, sizeof *names, by_text);
    for (size_t i = 0; i < n; i++) {
        if (kept == 0 || strcmp(names[kept - 1], names[i]) != 0) names[kept++] = names[i];
    }
    *out = names;
    *n_out = kept;
    names = NULL;
done:
    mem_free(names);
    return st;
}

// Index and shards must name the same tensors in the same files.
static enum status check_map(const struct st_files *f, const struct jnode *map,
                             const char *const *shards, const char *index_path, struct err *e) {
    for (struct json_iter it = json_iter(map); it.key != NULL; json_next(&it)) {
        const struct st_tensor *t = st_get(f, it.key);
        const char *shard = json_str(it.value, NULL);
        if (t == NULL || strcmp(shards[t->file], shard) != 0) {
            return err_fail(e, E_FORMAT, "%s: tensor \"%s\" is not in %s", index_path, it.key,
                            shard);
        }
    }
    for (size_t i = 0; i < f->n_tensors; i++) {
        const struct st_tensor *t = &f->tensors[i];
        if (json_get(map, t->name) != NULL) continue;
        return err_fail(e, E_FORMAT, "%s: tensor \"%s\" of %s is not in the index", index_path,
                        t->name, shards[t->file]);
    }
    return OK;
}

static enum status open_shards(struct st_files *f, const char *dir, const char *index_path,
                               struct err *e) {
    enum status st = OK;
    struct json *index = NULL;
    const char **shards = NULL; /* owned; the names are the index's */
    size_t n = 0;
    struct sbuf path;
    sbuf_init(&path);
    TRY(json_open(&index, index_path, MAX_INDEX_BYTES, e));
    const struct jnode *root = json_root(index);
    const struct jnode *map = json_kind_of(root) == JSON_OBJ ? json_get(root, "weight_map") : NULL;
    if (map == NULL || json_kind_of(map) != JSON_OBJ) {
        FAIL(e, E_FORMAT, "%s: weight_map is missing or not an object", index_path);
    }
    TRY(list_shards(&shards, &n, map, index_path, e));
    TRY(mem_zalloc(&f->files, n, sizeof *f->files, e));
    f->n_files = n;
    for (size_t i = 0; i < n; i++) {
        sbuf_clear(&path);
        sbuf_printf(&path, "%s/%s", dir, shards[i]);
        TRY(sbuf_status(&path, e));
        TRY(st_read_file(f, i, sbuf_str(&path), e));
    }
    TRY(sort_tensors(f, e));
    TRY(check_map(f, map, shards, index_path, e));
done:
    sbuf_fini(&path);
    mem_free(shards);
    json_close(index);
    return st;
}

static enum status open_single(struct st_files *f, const char *path, struct err *e) {
    enum status st = OK;
    TRY(mem_zalloc(&f->files, 1, sizeof *f->files, e));
    f->n_files = 1;
    TRY(st_read_file(f, 0, path, e));
    TRY(sort_tensors(f, e));
done:
    return st;
}

enum status st_open(struct st_files **out, const char *model, struct err *e) {
    enum status st = OK;
    struct st_files *f = NULL;
    struct stat sb;
    struct sbuf path;
    sbuf_init(&path);
    *out = NULL;
    TRY(mem_zalloc(&f, 1, sizeof *f, e));
    TRY(mem_dup(&f->label, model, strlen(model), e));
    if (stat(model, &sb) == 0 && S_ISDIR(sb.st_mode)) {
        sbuf_printf(&path, "%s/model.safetensors.index.json", model);
        TRY(sbuf_status(&path, e));
        if (access(sbuf_str(&path), F_OK) == 0) {
            TRY(open_shards(f, model, sbuf_str(&path), e));
        } else {
            sbuf_clear(&path);
            sbuf_printf(&path, "%s/model.safetensors", model);
            TRY(sbuf_status(&path, e));
            if (access(sbuf_str(&path), F_OK) != 0) {
                FAIL(e, E_NOINPUT, "%s: has no model.safetensors and no index of shards", model);
            }
            TRY(open_single(f, sbuf_str(&path), e));
        }
    } else {
        TRY(open_single(f, model, e));
    }
    *out = f;
    f = NULL;
done:
    sbuf_fini(&path);
    st_close(f);
    return st;
}

void st_close(struct st_files *f) {
    if (f == NULL) return;
    for (size_t i = 0; i < f->n_files; i++) {
        json_close(f->files[i].doc);
        fmap_close(f->files[i].map);
    }
    mem_free(f->files);
    mem_free(f->tensors);
    mem_free(f->label);
    mem_free(f);
}

/* ---- questions ---- */

size_t st_count(const struct st_files *f) {
    return f->n_tensors;
}

const struct st_tensor *st_at(const struct st_files *f, size_t i) {
    return i < f->n_tensors ? &f->tensors[i] : NULL;
}

const struct st_tensor *st_get(const struct st_files *f, const char *name) {
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

enum status st_need(const struct st_tensor **out, const struct st_files *f, const char *name,
                    struct err *e) {
    *out = st_get(f, name);
    if (*out == NULL) return err_fail(e, E_FORMAT, "%s: tensor \"%s\" is missing", f->label, name);
    if ((*out)->dtype == DT_COUNT) {
        const char *text = (*out)->dtype_text;
        *out = NULL;
        return err_fail(e, E_UNSUPPORTED, "%s: tensor \"%s\": dtype %s is not computed with",
                        f->label, name, text);
    }
    return OK;
}

size_t st_file_count(const struct st_files *f) {
    return f->n_files;
}

const char *st_borrow_file_path(const struct st_files *f, size_t i) {
    return f->files[i].path;
}

size_t st_file_bytes(const struct st_files *f, size_t i) {
    return fmap_bytes(f->files[i].map);
}

bool st_torn(const struct st_files *f, const char **path) {
    for (size_t i = 0; i < f->n_files; i++) {
        if (!fmap_torn(f->files[i].map)) continue;
        if (path != NULL) *path = f->files[i].path;
        return true;
    }
    return false;
}

/* ---- hashes ---- */

static enum status check_torn(const struct st_files *f, struct err *e) {
    const char *path = NULL;
    return st_torn(f, &path) ? err_fail(e, E_IO, "%s: cut short while it was read", path) : OK;
}

enum status st_identity(const struct st_files *f, char text[HASH_TEXT], struct err *e) {
    enum status st = OK;
    struct hash *h = NULL;
    TRY(hash_open(&h, e));
    for (size_t i = 0; i < f->n_files; i++) {
        const struct st_file *file = &f->files[i];
        sample_add_size(h, fmap_bytes(file->map));
        hash_add(h, fmap_borrow_data(file->map), ST_PREFIX_BYTES + file->header_bytes);
    }
    for (size_t i = 0; i < f->n_tensors; i++) {
        sample_add(h, f->tensors[i].data, f->tensors[i].bytes);
    }
    TRY(check_torn(f, e));
    hash_text(h, text);
done:
    hash_close(h);
    return st;
}

enum status st_hash_full(const struct st_files *f, char text[HASH_TEXT], struct err *e) {
    enum status st = OK;
    struct hash *h = NULL;
    TRY(hash_open(&h, e));
    for (size_t i = 0; i < f->n_files; i++) {
        const struct fmap *map = f->files[i].map;
        sample_add_size(h, fmap_bytes(map));
        hash_add(h, fmap_borrow_data(map), fmap_bytes(map));
    }
    TRY(check_torn(f, e));
    hash_text(h, text);
done:
    hash_close(h);
    return st;
}
