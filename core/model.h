/* A model: an architecture, its files mapped read-only, and its weights as one device sees them.
 *
 * Opening reads headers only; weight data is touched when a layer is first prepared. One `struct
 * model` may be bound to several devices (`struct model_on`); it is const after model_open and
 * shareable. */
#ifndef BASIN_CORE_MODEL_H
#define BASIN_CORE_MODEL_H

#include "core/arch.h"
#include "core/vis.h"

struct model; /* opaque */

/* Opens a Hugging Face directory (config.json, model.safetensors or shards and their index), a GGUF
 * file (the first one of a split model), or a directory with one GGUF model and no safetensors.
 * Every tensor must be there in the right shape, and none may be left over.
 * Errors: E_NOINPUT, E_IO, E_FORMAT, E_UNSUPPORTED, E_NOMEM, each naming file and tensor or field.
 */
enum status model_open(struct model **out, const char *path, struct err *e) WARN_UNUSED;
/* The same of made-up weights, in the dimensions of a known model ("llama2-7b"), or in those that `config`, the
 * text of a config.json, says. n_thread: their elements are made in memory, by so many; 0: only a device that
 * makes them itself (dev_makes) computes with it. E_ARG: no such name; says which there are. */
enum status model_open_shape(struct model **out, const char *shape, int n_thread,
                             struct err *e) WARN_UNUSED;
enum status model_open_made(struct model **out, const char *label, const char *config, int n_thread,
                            struct err *e) WARN_UNUSED;
const char *const *model_shape_names(void); /* NULL-terminated */
void model_close(struct model *m);

const struct arch *model_arch(const struct model *m);
/* XXH128 of config.json or metadata, headers, sizes and a sample of every tensor: 32 hex digits, borrowed. */
const char *model_identity(const struct model *m);
/* Stored type of the first matrix: what `dtype: auto` goes by. */
enum dtype model_stored_dtype(const struct model *m);
int64_t model_file_bytes(const struct model *m);
int64_t model_params(const struct model *m);

/* E_IO by the file's name once a weight file has been cut short while mapped; OK otherwise. Results
 * computed since the last call must not be believed before this was asked. */
enum status model_check_files(const struct model *m, struct err *e) WARN_UNUSED;

/* One tensor of the files, and what it is to the model. */
struct model_entry {
    const char *name;       /* borrowed: from the model */
    const char *dtype_text; /* borrowed; as the file names its type */
    int n_dim;
    int64_t dim[8]; /* row-major */
    int64_t bytes;
    const struct arch_tensor *use; /* borrowed: static; NULL when it is not read */
    int64_t layer;                 /* of a per-layer role, else -1 */
    const char *ignored;           /* static: why it is not read; NULL when it is */
};
/* Tensor i of the files, in their order. False past the last one. */
bool model_entry_at(const struct model *m, size_t i, struct model_entry *out);

/* ---- on a device ---- */

enum { MODEL_MAX_CLASS = 2 };

struct model_rope {
    double *freq; /* owned f64 [n_rot / 2], NULL where nothing turns */
    double *past; /* the same for caches that hold more than the original context; NULL: freq */
    double mscale;
};

struct model_on {
    const struct model *model; /* borrowed: outlives this */
    struct dev *dev;           /* borrowed: outlives this */
    struct wt **layer;         /* owned [n_layer][ARCH_ROLE_COUNT], NULL where the model has none */
    struct wt *top[ARCH_ROLE_COUNT]; /* owned: what is not of a layer */
    /* Layers that see the same keys and turn alike. 0: those that follow S and W; 1: local layers. */
    struct vis_class classes[MODEL_MAX_CLASS];
    struct model_rope rope[MODEL_MAX_CLASS];
    int n_class;
    int *class_of_layer; /* owned [n_layer] */
    double *slopes;      /* owned f64 [n_head], what top[ARCH_SLOPES] reads; NULL without ALiBi */
};

enum status model_on_open(struct model_on **out, const struct model *m, struct dev *d,
                          struct err *e) WARN_UNUSED;
void model_on_close(struct model_on *mo);
/* The weights of layer l, for dev_weights_prepare/release and for reading by role. */
struct wt *const *model_layer(const struct model_on *mo, int64_t l);

#endif
