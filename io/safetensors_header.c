#include "io/safetensors_impl.h"

#include "base/mem.h"
#include "io/fmap.h"
#include "io/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HEADER_BYTES = 100000000 };

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
                              const struct st_file *file, struct err *e) {
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
                              const struct st_file *file, struct err *e) {
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
static enum status read_offsets(struct st_tensor *t, const struct jnode *v,
                                const struct st_file *file, struct err *e) {
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
    const size_t start = ST_PREFIX_BYTES + file->header_bytes;
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

static enum status read_tensor(struct st_tensor *t, const struct jnode *v,
                               const struct st_file *file, struct err *e) {
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
static enum status check_tiling(struct st_tensor *t, size_t n, const struct st_file *file,
                                struct err *e) {
    const unsigned char *start = fmap_borrow_data(file->map) + ST_PREFIX_BYTES + file->header_bytes;
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

static enum status check_metadata(const struct jnode *v, const struct st_file *file,
                                  struct err *e) {
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
static enum status read_header(struct st_file *file, struct err *e) {
    enum status st = OK;
    const unsigned char *data = fmap_borrow_data(file->map);
    const size_t bytes = fmap_bytes(file->map);
    uint64_t n = 0;
    if (bytes < ST_PREFIX_BYTES) {
        FAIL(e, E_FORMAT, "%s: %zu bytes; too short for a safetensors file", file->path, bytes);
    }
    for (int i = 0; i < ST_PREFIX_BYTES; i++) n |= (uint64_t)data[i] << (8 * i);
    if (n > MAX_HEADER_BYTES) {
        FAIL(e, E_FORMAT, "%s: a header of %" PRIu64 " bytes; at most %d are read", file->path, n,
             MAX_HEADER_BYTES);
    }
    if (n > bytes - ST_PREFIX_BYTES) {
        FAIL(e, E_FORMAT, "%s: a header of %" PRIu64 " bytes in a file of %zu", file->path, n,
             bytes);
    }
    file->header_bytes = (size_t)n;
    TRY(json_open_text(&file->doc, file->path, (const char *)data + ST_PREFIX_BYTES,
                       file->header_bytes, e));
    if (json_kind_of(json_root(file->doc)) != JSON_OBJ) {
        FAIL(e, E_FORMAT, "%s: the header is not an object", file->path);
    }
done:
    return st;
}

enum status st_read_file(struct st_files *f, size_t i, const char *path, struct err *e) {
    enum status st = OK;
    struct st_file *file = &f->files[i];
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
    // No tensor at all: no array either, and nothing may be added to NULL.
    struct st_tensor *own = f->tensors != NULL ? f->tensors + first : NULL;
    TRY(check_tiling(own, f->n_tensors - first, file, e));
    if (fmap_torn(file->map)) FAIL(e, E_IO, "%s: cut short while it was read", file->path);
done:
    return st;
}
