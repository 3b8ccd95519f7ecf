/* Reader of safetensors models: model.safetensors, or the shards that model.safetensors.index.json
 * names. Files are mapped read-only; opening reads headers only.
 *
 * One file: u64 little-endian N (at most 100,000,000), N bytes of JSON, data to the end of the
 * file. The JSON is an object; "__metadata__" (optional) maps strings to strings; every other
 * member is a tensor {"dtype": NAME, "shape": [int, ...], "data_offsets": [begin, end]}, offsets
 * counted from the first data byte. The tensors cover the data exactly: no overlap, no hole,
 * nothing behind them. At most 8 dimensions. Row-major, elements little-endian.
 * Index: {"weight_map": {TENSOR: FILE}}; FILE lies in the same directory, and files and map name
 * exactly the same tensors. Source: the safetensors format description, version 0.4. */
#ifndef BASIN_IO_SAFETENSORS_H
#define BASIN_IO_SAFETENSORS_H

#include "base/dtype.h"
#include "base/err.h"
#include "base/hash.h"

enum { ST_MAX_DIM = 8 };

struct st_files; /* opaque: the mapped files of one model; const use from any thread */

struct st_tensor {
    const char *name;       /* borrowed: from the files */
    enum dtype dtype;       /* DT_COUNT: of a type that is known but not computed with */
    const char *dtype_text; /* borrowed; as written in the file, "BF16", "F8_E4M3" */
    int n_dim;
    int64_t dim[ST_MAX_DIM];
    const unsigned char *data; /* borrowed [bytes]; aligned only as the file happens to be */
    size_t bytes;
    int file; /* 0..st_file_count()-1 */
};

/* Opens the model in directory `model` (the index is preferred when both are there), or the single
 * file `model`.
 * Errors: E_NOINPUT (no such model, missing shard), E_FORMAT (file, tensor and what is wrong),
 * E_UNSUPPORTED (a dtype nobody knows), E_IO (torn while read), E_NOMEM. */
enum status st_open(struct st_files **out, const char *model, struct err *e) WARN_UNUSED;
void st_close(struct st_files *f);

size_t st_count(const struct st_files *f);
const struct st_tensor *st_at(const struct st_files *f, size_t i); /* in bytewise order of names */
const struct st_tensor *st_get(const struct st_files *f, const char *name); /* NULL when none */

/* As st_get, for a tensor one cannot do without. Errors: E_FORMAT (no such tensor), E_UNSUPPORTED
 * (its dtype is DT_COUNT), both by name. */
enum status st_need(const struct st_tensor **out, const struct st_files *f, const char *name,
                    struct err *e) WARN_UNUSED;

size_t st_file_count(const struct st_files *f);
const char *st_borrow_file_path(const struct st_files *f, size_t i); /* in order of names */
size_t st_file_bytes(const struct st_files *f, size_t i);

/* True once a page of some file could not be read because the file had shrunk; *path (may be NULL)
 * is that file's. Ask after computing with the data and before believing the result. Any thread. */
bool st_torn(const struct st_files *f, const char **path);

/* XXH128 of headers, file sizes and six samples of at most 4 KiB of each tensor (first and last
 * bytes included): tells models apart without reading them. Errors: E_NOMEM, E_IO (torn). */
enum status st_identity(const struct st_files *f, char text[HASH_TEXT], struct err *e) WARN_UNUSED;

/* XXH128 of every byte of every file, in order of names. Errors: as st_identity. */
enum status st_hash_full(const struct st_files *f, char text[HASH_TEXT], struct err *e) WARN_UNUSED;

#endif
