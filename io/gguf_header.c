#include "io/gguf_impl.h"

#include "base/mem.h"
#include "io/fmap.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_VALUES = 65536,
    MAX_TENSORS = 1 << 20,
    MAX_KEY = 65535,
    MAX_NAME = 255,
    LEAST_VALUE = 8 + 1 + 4 + 1,   // bytes of the shortest metadata entry
    LEAST_TENSOR = 8 + 1 + 4 + 12, // and of the shortest tensor info
    ALIGNMENT = 32,
    LEAST_ALIGNMENT = 8,
    MOST_ALIGNMENT = 1 << 20
};

/* A place in a file's header. */
struct cursor {
    const unsigned char *data;
    size_t bytes, pos;
    const char *path;
};

/* "model.gguf: byte 24: " in front of what is wrong there. */
static enum status bad(const struct cursor *c, size_t at, enum status code, struct err *e,
                       const char *fmt, ...) PRINTF_LIKE(5, 6);
static enum status bad(const struct cursor *c, size_t at, enum status code, struct err *e,
                       const char *fmt, ...) {
    char what[384];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return err_fail(e, code, "%s: byte %zu: %s", c->path, at, what);
}

static enum status take_uint(uint64_t *out, struct cursor *c, int n, const char *what,
                             struct err *e) {
    if ((size_t)n > c->bytes - c->pos) {
        return bad(c, c->pos, E_FORMAT, e, "the file ends before %s", what);
    }
    *out = gguf_uint(c->data + c->pos, n);
    c->pos += (size_t)n;
    return OK;
}

// A string of the file: *s is its first byte, *n its length.
static enum status take_string(const unsigned char **s, size_t *n, struct cursor *c,
                               const char *what, struct err *e) {
    const size_t at = c->pos;
    uint64_t bytes = 0;
    const enum status st = take_uint(&bytes, c, 8, what, e);
    if (st != OK) return st;
    if (bytes > c->bytes - c->pos) {
        return bad(c, at, E_FORMAT, e, "%s is a string of %" PRIu64 " bytes; the file has %zu left",
                   what, bytes, c->bytes - c->pos);
    }
    *s = c->data + c->pos;
    *n = (size_t)bytes;
    c->pos += *n;
    return OK;
}

// A key or the name of a tensor, copied: printable, from 1 to `most` bytes.
static enum status take_name(char **out, struct cursor *c, size_t most, bool ascii,
                             const char *what, struct err *e) {
    const size_t at = c->pos;
    const unsigned char *s = NULL;
    size_t n = 0;
    const enum status st = take_string(&s, &n, c, what, e);
    if (st != OK) return st;
    if (n < 1 || n > most) {
        return bad(c, at, E_FORMAT, e, "%s has %zu bytes; it must have 1 to %zu", what, n, most);
    }
    for (size_t i = 0; i < n; i++) {
        if (s[i] <= ' ' || s[i] == 127 || (ascii && s[i] > 127)) {
            return bad(c, at, E_FORMAT, e, "%s holds the byte 0x%02x", what, s[i]);
        }
    }
    return mem_dup(out, (const char *)s, n, e);
}

/* ---- metadata ---- */

static enum status take_type(enum gguf_type *out, struct cursor *c, const char *key,
                             struct err *e) {
    const size_t at = c->pos;
    uint64_t t = 0;
    const enum status st = take_uint(&t, c, 4, "the type of a value", e);
    if (st != OK) return st;
    if (t >= GGUF_TYPE_COUNT) {
        return bad(c, at, E_UNSUPPORTED, e, "%.80s has the unknown type %" PRIu64, key, t);
    }
    *out = (enum gguf_type)t;
    return OK;
}

// The n strings of a value: walks over them and notes where each begins.
static enum status take_strings(struct gguf_value *v, struct cursor *c, struct err *e) {
    enum status st = OK;
    size_t *at = NULL;
    const size_t first = c->pos;
    if (v->array) TRY(mem_zalloc(&at, v->n, sizeof *at, e));
    for (size_t i = 0; i < v->n; i++) {
        const unsigned char *s = NULL;
        size_t n = 0;
        if (at != NULL) at[i] = c->pos - first;
        st = take_string(&s, &n, c, v->array ? "an element" : "the value", e);
        if (st != OK) {
            err_prefix(e, "%.80s: ", v->key);
            goto done;
        }
    }
    v->at = at;
    at = NULL;
done:
    mem_free(at);
    return st;
}

static enum status take_values(struct gguf_value *v, struct cursor *c, struct err *e) {
    const size_t size = gguf_type_bytes(v->type);
    v->data = c->data + c->pos;
    const size_t first = c->pos;
    if (v->n > (c->bytes - c->pos) / size) {
        return bad(c, v->offset, E_FORMAT, e,
                   "%.80s has %zu values of at least %zu bytes; the file has %zu left", v->key,
                   v->n, size, c->bytes - c->pos);
    }
    if (v->type == GGUF_STR) {
        const enum status st = take_strings(v, c, e);
        if (st != OK) return st;
    } else {
        c->pos += v->n * size;
    }
    v->bytes = c->pos - first;
    for (size_t i = 0; v->type == GGUF_BOOL && i < v->n; i++) {
        if (v->data[i] <= 1) continue;
        return bad(c, first + i, E_FORMAT, e, "%.80s: a bool is 0 or 1, not %d", v->key,
                   v->data[i]);
    }
    return OK;
}

static enum status take_value(struct gguf_value *v, struct cursor *c, struct err *e) {
    enum status st = OK;
    char *key = NULL;
    v->offset = c->pos;
    TRY(take_name(&key, c, MAX_KEY, true, "a metadata key", e));
    v->key = key; // owned by v from here on
    TRY(take_type(&v->type, c, v->key, e));
    v->n = 1;
    if (v->type == GGUF_ARR) {
        uint64_t n = 0;
        v->array = true;
        TRY(take_type(&v->type, c, v->key, e));
        if (v->type == GGUF_ARR) {
            TRY(bad(c, v->offset, E_UNSUPPORTED, e, "%.80s is an array of arrays", v->key));
        }
        TRY(take_uint(&n, c, 8, "the length of an array", e));
        if (n > c->bytes) {
            TRY(bad(c, v->offset, E_FORMAT, e,
                    "%.80s has %" PRIu64 " values in a file of %zu bytes", v->key, n, c->bytes));
        }
        v->n = (size_t)n;
    }
    TRY(take_values(v, c, e));
done:
    return st;
}

static int by_key(const void *a, const void *b) {
    const struct gguf_value *x = a, *y = b;
    const int order = strcmp(x->key, y->key);
    return order != 0 ? order : (x->offset > y->offset) - (x->offset < y->offset);
}

static enum status read_metadata(struct gguf_file *file, struct cursor *c, uint64_t n,
                                 struct err *e) {
    enum status st = OK;
    TRY(mem_zalloc(&file->values, (size_t)n, sizeof *file->values, e));
    for (uint64_t i = 0; i < n; i++) {
        file->n_values++; // before it is whole, so that its key is freed if the rest is bad
        TRY(take_value(&file->values[i], c, e));
    }
    if (n > 0) qsort(file->values, (size_t)n, sizeof *file->values, by_key);
    for (size_t i = 1; i < n; i++) {
        const struct gguf_value *a = &file->values[i - 1], *b = &file->values[i];
        if (strcmp(a->key, b->key) != 0) continue;
        TRY(bad(c, b->offset, E_FORMAT, e, "%.80s is there twice, at byte %zu as well", b->key,
                a->offset));
    }
done:
    return st;
}

static enum status read_alignment(size_t *out, const struct gguf_file *file, const struct cursor *c,
                                  struct err *e) {
    const struct gguf_value *v = gguf_file_meta(file, "general.alignment");
    int64_t a = 0;
    *out = ALIGNMENT;
    if (v == NULL) return OK;
    if (v->array || v->type != GGUF_U32 || !gguf_get_int(v, 0, &a)) {
        return bad(c, v->offset, E_FORMAT, e, "general.alignment is not a u32");
    }
    if (a < LEAST_ALIGNMENT || a > MOST_ALIGNMENT || (a & (a - 1)) != 0) {
        return bad(c, v->offset, E_FORMAT, e,
                   "general.alignment is %" PRId64 "; it must be a power of two from %d to %d", a,
                   LEAST_ALIGNMENT, MOST_ALIGNMENT);
    }
    *out = (size_t)a;
    return OK;
}

/* ---- tensor infos ---- */

static const struct type {
    const char *name; // NULL: there is no such type (any more)
    int block, bytes;
    enum dtype dtype;
} types[] = {
    {"F32", 1, 4, DT_F32},          {"F16", 1, 2, DT_F16},          {"Q4_0", 32, 18, DT_Q4_0},
    {"Q4_1", 32, 20, DT_Q4_1},      {NULL, 0, 0, DT_COUNT},         {NULL, 0, 0, DT_COUNT},
    {"Q5_0", 32, 22, DT_Q5_0},      {"Q5_1", 32, 24, DT_Q5_1},      {"Q8_0", 32, 34, DT_Q8_0},
    {"Q8_1", 32, 36, DT_COUNT},     {"Q2_K", 256, 84, DT_COUNT},    {"Q3_K", 256, 110, DT_COUNT},
    {"Q4_K", 256, 144, DT_Q4_K},    {"Q5_K", 256, 176, DT_Q5_K},    {"Q6_K", 256, 210, DT_Q6_K},
    {"Q8_K", 256, 292, DT_COUNT},   {"IQ2_XXS", 256, 66, DT_COUNT}, {"IQ2_XS", 256, 74, DT_COUNT},
    {"IQ3_XXS", 256, 98, DT_COUNT}, {"IQ1_S", 256, 50, DT_COUNT},   {"IQ4_NL", 32, 18, DT_COUNT},
    {"IQ3_S", 256, 110, DT_COUNT},  {"IQ2_S", 256, 82, DT_COUNT},   {"IQ4_XS", 256, 136, DT_COUNT},
    {"I8", 1, 1, DT_COUNT},         {"I16", 1, 2, DT_COUNT},        {"I32", 1, 4, DT_I32},
    {"I64", 1, 8, DT_I64},          {"F64", 1, 8, DT_F64},          {"IQ1_M", 256, 56, DT_COUNT},
    {"BF16", 1, 2, DT_BF16},        {NULL, 0, 0, DT_COUNT},         {NULL, 0, 0, DT_COUNT},
    {NULL, 0, 0, DT_COUNT},         {"TQ1_0", 256, 54, DT_COUNT},   {"TQ2_0", 256, 66, DT_COUNT},
    {NULL, 0, 0, DT_COUNT},         {NULL, 0, 0, DT_COUNT},         {NULL, 0, 0, DT_COUNT},
    {"MXFP4", 32, 17, DT_COUNT}};

// Fills n_dim and dim; *elements is their product.
static enum status take_dims(struct gguf_tensor *t, size_t *elements, struct cursor *c,
                             struct err *e) {
    const size_t at = c->pos;
    uint64_t n = 0;
    enum status st = take_uint(&n, c, 4, "the dimensions of a tensor", e);
    if (st != OK) return st;
    if (n > GGUF_MAX_DIM) {
        return bad(c, at, E_FORMAT, e, "tensor %s: %" PRIu64 " dimensions; at most %d are allowed",
                   t->name, n, GGUF_MAX_DIM);
    }
    t->n_dim = (int)n;
    *elements = 1;
    for (int i = 0; i < t->n_dim; i++) {
        const size_t here = c->pos;
        uint64_t d = 0;
        st = take_uint(&d, c, 8, "the dimensions of a tensor", e);
        if (st != OK) return st;
        if (d < 1 || d > INT64_MAX) {
            return bad(c, here, E_FORMAT, e, "tensor %s: a dimension of %" PRIu64, t->name, d);
        }
        if (!mem_mul(*elements, (size_t)d, elements)) {
            return bad(c, at, E_FORMAT, e, "tensor %s: the product of its dimensions overflows",
                       t->name);
        }
        t->dim[t->n_dim - 1 - i] = (int64_t)d;
    }
    return OK;
}

// Fills dtype and bytes.
static enum status take_tensor_type(struct gguf_tensor *t, size_t elements, struct cursor *c,
                                    struct err *e) {
    const size_t at = c->pos;
    uint64_t id = 0;
    const enum status st = take_uint(&id, c, 4, "the type of a tensor", e);
    if (st != OK) return st;
    if (id >= COUNTOF(types) || types[id].name == NULL) {
        return bad(c, at, E_UNSUPPORTED, e, "tensor %s has the unknown type %" PRIu64, t->name, id);
    }
    const struct type *type = &types[id];
    t->dtype = type->dtype;
    t->dtype_text = type->name;
    const int64_t row = t->n_dim > 0 ? t->dim[t->n_dim - 1] : 1;
    if (row % type->block != 0) {
        return bad(c, at, E_FORMAT, e,
                   "tensor %s: rows of %" PRId64 " elements are not whole blocks of %d (%s)",
                   t->name, row, type->block, type->name);
    }
    if (!mem_mul(elements / (size_t)type->block, (size_t)type->bytes, &t->bytes)) {
        return bad(c, at, E_FORMAT, e, "tensor %s: its size overflows", t->name);
    }
    return OK;
}

// *offset: of its data from the first data byte, which is not known yet.
static enum status take_tensor(struct gguf_tensor *t, uint64_t *offset, size_t alignment,
                               struct cursor *c, struct err *e) {
    enum status st = OK;
    size_t elements = 0;
    char *name = NULL;
    TRY(take_name(&name, c, MAX_NAME, false, "the name of a tensor", e));
    t->name = name; // owned by t from here on
    TRY(take_dims(t, &elements, c, e));
    TRY(take_tensor_type(t, elements, c, e));
    const size_t at = c->pos;
    TRY(take_uint(offset, c, 8, "the offset of a tensor", e));
    if (*offset % alignment != 0) {
        TRY(bad(c, at, E_FORMAT, e,
                "tensor %s: offset %" PRIu64 " is not a multiple of the alignment %zu", t->name,
                *offset, alignment));
    }
done:
    return st;
}

static int by_data(const void *a, const void *b) {
    const struct gguf_tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return strcmp(x->name, y->name);
}

static size_t align(size_t n, size_t alignment) {
    return (n + alignment - 1) / alignment * alignment;
}

// The tensors t[0..n) of one file must follow each other from byte `start` on to the end.
static enum status check_tiling(struct gguf_tensor *t, size_t n, size_t start, size_t alignment,
                                const struct cursor *c, struct err *e) {
    size_t end = start;
    if (n > 0) qsort(t, n, sizeof *t, by_data);
    for (size_t i = 0; i < n; i++) {
        const size_t at = (size_t)(t[i].data - c->data);
        if (at < end) {
            return bad(c, at, E_FORMAT, e, "tensors %s and %s overlap", t[i - 1].name, t[i].name);
        }
        if (at > align(end, alignment)) {
            return bad(c, end, E_FORMAT, e, "%zu bytes before tensor %s belong to no tensor",
                       at - end, t[i].name);
        }
        end = at + t[i].bytes;
    }
    if (c->bytes > align(end, alignment)) {
        return bad(c, end, E_FORMAT, e, "%zu bytes behind the last tensor", c->bytes - end);
    }
    return OK;
}

static enum status read_tensors(struct gguf_files *f, size_t file, uint64_t n, struct cursor *c,
                                struct err *e) {
    enum status st = OK;
    uint64_t *offsets = NULL;
    size_t alignment = 0;
    const size_t first = f->n_tensors;
    TRY(read_alignment(&alignment, &f->files[file], c, e));
    TRY(mem_zalloc(&offsets, (size_t)n, sizeof *offsets, e));
    TRY(mem_grow(&f->tensors, &f->cap_tensors, first + (size_t)n, sizeof *f->tensors, e));
    for (uint64_t i = 0; i < n; i++) {
        struct gguf_tensor *t = &f->tensors[f->n_tensors++];
        memset(t, 0, sizeof *t);
        t->file = (int)file;
        TRY(take_tensor(t, &offsets[i], alignment, c, e));
    }
    // A file without tensors may end without the padding in front of its data.
    const size_t start = align(c->pos, alignment);
    const size_t data = start < c->bytes ? c->bytes - start : 0;
    f->files[file].header_bytes = start < c->bytes ? start : c->bytes;
    for (uint64_t i = 0; i < n; i++) {
        struct gguf_tensor *t = &f->tensors[first + i];
        if (offsets[i] > data || t->bytes > data - offsets[i]) {
            TRY(bad(c, start, E_FORMAT, e,
                    "tensor %s: %zu bytes at %" PRIu64
                    " of the data, which has %zu; the file is cut short",
                    t->name, t->bytes, offsets[i], data));
        }
        t->data = c->data + start + offsets[i];
    }
    TRY(check_tiling(f->tensors + first, (size_t)n, start, alignment, c, e));
done:
    mem_free(offsets);
    return st;
}

/* ---- one file ---- */

static enum status read_magic(struct cursor *c, struct err *e) {
    if (c->bytes < 4 || memcmp(c->data, "GGUF", 4) != 0) {
        const bool swapped = c->bytes >= 4 && memcmp(c->data, "FUGG", 4) == 0;
        return bad(c, 0, swapped ? E_UNSUPPORTED : E_FORMAT, e, "%s",
                   swapped ? "a byte-swapped GGUF file" : "not a GGUF file");
    }
    c->pos = 4;
    uint64_t version = 0;
    const enum status st = take_uint(&version, c, 4, "the version", e);
    if (st != OK) return st;
    if (version != 0 && (version & 0xFFFF) == 0) {
        return bad(c, 4, E_UNSUPPORTED, e, "the file is big-endian; little-endian files are read");
    }
    if (version != 2 && version != 3) {
        return bad(c, 4, E_UNSUPPORTED, e, "GGUF version %" PRIu64 "; versions 2 and 3 are read",
                   version);
    }
    return OK;
}

// Caps a count by what the file can hold, so that memory for it may be taken.
static enum status take_count(uint64_t *n, struct cursor *c, int least, int most, const char *what,
                              struct err *e) {
    const size_t at = c->pos;
    const enum status st = take_uint(n, c, 8, "the counts", e);
    if (st != OK) return st;
    if (*n > (c->bytes - c->pos) / (size_t)least) {
        return bad(c, at, E_FORMAT, e, "%" PRIu64 " %s in a file of %zu bytes", *n, what, c->bytes);
    }
    if (*n > (uint64_t)most) {
        return bad(c, at, E_UNSUPPORTED, e, "%" PRIu64 " %s; at most %d are read", *n, what, most);
    }
    return OK;
}

enum status gguf_read_file(struct gguf_files *f, size_t i, const char *path, struct err *e) {
    enum status st = OK;
    struct gguf_file *file = &f->files[i];
    uint64_t n_tensors = 0, n_values = 0;
    TRY(fmap_open(&file->map, path, e));
    file->path = fmap_borrow_path(file->map);
    struct cursor c = {fmap_borrow_data(file->map), fmap_bytes(file->map), 0, file->path};
    TRY(read_magic(&c, e));
    TRY(take_count(&n_tensors, &c, LEAST_TENSOR, MAX_TENSORS, "tensors", e));
    TRY(take_count(&n_values, &c, LEAST_VALUE, MAX_VALUES, "metadata entries", e));
    TRY(read_metadata(file, &c, n_values, e));
    TRY(read_tensors(f, i, n_tensors, &c, e));
    if (fmap_torn(file->map)) FAIL(e, E_IO, "%s: cut short while it was read", file->path);
done:
    return st;
}
