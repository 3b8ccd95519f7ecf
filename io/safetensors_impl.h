/* Private to io/safetensors*.c. */
#ifndef BASIN_IO_SAFETENSORS_IMPL_H
#define BASIN_IO_SAFETENSORS_IMPL_H

#include "io/safetensors.h"

enum { ST_PREFIX_BYTES = 8 }; /* the header's length, in front of it */

struct st_file {
    struct fmap *map;    /* owned */
    struct json *doc;    /* owned; the header: tensors borrow their names from it */
    const char *path;    /* borrowed: from map */
    size_t header_bytes; /* of the JSON */
};

struct st_files {
    struct st_file *files; /* owned [n_files] */
    size_t n_files;
    struct st_tensor *tensors; /* owned [n_tensors], sorted by name once open */
    size_t n_tensors, cap_tensors;
    char *label; /* owned; the model, for messages */
};

/* Opens f->files[i], checks its header completely and appends its tensors. */
enum status st_read_file(struct st_files *f, size_t i, const char *path, struct err *e) WARN_UNUSED;

#endif
