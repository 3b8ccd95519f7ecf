#include "io/safetensors.h"

#include "base/mem.h"
#include "base/sbuf.h"
#include "io/fmap.h"
#include "io/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MAX_HEADER_BYTES = 100000000,
    MAX_INDEX_BYTES = 100000000,
    PREFIX_BYTES = 8, /* the header's length */
    SAMPLES = 6,
    SAMPLE_BYTES = 4096
};

struct file {
    struct fmap *map;    /* owned */
    struct json *doc;    /* owned; the header: tensors borrow their names from it */
    const char *path;    /* borrowed: from map */
    size_t header_bytes; /* of the JSON */
};

struct st_files {
    struct file *files; /* owned [n_files] */
    size_t n_files;
    struct st_tensor *tensors; /* owned [n_tensors], sorted by name once open */
    size_t n_tensors, cap_tensors;
    char *label; /* owned; the model, for messages */
};

/* ---- fields of a header ---- */

static const struct {
    const char *name;
    int bits;
    enum dtype dtype;
} types[] = {{"F64", 64, DT_F64},      {"F32", 32, DT_F32},      {"F16", 16, DT_F16},
             {"BF16", 16, DT_BF16},    {"I32", 32, DT_I32},      {"I64", 64, DT_I64},
             {"U8", 8, DT_U8},         {"BOOL", 8, DT_COUNT},    {"I8", 8, DT_COUNT},
             {"I16", 16, DT_COUNT},    {"U16", 16, DT_COUNT},    {"U32", 32, DT_COUNT},
             {"U64", 64, DT_COUNT},    {"F8_E4M3", 8, DT_COUNT}, {"F8_E5M2", 8, DT_COUNT},
             {"F8_E8M0", 8, DT_COUNT}, {"F4", 4, DT_COUNT},      {"F6_E2M3", 6, DT_COUNT},
             {"F6_E3M2", 6, DT_COUNT}, {"C64", 64, DT_COUNT}};

static enum status read_dtype(struct st_tensor *t, int *bits, const struct jnode *v,
                              const struct file *file, struct err *e) {
    if (v == NULL || json_kind_of(v) != JSON_STR) {
        return err_fail(e, E_FORMAT, "%s: tensor \"%s\": dtype is not a string", file->path,
                        t->name);
    }
    t->dtype_text = json_str(v, NULL);
    for (size_t i = 0; i < COUNTOF(types); i++) {
        if (strcmp(types[i].name, t->dtype_text) != 0) continue;
        t->dtype = types[i].dtype;
        *bits = types[i].bits;
        return OK;
    }
    return err_fail(e, E_UNSUPPORTED, "%s: tensor \"%s\": unknown dtype \"%s\"", file->path,
                    t->name, t->dtype_text);
}

// Fills n_dim and dim; *elements is their product.
static enum status read_shape(struct st_tensor *t, size_t *elements, const struct jnode *v,
                              const struct file *file, struct err *e) {
    if (v == NULL || json_kind_of(v) != JSON_ARR) {
        return err_fail(e, E_FORMAT, "%s: tensor \"%s\": shape is not a list", file->path, t->name);
    }
    const size_t n = json_len(v);
    if (n > ST_MAX_DIM) {
        return err_fail(e, E_FORMAT, "%s: tensor \"%s\": %zu dimensions; at most %d are read",
                        file->path, t->name, n, ST_MAX_DIM);
    }
    *elements = 1;
    for (size_t i = 0; i < n; i++) {
        const struct jnode *d = json_at(v, i);
        if (json_kind_of(d) != JSON_INT || json_int(d) < 0) {
            return err_fail(e, E_FORMAT,
                            "%s: tensor \"%s\": dimension %zu is not a non-negative integer",
                            file->path, t->name, i);
        }
        t->dim[i] = json_int(d);
        if (!mem_mul(*elements, (size_t)t->dim[i], elements)) {
            return err_fail(e, E_FORMAT, "%s: tensor \"%s\": the product of its shape overflows",
                            file->path, t->name);
        }
    }
    t->n_dim = (int)n;
    return OK;
}

// Fills data and bytes from data_offsets.
static enum status read_offsets(struct st_tensor *t, const struct jnode *v, const struct file *file,
                                struct err *e) {
    const struct jnode *a = NULL, *b = NULL;
    if (v != NULL && json_kind_of(v) == JSON_ARR && json_len(v) == 2) {
        a = json_at(v, 0);
        b = json_at(v, 1);
    }
    if (a == NULL || json_kind_of(a) != JSON_INT || json_kind_of(b) != JSON_INT ||
        json_int(a) < 0) {
        return err_fail(e, E_FORMAT,
                        "%s: tensor \"%s\": data_offsets are not two non-negative integers",
                        file->path, t->name);
    }
    const int64_t begin = json_int(a), end = json_int(b);
    const size_t start = PREFIX_BYTES + file->header_bytes;
    const size_t data_bytes = fmap_bytes(file->map) - start;
    if (begin > end) {
        return err_fail(e, E_FORMAT,
                        "%s: tensor \"%s\": data_offsets are reversed (%" PRId64 ", %" PRId64 ")",
                        file->path, t->name, begin, end);
    }
    if ((uint64_t)end > data_bytes) {
        return err_fail(e, E_FORMAT,
                        "%s: tensor \"%s\": its data ends at byte %" PRId64
                        " of %zu; the file is cut short",
                        file->path, t->name, end, data_bytes);
    }
    t->data = fmap_borrow_data(file->map) + start + begin;
    t->bytes = (size_t)(end - begin);
    return OK;
}

static enum status read_tensor(struct st_tensor *t, const struct jnode *v, const struct file *file,
                               struct err *e) {
    enum status st = OK;
    int bits = 0;
    size_t elements = 0, total_bits = 0;
    if (json_kind_of(v) != JSON_OBJ) {
        FAIL(e, E_FORMAT, "%s: tensor \"%s\": not an object", file->path, t->name);
    }
    for (struct json_iter it = json_iter(v); it.key != NULL; json_next(&it)) {
        if (strcmp(it.key, "dtype") == 0 || strcmp(it.key, "shape") == 0 ||
            strcmp(it.key, "data_offsets") == 0) {
            continue;
        }
        FAIL(e, E_FORMAT, "%s: tensor \"%s\": unknown field \"%s\"", file->path, t->name, it.key);
    }
    TRY(read_dtype(t, &bits, json_get(v, "dtype"), file, e));
    TRY(read_shape(t, &elements, json_get(v, "shape"), file, e));
    TRY(read_offsets(t, json_get(v, "data_offsets"), file, e));
    if (!mem_mul(elements, (size_t)bits, &total_bits)) {
        FAIL(e, E_FORMAT, "%s: tensor \"%s\": its size overflows", file->path, t->name);
    }
    if (total_bits % 8 != 0 || total_bits / 8 != t->bytes) {
        FAIL(e, E_FORMAT,
             "%s: tensor \"%s\": its shape takes %zu bytes of %s, its data_offsets %zu", file->path,
             t->name, total_bits / 8, t->dtype_text, t->bytes);
    }
done:
    return st;
}

/* ---- one file ---- */

static int by_data(const void *a, const void *b) {
    const struct st_tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

// The tensors t[0..n) of one file must tile its data.
static enum status check_tiling(struct st_tensor *t, size_t n, const struct file *file,
                                struct err *e) {
    const unsigned char *start = fmap_borrow_data(file->map) + PREFIX_BYTES + file->header_bytes;
    const unsigned char *end = fmap_borrow_data(file->map) + fmap_bytes(file->map);
    const unsigned char *at = start;
    if (n > 0) qsort(t, n, sizeof *t, by_data);
    for (size_t i = 0; i < n; i++) {
        if (t[i].data < at) {
            return err_fail(e, E_FORMAT, "%s: tensors \"%s\" and \"%s\" overlap", file->path,
                            t[i - 1].name, t[i].name);
        }
        if (t[i].data > at) {
            return err_fail(e, E_FORMAT, "%s: %td bytes before tensor \"%s\" belong to no tensor",
                            file->path, t[i].data - at, t[i].name);
        }
        at = t[i].data + t[i].bytes;
    }
    if (at != end) {
        return err_fail(e, E_FORMAT, "%s: %td bytes behind the last tensor", file->path, end - at);
    }
    return OK;
}

static enum status check_metadata(const struct jnode *v, const struct file *file, struct err *e) {
    if (json_kind_of(v) != JSON_OBJ) {
        return err_fail(e, E_FORMAT, "%s: __metadata__ is not an object", file->path);
    }
    for (struct json_iter it = json_iter(v); it.key != NULL; json_next(&it)) {
        if (json_kind_of(it.value) == JSON_STR) continue;
        return err_fail(e, E_FORMAT, "%s: __metadata__: \"%s\" is not a string", file->path,
                        it.key);
    }
    return OK;
}

// Checks the length of the header and parses it.
static enum status read_header(struct file *file, struct err *e) {
    enum status st = OK;
    const unsigned char *data = fmap_borrow_data(file->map);
    const size_t bytes = fmap_bytes(file->map);
    uint64_t n = 0;
    if (bytes < PREFIX_BYTES) {
        FAIL(e, E_FORMAT, "%s: %zu bytes; too short for a safetensors file", file->path, bytes);
    }
    for (int i = 0; i < PREFIX_BYTES; i++) n |= (uint64_t)data[i] << (8 * i);
    if (n > MAX_HEADER_BYTES) {
        FAIL(e, E_FORMAT, "%s: a header of %" PRIu64 " bytes; at most %d are read", file->path, n,
             MAX_HEADER_BYTES);
    }
    if (n > bytes - PREFIX_BYTES) {
        FAIL(e, E_FORMAT, "%s: a header of %" PRIu64 " bytes in a file of %zu", file->path, n,
             bytes);
    }
    file->header_bytes = (size_t)n;
    TRY(json_open_text(&file->doc, file->path, (const char *)data + PREFIX_BYTES,
                       file->header_bytes, e));
    if (json_kind_of(json_root(file->doc)) != JSON_OBJ) {
        FAIL(e, E_FORMAT, "%s: the header is not an object", file->path);
    }
done:
    return st;
}

// Opens files[i] and appends its tensors.
static enum status open_file(struct st_files *f, size_t i, const char *path, struct err *e) {
    enum status st = OK;
    struct file *file = &f->files[i];
    const size_t first = f->n_tensors;
    TRY(fmap_open(&file->map, path, e));
    file->path = fmap_borrow_path(file->map);
    TRY(read_header(file, e));
    struct json_iter it = json_iter(json_root(file->doc));
    for (; it.key != NULL; json_next(&it)) {
        if (strcmp(it.key, "__metadata__") == 0) {
            TRY(check_metadata(it.value, file, e));
            continue;
        }
        TRY(mem_grow(&f->tensors, &f->cap_tensors, f->n_tensors + 1, sizeof *f->tensors, e));
        struct st_tensor *t = &f->tensors[f->n_tensors];
        memset(t, 0, sizeof *t);
        t->name = it.key;
        t->file = (int)i;
        TRY(read_tensor(t, it.value, file, e));
        f->n_tensors++;
    }
    TRY(check_tiling(f->tensors + first, f->n_tensors - first, file, e));
    if (fmap_torn(file->map)) FAIL(e, E_IO, "%s: cut short while it was read", file->path);
done:
    return st;
}

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
        TRY(open_file(f, i, sbuf_str(&path), e));
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
    TRY(open_file(f, 0, path, e));
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

static void add_size(struct hash *h, size_t n) {
    unsigned char bytes[8]; // by value, so that the hash does not depend on this machine's order
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)n >> (8 * i));
    hash_add(h, bytes, sizeof bytes);
}

static void add_sample(struct hash *h, const struct st_tensor *t) {
    if (t->bytes <= (size_t)SAMPLES * SAMPLE_BYTES) {
        hash_add(h, t->data, t->bytes);
        return;
    }
    const size_t step = (t->bytes - SAMPLE_BYTES) / (SAMPLES - 1);
    for (size_t i = 0; i + 1 < SAMPLES; i++) hash_add(h, t->data + i * step, SAMPLE_BYTES);
    hash_add(h, t->data + t->bytes - SAMPLE_BYTES, SAMPLE_BYTES);
}

static enum status check_torn(const struct st_files *f, struct err *e) {
    const char *path = NULL;
    return st_torn(f, &path) ? err_fail(e, E_IO, "%s: cut short while it was read", path) : OK;
}

enum status st_identity(const struct st_files *f, char text[HASH_TEXT], struct err *e) {
    enum status st = OK;
    struct hash *h = NULL;
    TRY(hash_open(&h, e));
    for (size_t i = 0; i < f->n_files; i++) {
        const struct file *file = &f->files[i];
        add_size(h, fmap_bytes(file->map));
        hash_add(h, fmap_borrow_data(file->map), PREFIX_BYTES + file->header_bytes);
    }
    for (size_t i = 0; i < f->n_tensors; i++) add_sample(h, &f->tensors[i]);
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
        add_size(h, fmap_bytes(map));
        hash_add(h, fmap_borrow_data(map), fmap_bytes(map));
    }
    TRY(check_torn(f, e));
    hash_text(h, text);
done:
    hash_close(h);
    return st;
}
