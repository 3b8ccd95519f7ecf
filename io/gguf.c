#include "io/gguf_impl.h"

#include "base/mem.h"
#include "io/fmap.h"
#include "io/sample_impl.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILES = 1000, SPLIT_TAIL = 20 }; // "-00001-of-00003.gguf"

/* ---- metadata ---- */

static const struct {
    const char *name;
    size_t bytes;
} value_types[GGUF_TYPE_COUNT] = {{"u8", 1},  {"i8", 1},  {"u16", 2},  {"i16", 2},    {"u32", 4},
                                  {"i32", 4}, {"f32", 4}, {"bool", 1}, {"string", 8}, {"array", 0},
                                  {"u64", 8}, {"i64", 8}, {"f64", 8}};

const char *gguf_type_name(enum gguf_type t) {
    return value_types[t].name;
}

size_t gguf_type_bytes(enum gguf_type t) {
    return value_types[t].bytes; // of a string: its length, the least it can take
}

bool gguf_get_int(const struct gguf_value *v, size_t i, int64_t *out) {
    if (i >= v->n) return false;
    const size_t size = gguf_type_bytes(v->type);
    const uint64_t u = gguf_uint(v->data + i * size, (int)size);
    switch (v->type) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32: *out = (int64_t)u; return true;
    case GGUF_U64: *out = (int64_t)u; return u <= INT64_MAX;
    case GGUF_I8: *out = (int8_t)u; return true;
    case GGUF_I16: *out = (int16_t)u; return true;
    case GGUF_I32: *out = (int32_t)u; return true;
    case GGUF_I64: *out = (int64_t)u; return true;
    default: return false;
    }
}

bool gguf_get_num(const struct gguf_value *v, size_t i, double *out) {
    if (i >= v->n) return false;
    if (v->type == GGUF_F32) {
        const uint32_t u = (uint32_t)gguf_uint(v->data + i * 4, 4);
        float x;
        memcpy(&x, &u, sizeof x);
        *out = (double)x;
        return true;
    }
    if (v->type == GGUF_F64) {
        const uint64_t u = gguf_uint(v->data + i * 8, 8);
        memcpy(out, &u, sizeof *out);
        return true;
    }
    return false;
}

bool gguf_get_bool(const struct gguf_value *v, size_t i, bool *out) {
    if (i >= v->n || v->type != GGUF_BOOL) return false;
    *out = v->data[i] != 0;
    return true;
}

bool gguf_get_str(const struct gguf_value *v, size_t i, const char **s, size_t *bytes) {
    if (i >= v->n || v->type != GGUF_STR) return false;
    const unsigned char *p = v->data + (v->at != NULL ? v->at[i] : 0);
    *s = (const char *)p + 8;
    *bytes = (size_t)gguf_uint(p, 8);
    return true;
}

const struct gguf_value *gguf_file_meta(const struct gguf_file *file, const char *key) {
    size_t lo = 0, hi = file->n_values;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const int order = strcmp(file->values[mid].key, key);
        if (order == 0) return &file->values[mid];
        if (order < 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return NULL;
}

size_t gguf_meta_count(const struct gguf_files *f) {
    return f->files[0].n_values;
}

const struct gguf_value *gguf_meta_at(const struct gguf_files *f, size_t i) {
    return i < f->files[0].n_values ? &f->files[0].values[i] : NULL;
}

const struct gguf_value *gguf_meta_get(const struct gguf_files *f, const char *key) {
    return gguf_file_meta(&f->files[0], key);
}

/* ---- split models ---- */

// Reads "-00001-of-00003.gguf" at the end of a path; false when it is not there.
static bool split_of_path(const char *path, int64_t *no, int64_t *count) {
    const size_t n = strlen(path);
    if (n < SPLIT_TAIL) return false;
    const char *tail = path + n - SPLIT_TAIL;
    static const char form[] = "-ddddd-of-ddddd.gguf";
    int64_t numbers[2] = {0, 0};
    for (int i = 0; i < SPLIT_TAIL; i++) {
        const bool digit = tail[i] >= '0' && tail[i] <= '9';
        if (form[i] == 'd' && digit && (i < 6 || i > 9)) {
            numbers[i > 6] = numbers[i > 6] * 10 + (tail[i] - '0');
        } else if (tail[i] != form[i]) {
            return false;
        }
    }
    *no = numbers[0];
    *count = numbers[1];
    return true;
}

// An integer entry of one file, `otherwise` without one.
static enum status split_number(int64_t *out, const struct gguf_file *file, const char *key,
                                int64_t otherwise, struct err *e) {
    const struct gguf_value *v = gguf_file_meta(file, key);
    *out = otherwise;
    if (v == NULL) return OK;
    if (!v->array && gguf_get_int(v, 0, out) && *out >= 0) return OK;
    return err_fail(e, E_FORMAT, "%s: byte %zu: %s is not a non-negative integer", file->path,
                    v->offset, key);
}

// What a later file says about the model must be what the first one says.
static enum status check_repeats(const struct gguf_file *first, const struct gguf_file *file,
                                 struct err *e) {
    for (size_t i = 0; i < file->n_values; i++) {
        const struct gguf_value *v = &file->values[i];
        if (strncmp(v->key, "split.", 6) == 0 || strcmp(v->key, "general.alignment") == 0) continue;
        const struct gguf_value *w = gguf_file_meta(first, v->key);
        const bool same = w != NULL && w->type == v->type && w->array == v->array && w->n == v->n &&
                          w->bytes == v->bytes && memcmp(w->data, v->data, v->bytes) == 0;
        if (same) continue;
        return err_fail(e, E_FORMAT, "%s: byte %zu: %.80s is not what the first file says",
                        file->path, v->offset, v->key);
    }
    return OK;
}

static enum status check_split(const struct gguf_file *file, int64_t no, int64_t count,
                               struct err *e) {
    int64_t its_no = 0, its_count = 0;
    enum status st = split_number(&its_no, file, "split.no", -1, e);
    if (st == OK) st = split_number(&its_count, file, "split.count", -1, e);
    if (st != OK) return st;
    if (its_no != no || its_count != count) {
        return err_fail(e, E_FORMAT,
                        "%s: says that it is file %" PRId64 " of %" PRId64 ", not %" PRId64
                        " of %" PRId64,
                        file->path, its_no + 1, its_count, no + 1, count);
    }
    return OK;
}

static enum status open_rest(struct gguf_files *f, const char *path, int64_t count, struct err *e) {
    enum status st = OK;
    struct sbuf name;
    sbuf_init(&name);
    int64_t no = 0, of = 0;
    if (!split_of_path(path, &no, &of) || of != count) {
        FAIL(e, E_FORMAT,
             "%s: a model in %" PRId64 " files; their names must end in -00001-of-%05" PRId64
             ".gguf and so on",
             path, count, count);
    }
    for (int64_t i = 1; i < count; i++) {
        sbuf_clear(&name);
        sbuf_printf(&name, "%.*s-%05" PRId64 "-of-%05" PRId64 ".gguf",
                    (int)(strlen(path) - SPLIT_TAIL), path, i + 1, count);
        TRY(sbuf_status(&name, e));
        f->n_files++;
        TRY(gguf_read_file(f, (size_t)i, sbuf_str(&name), e));
        TRY(check_split(&f->files[i], i, count, e));
        TRY(check_repeats(&f->files[0], &f->files[i], e));
    }
done:
    sbuf_fini(&name);
    return st;
}

/* ---- opening ---- */

static int by_name(const void *a, const void *b) {
    const struct gguf_tensor *x = a, *y = b;
    const int order = strcmp(x->name, y->name);
    return order != 0 ? order : x->file - y->file;
}

static enum status sort_tensors(struct gguf_files *f, struct err *e) {
    if (f->n_tensors > 0) qsort(f->tensors, f->n_tensors, sizeof *f->tensors, by_name);
    for (size_t i = 1; i < f->n_tensors; i++) {
        const struct gguf_tensor *a = &f->tensors[i - 1], *b = &f->tensors[i];
        if (strcmp(a->name, b->name) != 0) continue;
        return err_fail(e, E_FORMAT, "%s: tensor %s is there twice, in %s", f->files[b->file].path,
                        b->name, f->files[a->file].path);
    }
    return OK;
}

enum status gguf_open(struct gguf_files **out, const char *path, struct err *e) {
    enum status st = OK;
    struct gguf_files *f = NULL;
    int64_t no = 0, count = 0, n_tensors = 0;
    *out = NULL;
    TRY(mem_zalloc(&f, 1, sizeof *f, e));
    TRY(mem_zalloc(&f->files, MAX_FILES, sizeof *f->files, e));
    f->n_files = 1;
    TRY(gguf_read_file(f, 0, path, e));
    TRY(split_number(&count, &f->files[0], "split.count", 1, e));
    TRY(split_number(&no, &f->files[0], "split.no", 0, e));
    if (count > MAX_FILES) {
        FAIL(e, E_UNSUPPORTED, "%s: split.count is %" PRId64 "; at most %d files are read", path,
             count, MAX_FILES);
    }
    if (no != 0) {
        FAIL(e, E_FORMAT, "%s: file %" PRId64 " of a split model; open its first file", path,
             no + 1);
    }
    if (count > 1) TRY(open_rest(f, path, count, e));
    TRY(split_number(&n_tensors, &f->files[0], "split.tensors.count", (int64_t)f->n_tensors, e));
    if ((size_t)n_tensors != f->n_tensors) {
        FAIL(e, E_FORMAT, "%s: split.tensors.count is %" PRId64 "; the files hold %zu tensors",
             path, n_tensors, f->n_tensors);
    }
    TRY(sort_tensors(f, e));
    *out = f;
    f = NULL;
done:
    gguf_close(f);
    return st;
}

// Keys, names and indexes are const to everybody but their owner.
static void free_const(const void *p) {
    void *own;
    memcpy(&own, &p, sizeof own);
    mem_free(own);
}

void gguf_close(struct gguf_files *f) {
    if (f == NULL) return;
    for (size_t i = 0; i < f->n_files; i++) {
        struct gguf_file *file = &f->files[i];
        for (size_t k = 0; k < file->n_values; k++) {
            free_const(file->values[k].key);
            free_const(file->values[k].at);
        }
        mem_free(file->values);
        fmap_close(file->map);
    }
    for (size_t i = 0; i < f->n_tensors; i++) free_const(f->tensors[i].name);
    mem_free(f->files);
    mem_free(f->tensors);
    mem_free(f);
}

enum status gguf_find(struct sbuf *path, const char *dir, struct err *e) {
    enum status st = OK;
    DIR *d = opendir(dir);
    sbuf_clear(path);
    if (d == NULL) return err_errno(e, E_NOINPUT, errno, "%s", dir);
    for (struct dirent *ent; (ent = readdir(d)) != NULL;) {
        const size_t n = strlen(ent->d_name);
        int64_t no = 0, count = 0;
        if (n < 6 || strcmp(ent->d_name + n - 5, ".gguf") != 0 || ent->d_name[0] == '.') continue;
        if (split_of_path(ent->d_name, &no, &count) && no != 1) continue;
        if (path->n > 0) {
            FAIL(e, E_ARG, "%s: holds several .gguf models, %s and %s; name the file", dir,
                 ent->d_name, path->s + strlen(dir) + 1);
        }
        sbuf_printf(path, "%s/%s", dir, ent->d_name);
    }
    TRY(sbuf_status(path, e));
done:
    closedir(d);
    return st;
}

/* ---- questions ---- */

size_t gguf_count(const struct gguf_files *f) {
    return f->n_tensors;
}

const struct gguf_tensor *gguf_at(const struct gguf_files *f, size_t i) {
    return i < f->n_tensors ? &f->tensors[i] : NULL;
}

const struct gguf_tensor *gguf_get(const struct gguf_files *f, const char *name) {
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

size_t gguf_file_count(const struct gguf_files *f) {
    return f->n_files;
}

const char *gguf_borrow_path(const struct gguf_files *f, size_t i) {
    return f->files[i].path;
}

bool gguf_torn(const struct gguf_files *f, const char **path) {
    for (size_t i = 0; i < f->n_files; i++) {
        if (!fmap_torn(f->files[i].map)) continue;
        if (path != NULL) *path = f->files[i].path;
        return true;
    }
    return false;
}

enum status gguf_identity(const struct gguf_files *f, char text[HASH_TEXT], struct err *e) {
    enum status st = OK;
    struct hash *h = NULL;
    const char *torn = NULL;
    TRY(hash_open(&h, e));
    for (size_t i = 0; i < f->n_files; i++) {
        sample_add_size(h, fmap_bytes(f->files[i].map));
        hash_add(h, fmap_borrow_data(f->files[i].map), f->files[i].header_bytes);
    }
    for (size_t i = 0; i < f->n_tensors; i++) {
        sample_add(h, f->tensors[i].data, f->tensors[i].bytes);
    }
    if (gguf_torn(f, &torn)) FAIL(e, E_IO, "%s: cut short while it was read", torn);
    hash_text(h, text);
done:
    hash_close(h);
    return st;
}
