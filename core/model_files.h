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
    uint64_t made; /* as in struct dev_weight_src; then `data` may be NULL */
    int made_shift;
};

/* Opens `path` (see model_open), maps its files and reads the architecture. */
enum status model_files_open(struct model_files **out, struct arch *a, const char *path,
                             struct err *e) WARN_UNUSED;
/* A model of made-up weights in the dimensions of `config`, a config.json's text; `label` stands for its path.
 * n_thread: the elements are made in memory as well, by so many; 0: they are not. core/model_made.c */
enum status model_files_make(struct model_files **out, struct arch *a, const char *label,
                             const char *config, int n_thread, struct err *e) WARN_UNUSED;
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

/* The tensors of such a model, in bytewise order of names, all of bf16. Owned; free with model_made_free. */
struct model_made {
    struct model_tensor *tensors; /* [n] */
    size_t n;
    char (*names)[128];   /* [n] */
    bf16_t *ones, *zeros; /* of vectors */
    bf16_t *elements;     /* of matrices, or NULL */
};
enum status model_made_open(struct model_made *out, const struct arch *a, int n_thread,
                            struct err *e) WARN_UNUSED;
void model_made_free(struct model_made *m);

#endif
