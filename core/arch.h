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
    ARCH_EMBED,     /* [n_vocab, d_model] */
    ARCH_POSITIONS, /* [n_ctx_train + pos_offset, d_model]: added to the embedding */
    ARCH_NORM_OUT,  /* [d_model] before the head */
    ARCH_NORM_OUT_BIAS,
    ARCH_HEAD, /* [n_vocab, d_model]; the embedding again when tied */
    ARCH_HEAD_BIAS,
    ARCH_SLOPES,     /* [n_head]: made by arch_slopes, in no file */
    ARCH_ROPE_FREQS, /* [n_rot / 2]: divides the angles of the rotary pairs; GGUF only */
    ARCH_NORM_ATTN,  /* first per-layer role */
    ARCH_NORM_ATTN_BIAS,
    ARCH_Q,
    ARCH_Q_BIAS,
    ARCH_K,
    ARCH_K_BIAS,
    ARCH_V,
    ARCH_V_BIAS,
    ARCH_NORM_Q, /* [d_head]: each head by itself; or the whole row */
    ARCH_NORM_K,
    ARCH_O,
    ARCH_O_BIAS,
    ARCH_NORM_ATTN_POST, /* of what attention adds */
    ARCH_NORM_MLP,       /* none: the MLP reads what attention reads */
    ARCH_NORM_MLP_BIAS,
    ARCH_GATE, /* none: the activation is of `up` alone */
    ARCH_GATE_BIAS,
    ARCH_UP,
    ARCH_UP_BIAS,
    ARCH_DOWN,
    ARCH_DOWN_BIAS,
    ARCH_NORM_MLP_POST,
    ARCH_ROLE_COUNT
};

/* In which models of the family a tensor is. */
enum arch_when {
    WHEN_ALWAYS,
    WHEN_UNTIED,
    WHEN_QKV_BIAS,
    WHEN_O_BIAS,
    WHEN_MLP_BIAS,
    WHEN_NORM_BIAS,
    WHEN_QK_NORM,
    WHEN_NORM_MLP,
    WHEN_NORM_MLP_BIAS,
    WHEN_ROPE_FREQS
};

/* Which rows of the stored tensor are the role's. */
enum arch_part {
    PART_WHOLE,
    PART_QKV,        /* q, k and v, one after the other */
    PART_QKV_GROUPS, /* for each head of k: its heads of q, then k, then v */
    PART_GATE_UP     /* gate, then up */
};

/* Where a role's tensor is. `name` holds one %d, the layer, for per-layer roles; so does `also`,
 * another name that some exports of the family use for the same tensor, or NULL; and so do `gguf` and
 * `gguf_also`, its names in GGUF files. `name` is NULL for what only they have. Where a model has both
 * names, `also` is the role's. A transposed tensor is stored as [n_in, n_out]. `part` and `transposed`
 * describe `name`: converters to GGUF put q, k and v one after the other and transpose nothing. */
struct arch_tensor {
    enum arch_role role;
    enum arch_when when;
    const char *name, *also, *gguf, *gguf_also;
    enum arch_part part;
    bool transposed;
};

enum arch_field_kind {
    FIELD_INT,   /* positive integer into an int64_t member */
    FIELD_NUM,   /* positive finite number into a double member */
    FIELD_BOOL,  /* into a bool member */
    FIELD_ROPE,  /* rope_scaling, rope_parameters: an object or null; GGUF: the scaling's name */
    FIELD_ACT,   /* name of an activation */
    FIELD_FALSE, /* something this program does not do: false, null or 0, or refused by name */
    FIELD_TRUE,  /* true or absent, or refused by name */
    FIELD_WORD,  /* the string `word`, or refused by name */
    FIELD_LOCAL, /* which layers are local: layer_types; GGUF: a flag for each, or every how many not */
    FIELD_GROUP,   /* an object whose members are the fields "KEY.MEMBER" */
    FIELD_IGNORED, /* has no bearing on scoring */
    FIELD_LAYERS,  /* GGUF: as FIELD_INT, or an array that says the same for every layer */
    FIELD_COUNT,   /* GGUF: as FIELD_INT, or 0 */
    FIELD_SAME     /* GGUF: an integer that must be what the member has come out as */
};
struct arch_field {
    const char *key;
    enum arch_field_kind kind;
    bool required;
    size_t offset;    /* of the member in struct arch */
    const char *word; /* FIELD_FALSE: why, or NULL */
};

/* When a layer's own window (sliding_window) is in force (DESIGN section 1): never; in every layer
 * where attention is dense; in the local layers, always. */
enum arch_window { WINDOW_NONE, WINDOW_DENSE, WINDOW_LOCAL };

/* How a model knows its positions: rotated keys and queries, a bias by distance, or a table of
 * learned vectors added to the embedding. */
enum arch_positions { POS_ROPE, POS_ALIBI, POS_LEARNED };

enum arch_rope_kind { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN, ROPE_LONG };
struct arch_rope {
    enum arch_rope_kind kind;
    double theta;
    double factor;
    double low_freq_factor, high_freq_factor;        /* llama3 */
    double beta_fast, beta_slow, mscale, mscale_all; /* yarn */
    double attention_factor; /* yarn, longrope: 0 when the paper's formula decides */
    bool truncate;           /* yarn */
    int64_t n_ctx_original;
};

enum { ARCH_MAX_LAYERS = 4096, ARCH_MAX_PAIRS = 256 };

/* longrope: divisors of the angles of each rotary pair, for caches that hold no more than the original
 * context, and for larger ones. */
struct arch_long {
    int64_t n_short, n_long;
    double short_by[ARCH_MAX_PAIRS], long_by[ARCH_MAX_PAIRS];
};

/* What only a family's settle reads. */
struct arch_given {
    bool multi_query, new_decoder, linear_bias, no_bias, alibi, qk_by_d, logn, dynamic_ntk;
    double expansion, width_scale, output_alpha, query_scalar, logits_by;
    int64_t global_every, n_layer_types, embed_dim, n_parallel_norm, n_group;
    bool gguf;                                   /* read from metadata, and there are tensors: */
    bool gguf_norm_mlp, gguf_qk_norm, gguf_also; /* NORM_MLP, NORM_Q, a `gguf_also` of NORM_ATTN */
};

struct arch {
    const struct arch_family *family; /* borrowed: static */
    int64_t n_layer, d_model, n_head, n_kv, d_head, d_ff, n_vocab;
    int64_t n_ctx_train; /* max_position_embeddings */
    /* A query may see so many keys; past that it would be another model. 0: any. */
    int64_t n_seen_most;
    /* A query that sees n > n_logn keys is scaled by log n / log n_logn. 0: never. */
    int64_t n_logn;
    int64_t pos_offset;           /* row of the position table that is position 0's */
    int64_t window;               /* sliding_window; 0 when there is none */
    int64_t n_rot;                /* leading dimensions of a head that turn; 0: none */
    double rotary_share;          /* n_rot by d_head, where n_rot is not given */
    double norm_eps, norm_offset; /* norm_offset: added to the weights of norms */
    double embed_scale, attn_scale, logit_scale;
    double branch_scale;                /* of what attention and MLP add to the stream */
    double attn_softcap, logit_softcap; /* 0: none */
    double qkv_clip;                    /* q, k and v lie within it of 0; 0: anywhere */
    double alibi_max, alibi_scale;      /* slopes: alibi_scale * 2^(-alibi_max (h + 1) / n_head) */
    enum arch_positions positions;
    struct arch_rope rope, rope_local; /* rope_local: of local layers */
    struct arch_long rope_long;
    enum act_kind act;
    bool rope_interleaved;
    bool parallel; /* attention and MLP both read the stream as the layer found it */
    bool tied, qkv_bias, o_bias, mlp_bias, norm_bias, qk_norm, norm_mlp;
    bool qk_norm_row;                            /* q and k are normalised over all heads at once */
    bool rope_freqs;                             /* there is a tensor of that role */
    uint64_t local_layers[ARCH_MAX_LAYERS / 64]; /* bit l: layer l is local */
    struct arch_given given;
};

struct arch_family {
    const char *name;
    const char *model_types[4]; /* values of config.json's model_type */
    const char *gguf_arch;      /* value of general.architecture in GGUF files; NULL: none */
    enum norm_kind norm;
    /* Pairs (2k, 2k+1) turn, instead of (k, k + n_rot/2). Converters to GGUF reorder the rows of q and
     * k of some families, so that the same model is the other kind there. */
    bool rope_interleaved, gguf_rope_interleaved;
    enum arch_window window;
    struct arch defaults; /* what holds where a file says nothing */
    const struct arch_tensor *tensors;
    int n_tensor;
    const struct arch_field *fields; /* of config.json, besides the common ones */
    int n_field;
    const struct arch_field *keys; /* of GGUF metadata, behind "ARCHITECTURE." */
    int n_key;
    const char *const *
        ignored_tensors; /* suffixes of tensors that hold nothing of use; NULL-terminated, or NULL */
    /* What follows from the numbers of a file, or NULL. n_kv, d_head and the embedding's and the
     * logits' scale have their general values; the scale of scores is set after it where it is 0. */
    void (*settle)(struct arch *a);
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

/* A model of the family about whose numbers nothing has been read yet. */
void arch_begin(struct arch *a, const struct arch_family *family);
/* Completes what the fields of a file have left open. False: n_head does not divide d_model. */
bool arch_settle(struct arch *a);

const struct arch_tensor *arch_tensor_of(const struct arch_family *f, enum arch_role role);
bool arch_per_layer(const struct arch_tensor *t);
enum wt_use arch_use(enum arch_role role);
/* `pattern` with the layer in the place of its %d. */
void arch_tensor_name(char *name, size_t cap, const char *pattern, int64_t layer);

/* A role's logical shape, and where its rows lie in the stored tensor: see struct dev_weight_src. */
struct arch_place {
    int64_t n_out, n_in, n_stored_rows, first, block, stride;
};
struct arch_place arch_place(const struct arch *a, enum arch_role role, enum arch_part part);
/* Whether the model has this tensor at all. */
bool arch_has(const struct arch *a, const struct arch_tensor *t);
bool arch_is_local(const struct arch *a, int64_t layer);

/* Angle per position of each rotary pair, freq[k] for k = 0..n_rot/2 - 1, and the factor on cos
 * and sin. Source: Su et al., arXiv:2104.09864; Chen et al., arXiv:2306.15595 (linear); Peng et
 * al., arXiv:2309.00071 (yarn); Ding et al., arXiv:2402.13753 (longrope); the Llama 3.1 model card (llama3). */
void arch_rope_freqs(const struct arch *a, const struct arch_rope *r, double *freq, double *mscale);
/* The angles of longrope for caches that hold more than the original context. */
void arch_rope_freqs_past(const struct arch *a, double *freq);

/* ALiBi slopes, slope[h] for h = 0..n_head-1. Source: Press et al., arXiv:2108.12409, and its code
 * for head counts that are no power of two. */
void arch_slopes(const struct arch *a, double *slope);

/* core/families.c */
const struct arch_family *arch_family_find(const char *model_type);
const struct arch_family *arch_family_find_gguf(const char *architecture, size_t bytes);
const struct arch_family *arch_family_at(int i); /* NULL past the last */
/* A field of config.json that means the same in every family, or NULL. */
const struct arch_field *arch_field_common(const char *key);
/* "llama, Yi, mistral, ..." or, with `gguf`, the architectures of GGUF files. */
void arch_family_names(char *text, size_t cap, bool gguf);

#endif
