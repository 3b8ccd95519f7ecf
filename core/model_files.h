/* The files of a model, whatever their format: a Hugging Face directory or a GGUF file. Private to
 * core/; model.c sees tensors through this and no format. */
#ifndef BASIN_CORE_MODEL_FILES_H
#define BASIN_CORE_MODEL_FILES_H

#include "core/arch.h"

struct model_files; /* opaque; const use from any thread */

enum { MODEL_MAX_DIM = 8 };

struct model_tensor {
    const char *name;       /* borrowed: from the files */
    enum dtype dtype;       /* DT_COUNT: of a type that is known but not computed with */
    const char *dtype_text; /* borrowed; as the format names it */
    int n_dim;
    int64_t dim[MODEL_MAX_DIM]; /* row-major */
    const unsigned char *data;  /* borrowed [bytes] */
    size_t bytes;
};

/* Opens `path` (see model_open), maps its files and reads the architecture. */
enum status model_files_open(struct model_files **out, struct arch *a, const char *path,
                             struct err *e) WARN_UNUSED;
void model_files_close(struct model_files *f);

size_t model_files_count(const struct model_files *f);
const struct model_tensor *model_files_at(const struct model_files *f, size_t i);
const struct model_tensor *model_files_get(const struct model_files *f, const char *name);

/* A tensor's name in this format: a pattern, or NULL where the format has no such tensor; and
 * another name for it, or NULL. */
const char *model_files_name(const struct model_files *f, const struct arch_tensor *t);
const char *model_files_also(const struct model_files *f, const struct arch_tensor *t);
/* Which rows of that tensor are the role's, and whether it is stored as [n_in, n_out]. */
enum arch_part model_files_part(const struct model_files *f, const struct arch_tensor *t);
bool model_files_transposed(const struct model_files *f, const struct arch_tensor *t);

const char *
model_files_config(const struct model_files *f); /* what shapes come from: for messages */
bool model_files_torn(const struct model_files *f, const char **path);
const char *model_files_identity(const struct model_files *f); /* 32 hex digits, borrowed */

#endif
