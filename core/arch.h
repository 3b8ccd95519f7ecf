/* Architectures: what a model family looks like, as data.
 *
 * A family is one `struct arch_family`, a row of the table in core/families.c: its shape (norms,
 * positions, residuals, MLP), and for each format (a Hugging Face directory, a GGUF file) the names
 * of its tensors and the fields of config.json or of the metadata that it accounts for. A model is a
 * `struct arch`: a family with the numbers of one file. The one forward pass (core/forward.c) reads
 * both and knows no family by name. A field that its family does not account for is an error, so
 * that nothing which could change the result is ever passed over. */
#ifndef BASIN_CORE_ARCH_H
#define BASIN_CORE_ARCH_H

#include "base/err.h"
#include "io/gguf.h"
#include "io/json.h"
#include "kernels/dev.h"

/* What a tensor is for. Vectors are [n], matrices [n_out, n_in]. */
enum arch_role {
    ARCH_EMBED,      /* [n_vocab, d_model] */
    ARCH_NORM_OUT,   /* [d_model] before the head */
    ARCH_HEAD,       /* [n_vocab, d_model]; the embedding again when tied */
    ARCH_ROPE_FREQS, /* [d_head / 2]: divides the angles of the rotary pairs; GGUF only */
    ARCH_NORM_ATTN,  /* first per-layer role */
    ARCH_Q,
    ARCH_Q_BIAS,
    ARCH_K,
    ARCH_K_BIAS,
    ARCH_V,
    ARCH_V_BIAS,
    ARCH_O,
    ARCH_O_BIAS,
    ARCH_NORM_MLP,
    ARCH_GATE,
    ARCH_GATE_BIAS,
    ARCH_UP,
    ARCH_UP_BIAS,
    ARCH_DOWN,
    ARCH_DOWN_BIAS,
    ARCH_ROLE_COUNT
};

enum arch_dim {
    DIM_ONE,
    DIM_MODEL,
    DIM_HEADS,
    DIM_KV,
    DIM_FF,
    DIM_VOCAB,
    DIM_PAIRS
}; /* DIM_HEADS: n_head * d_head; DIM_PAIRS: d_head / 2 */
enum arch_when { WHEN_ALWAYS, WHEN_UNTIED, WHEN_ATTN_BIAS, WHEN_MLP_BIAS, WHEN_ROPE_FREQS };

/* Where a role's tensor is. `name` holds one %d, the layer, for per-layer roles; so does `also`,
 * another name that some exports of the family use for the same tensor, or NULL; and so does `gguf`,
 * its name in GGUF files. `name` is NULL for what only they have. */
struct arch_tensor {
    enum arch_role role;
    enum wt_use use;
    enum arch_when when;
    enum arch_dim n_out, n_in;
    const char *name, *also, *gguf;
};

enum arch_field_kind {
    FIELD_INT,     /* positive integer into an int64_t member */
    FIELD_NUM,     /* positive finite number into a double member */
    FIELD_BOOL,    /* into a bool member */
    FIELD_ROPE,    /* rope_scaling, rope_parameters: an object or null; GGUF: the scaling's name */
    FIELD_ACT,     /* hidden_act: name of an activation */
    FIELD_FALSE,   /* something this program does not do: false, null or 0, or refused by name */
    FIELD_IGNORED, /* has no bearing on scoring */
    FIELD_LAYERS,  /* GGUF: as FIELD_INT, or an array that says the same for every layer */
    FIELD_SAME     /* GGUF: an integer that must be what the member has come out as */
};
struct arch_field {
    const char *key;
    enum arch_field_kind kind;
    bool required;
    size_t offset; /* of the member in struct arch */
};

/* When a layer's own window (sliding_window) is in force (DESIGN section 1). */
enum arch_window { WINDOW_NONE, WINDOW_DENSE };

struct arch_family {
    const char *name;
    const char *model_types[4]; /* values of config.json's model_type */
    const char *gguf_arch;      /* value of general.architecture in GGUF files; NULL: none */
    enum norm_kind norm;
    enum act_kind gguf_act; /* GGUF files do not name it */
    /* Pairs (2k, 2k+1) turn, instead of (k, k + d_head/2). Converters to GGUF reorder the rows of q and
     * k of some families, so that the same model is the other kind there. */
    bool rope_interleaved, gguf_rope_interleaved;
    enum arch_window window;
    const struct arch_tensor *tensors;
    int n_tensor;
    const struct arch_field *fields; /* of config.json */
    int n_field;
    const struct arch_field *keys; /* of GGUF metadata, behind "ARCHITECTURE." */
    int n_key;
    const char *const
        *ignored_tensors; /* suffixes of tensors that hold nothing of use; NULL-terminated */
};

enum arch_rope_kind { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN };
struct arch_rope {
    enum arch_rope_kind kind;
    double theta;
    double factor;
    double low_freq_factor, high_freq_factor;        /* llama3 */
    double beta_fast, beta_slow, mscale, mscale_all; /* yarn */
    double attention_factor;                         /* yarn: 0 when the paper's formula decides */
    bool truncate;                                   /* yarn */
    int64_t n_ctx_original;
};

struct arch {
    const struct arch_family *family; /* borrowed: static */
    int64_t n_layer, d_model, n_head, n_kv, d_head, d_ff, n_vocab;
    int64_t n_ctx_train; /* max_position_embeddings */
    int64_t window;      /* sliding_window; 0 when there is none */
    double norm_eps;
    struct arch_rope rope;
    enum act_kind act;
    bool rope_interleaved;
    bool tied, attn_bias, mlp_bias;
    bool rope_freqs; /* there is a tensor of that role */
};

/* Reads config.json. Every field must be accounted for. Errors: E_FORMAT (type, range, missing),
 * E_UNSUPPORTED (a family, field, activation or rope scaling that is not known), each with file,
 * line and JSON path. */
enum status arch_read(struct arch *a, const struct json *config, struct err *e) WARN_UNUSED;

/* The same from GGUF metadata; tensors tell whether the head is tied and whether there are biases.
 * core/arch_gguf.c */
enum status arch_read_gguf(struct arch *a, const struct gguf_files *g, struct err *e) WARN_UNUSED;

/* What is wrong with the numbers of a model, checked for every format: the member of struct arch at
 * `offset`. False when nothing is. */
struct arch_fault {
    size_t offset;
    enum status code;
    const char *what; /* static */
};
bool arch_find_fault(const struct arch *a, struct arch_fault *fault);

const struct arch_tensor *arch_tensor_of(const struct arch_family *f, enum arch_role role);
bool arch_per_layer(const struct arch_tensor *t);
/* `pattern` with the layer in the place of its %d. */
void arch_tensor_name(char *name, size_t cap, const char *pattern, int64_t layer);

int64_t arch_dim(const struct arch *a, enum arch_dim d);
/* Whether the model has this tensor at all. */
bool arch_has(const struct arch *a, const struct arch_tensor *t);

/* Angle per position of each rotary pair, freq[k] for k = 0..d_head/2 - 1, and the factor on cos
 * and sin. Source: Su et al., arXiv:2104.09864; Chen et al., arXiv:2306.15595 (linear); Peng et
 * al., arXiv:2309.00071 (yarn); the Llama 3.1 model card (llama3). */
void arch_rope_freqs(const struct arch *a, double *freq, double *mscale);

/* core/families.c */
const struct arch_family *arch_family_find(const char *model_type);
const struct arch_family *arch_family_find_gguf(const char *architecture, size_t bytes);
const struct arch_family *arch_family_at(int i); /* NULL past the last */

#endif
