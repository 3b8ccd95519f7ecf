/* Private to io/gguf*.c. */
#ifndef BASIN_IO_GGUF_IMPL_H
#define BASIN_IO_GGUF_IMPL_H

#include "io/gguf.h"

struct gguf_file {
    struct fmap *map;          /* owned */
    const char *path;          /* borrowed: from map */
    struct gguf_value *values; /* owned [n_values], sorted by key; each owns its key and `at` */
    size_t n_values;
    size_t header_bytes; /* up to the first data byte, at most the file's size */
};

struct gguf_files {
    struct gguf_file *files; /* owned [n_files] */
    size_t n_files;
    struct gguf_tensor *tensors; /* owned [n_tensors], sorted by name once open; own their names */
    size_t n_tensors, cap_tensors;
};

/* Opens f->files[i], checks its header completely and appends its tensors. */
enum status gguf_read_file(struct gguf_files *f, size_t i, const char *path,
                           struct err *e) WARN_UNUSED;

const struct gguf_value *gguf_file_meta(const struct gguf_file *file, const char *key);

/* Little-endian integer of n bytes. */
static inline uint64_t gguf_uint(const unsigned char *p, int n) {
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

/* Bytes of a value that is not a string or an array. */
size_t gguf_type_bytes(enum gguf_type t);

#endif
