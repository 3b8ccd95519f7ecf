/* Reader of GGUF models, versions 2 and 3, in one file or split over several. Files are mapped
 * read-only; opening reads headers only.
 *
 * One file, every number little-endian, nothing aligned but the data:
 *   4 bytes "GGUF"; u32 version (2 and 3 have the same layout); u64 number of tensors; u64 number of
 *   metadata entries; the entries; the tensor infos; zeros up to the alignment; the data.
 *   string         u64 bytes, then that many bytes, UTF-8 by intention, no NUL behind them
 *   entry          string key (ASCII, at most 65535 bytes); u32 type; the value
 *   type           0 u8, 1 i8, 2 u16, 3 i16, 4 u32, 5 i32, 6 f32, 7 bool (a byte, 0 or 1), 8 string,
 *                  9 array: u32 type of the elements, u64 their number, the elements; 10 u64, 11 i64,
 *                  12 f64
 *   tensor info    string name; u32 number of dimensions (at most 4); u64 each, the fastest first;
 *                  u32 type; u64 offset from the first data byte, a multiple of the alignment
 * The alignment is the entry general.alignment (u32, a power of two from 8 on), 32 without one. Each
 * tensor begins where the one before it ends, rounded up to the alignment, and behind the last one
 * there is nothing but padding. Arrays of arrays are refused (no model has one).
 *
 * Split models: FILE-00001-of-00003.gguf and so on, each a whole GGUF file with the entries
 * split.count (3) and split.no (0, 1, 2), perhaps split.tensors.count (all tensors of the model).
 * The model's metadata is the first file's; a later file repeats it or leaves it out.
 *
 * Limits: 65536 entries and 1048576 tensors a file, names of 255 bytes, 1000 files.
 * Source: the GGUF specification (docs/gguf.md of ggml), version 3. */
#ifndef BASIN_IO_GGUF_H
#define BASIN_IO_GGUF_H

#include "base/dtype.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/sbuf.h"

enum { GGUF_MAX_DIM = 4 };

struct gguf_files; /* opaque: the mapped files of one model; const use from any thread */

struct gguf_tensor {
    const char *name;       /* borrowed: from the files */
    enum dtype dtype;       /* DT_COUNT: of a type that is known but not computed with */
    const char *dtype_text; /* static: "Q4_1", "IQ2_XS" */
    int n_dim;
    int64_t dim[GGUF_MAX_DIM]; /* row-major: the fastest last, the reverse of the file's order */
    const unsigned char *data; /* borrowed [bytes] */
    size_t bytes;
    int file; /* 0..gguf_file_count()-1 */
};

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STR,
    GGUF_ARR,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT
};

/* A metadata entry: n values of one type; a scalar is one value. */
struct gguf_value {
    const char *key;     /* borrowed: from the files */
    enum gguf_type type; /* of each value; never GGUF_ARR */
    bool array;
    size_t n; /* values */
    const unsigned char
        *data;        /* borrowed: the first value in the file; see the gguf_get_ functions */
    const size_t *at; /* borrowed [n]: strings only, where each one begins behind data */
    size_t offset;    /* of the entry in its file, for messages */
    size_t bytes;     /* of the values in the file */
};

/* Opens the model whose only or first file is `path`.
 * Errors: E_NOINPUT (no such file, missing split), E_FORMAT (file, byte and what is wrong),
 * E_UNSUPPORTED (version, byte order, an unknown type, nested arrays), E_IO (torn while read),
 * E_NOMEM. */
enum status gguf_open(struct gguf_files **out, const char *path, struct err *e) WARN_UNUSED;
void gguf_close(struct gguf_files *f);

/* Sets *path to the one model among the .gguf files of a directory (the first file of a split one),
 * or to "" when it has none. Errors: E_NOINPUT (cannot be read), E_ARG (several models), E_NOMEM. */
enum status gguf_find(struct sbuf *path, const char *dir, struct err *e) WARN_UNUSED;

/* ---- tensors */

size_t gguf_count(const struct gguf_files *f);
const struct gguf_tensor *gguf_at(const struct gguf_files *f, size_t i); /* in order of names */
const struct gguf_tensor *gguf_get(const struct gguf_files *f, const char *name); /* or NULL */

/* ---- metadata, of the first file */

size_t gguf_meta_count(const struct gguf_files *f);
const struct gguf_value *gguf_meta_at(const struct gguf_files *f, size_t i); /* in order of keys */
const struct gguf_value *gguf_meta_get(const struct gguf_files *f, const char *key); /* or NULL */
const char *gguf_type_name(enum gguf_type t); /* "u32", "string", ... */

/* Value i, 0 for a scalar. False when there is no value i, when it is of another kind, or (integers)
 * does not fit. Strings are borrowed bytes without a NUL behind them. */
bool gguf_get_int(const struct gguf_value *v, size_t i, int64_t *out);
bool gguf_get_num(const struct gguf_value *v, size_t i, double *out); /* f32 or f64 */
bool gguf_get_bool(const struct gguf_value *v, size_t i, bool *out);
bool gguf_get_str(const struct gguf_value *v, size_t i, const char **s, size_t *bytes);

/* ---- files */

size_t gguf_file_count(const struct gguf_files *f);
const char *gguf_borrow_path(const struct gguf_files *f, size_t i);

/* True once a page of some file could not be read because the file had shrunk; *path (may be NULL)
 * is that file's. Ask after computing with the data and before believing the result. Any thread. */
bool gguf_torn(const struct gguf_files *f, const char **path);

/* XXH128 of headers, file sizes and six samples of at most 4 KiB of each tensor (first and last
 * bytes included): tells models apart without reading them. Errors: E_NOMEM, E_IO (torn). */
enum status gguf_identity(const struct gguf_files *f, char text[HASH_TEXT],
                          struct err *e) WARN_UNUSED;

#endif
