/* Architectures from the metadata of GGUF files. */
#include "core/arch.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* What is being read. */
struct reader {
    struct arch *a;
    const struct gguf_files *g;
    char prefix[64]; /* "llama." */
    struct err *e;
};

static const struct gguf_value *get(const struct reader *r, const char *key) {
    char name[192];
    snprintf(name, sizeof name, "%s%s", r->prefix, key);
    return gguf_meta_get(r->g, name);
}

// "model.gguf: byte 120: llama.block_count: " in front of what is wrong there.
static enum status bad(const struct reader *r, const char *key, enum status code, const char *fmt,
                       ...) PRINTF_LIKE(4, 5);
static enum status bad(const struct reader *r, const char *key, enum status code, const char *fmt,
                       ...) {
    const struct gguf_value *v = get(r, key);
    char what[256], place[48] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    if (v != NULL) snprintf(place, sizeof place, "byte %zu: ", v->offset);
    return err_fail(r->e, code, "%s: %s%s%.100s: %s", gguf_borrow_path(r->g, 0), place, r->prefix,
                    key, what);
}

static enum status wrong_kind(const struct reader *r, const char *key, const struct gguf_value *v,
                              const char *want) {
    return bad(r, key, E_FORMAT, "must be %s, not %s%s", want, v->array ? "an array of " : "",
               gguf_type_name(v->type));
}

/* ---- fields ---- */

// A scalar or, with `layers`, an array that says the same for every layer.
static enum status read_int(int64_t *out, const struct reader *r, const struct arch_field *f,
                            const struct gguf_value *v, bool layers) {
    if (v->array && !layers) return wrong_kind(r, f->key, v, "an integer");
    if (v->array && (v->n < 1 || (int64_t)v->n != r->a->n_layer)) {
        return bad(r, f->key, E_FORMAT, "has %zu values for %" PRId64 " layers", v->n,
                   r->a->n_layer);
    }
    for (size_t i = 0; i < v->n; i++) {
        int64_t n = 0;
        if (!gguf_get_int(v, i, &n)) return wrong_kind(r, f->key, v, "an integer");
        if (n < 1 || n > (int64_t)1 << 40) return bad(r, f->key, E_FORMAT, "out of range");
        if (i > 0 && n != *out) {
            return bad(r, f->key, E_UNSUPPORTED,
                       "layers that differ (%" PRId64 " and %" PRId64 ") are not supported", *out,
                       n);
        }
        *out = n;
    }
    return OK;
}

static enum status read_num(double *out, const struct reader *r, const struct arch_field *f,
                            const struct gguf_value *v) {
    if (v->array || !gguf_get_num(v, 0, out)) return wrong_kind(r, f->key, v, "a number");
    if (!(*out > 0 && *out < 1e18)) return bad(r, f->key, E_FORMAT, "out of range");
    return OK;
}

static enum status read_rope_kind(enum arch_rope_kind *out, const struct reader *r,
                                  const struct arch_field *f, const struct gguf_value *v) {
    static const struct {
        const char *name;
        enum arch_rope_kind kind;
    } kinds[] = {{"none", ROPE_PLAIN}, {"linear", ROPE_LINEAR}, {"yarn", ROPE_YARN}};
    const char *s = NULL;
    size_t n = 0;
    if (v->array || !gguf_get_str(v, 0, &s, &n)) return wrong_kind(r, f->key, v, "a string");
    for (size_t i = 0; i < COUNTOF(kinds); i++) {
        if (strlen(kinds[i].name) != n || memcmp(kinds[i].name, s, n) != 0) continue;
        *out = kinds[i].kind;
        return OK;
    }
    return bad(r, f->key, E_UNSUPPORTED, "\"%.*s\" is not supported; none, linear and yarn are",
               n < 40 ? (int)n : 40, s);
}

static enum status read_bool(bool *out, const struct reader *r, const struct arch_field *f,
                             const struct gguf_value *v) {
    if (v->array || !gguf_get_bool(v, 0, out)) return wrong_kind(r, f->key, v, "a bool");
    return OK;
}

static enum status check_false(const struct reader *r, const struct arch_field *f,
                               const struct gguf_value *v) {
    double x = 0;
    int64_t n = 0;
    bool b = false;
    if (!v->array && gguf_get_int(v, 0, &n) && n == 0) return OK;
    if (!v->array && gguf_get_bool(v, 0, &b) && !b) return OK;
    if (!v->array && gguf_get_num(v, 0, &x) && x == 0) return OK;
    return bad(r, f->key, E_UNSUPPORTED, "models that set this are not supported");
}

static enum status check_true(const struct reader *r, const struct arch_field *f,
                              const struct gguf_value *v) {
    bool b = false;
    const enum status st = read_bool(&b, r, f, v);
    if (st != OK || b) return st;
    return bad(r, f->key, E_UNSUPPORTED, "models that are false here are not supported");
}

// An integer, or 0 for there being none.
static enum status read_count(int64_t *out, const struct reader *r, const struct arch_field *f,
                              const struct gguf_value *v) {
    int64_t n = 0;
    if (!v->array && gguf_get_int(v, 0, &n) && n == 0) return OK; // stays 0
    return read_int(out, r, f, v, false);
}

// Flags, one a layer; or n, where layers n-1, 2n-1, ... are not local.
static enum status read_local(const struct reader *r, const struct arch_field *f,
                              const struct gguf_value *v) {
    struct arch *a = r->a;
    if (!v->array) return read_int(&a->given.global_every, r, f, v, false);
    if ((int64_t)v->n != a->n_layer || v->n > ARCH_MAX_LAYERS) {
        return bad(r, f->key, E_FORMAT, "has %zu values for %" PRId64 " layers", v->n, a->n_layer);
    }
    for (size_t i = 0; i < v->n; i++) {
        int64_t n = 0;
        bool b = false;
        if (!gguf_get_bool(v, i, &b) && !gguf_get_int(v, i, &n)) {
            return wrong_kind(r, f->key, v, "an integer or an array of bools");
        }
        if (b || n != 0) a->local_layers[i / 64] |= UINT64_C(1) << i % 64;
    }
    a->given.n_layer_types = a->n_layer;
    return OK;
}

static enum status read_field(const struct reader *r, const struct arch_field *f,
                              const struct gguf_value *v) {
    char *member = (char *)r->a + f->offset;
    enum status st = OK;
    int64_t n = 0;
    double x = 0;
    bool b = false;
    enum arch_rope_kind kind = ROPE_PLAIN;
    switch (f->kind) {
    case FIELD_INT:
    case FIELD_LAYERS:
        st = read_int(&n, r, f, v, f->kind == FIELD_LAYERS);
        if (st == OK) memcpy(member, &n, sizeof n);
        return st;
    case FIELD_NUM:
        st = read_num(&x, r, f, v);
        if (st == OK) memcpy(member, &x, sizeof x);
        return st;
    case FIELD_COUNT:
        st = read_count(&n, r, f, v);
        if (st == OK) memcpy(member, &n, sizeof n);
        return st;
    case FIELD_BOOL:
        st = read_bool(&b, r, f, v);
        if (st == OK) memcpy(member, &b, sizeof b);
        return st;
    case FIELD_ROPE:
        st = read_rope_kind(&kind, r, f, v);
        if (st == OK) memcpy(member, &kind, sizeof kind);
        return st;
    case FIELD_FALSE: return check_false(r, f, v);
    case FIELD_TRUE: return check_true(r, f, v);
    case FIELD_LOCAL: return read_local(r, f, v);
    case FIELD_SAME: // after all others: check_same
    case FIELD_ACT:  // from here on of config.json only
    case FIELD_WORD:
    case FIELD_GROUP:
    case FIELD_IGNORED: break;
    }
    return OK;
}

static enum status read_fields(const struct reader *r) {
    const struct arch_family *fam = r->a->family;
    for (int i = 0; i < fam->n_key; i++) {
        const struct arch_field *f = &fam->keys[i];
        const struct gguf_value *v = get(r, f->key);
        if (v == NULL && f->required) return bad(r, f->key, E_FORMAT, "missing");
        const enum status st = v != NULL ? read_field(r, f, v) : OK;
        if (st != OK) return st;
    }
    return OK;
}

// Everything under the architecture's name must be accounted for.
static enum status check_known(const struct reader *r) {
    const struct arch_family *fam = r->a->family;
    const size_t n = strlen(r->prefix);
    for (size_t k = 0; k < gguf_meta_count(r->g); k++) {
        const char *key = gguf_meta_at(r->g, k)->key;
        if (strncmp(key, r->prefix, n) != 0) continue;
        bool known = false;
        for (int i = 0; i < fam->n_key && !known; i++) {
            known = strcmp(fam->keys[i].key, key + n) == 0;
        }
        if (!known) {
            return bad(r, key + n, E_UNSUPPORTED,
                       "not an entry of the %s architecture that this program accounts for",
                       fam->gguf_arch);
        }
    }
    return OK;
}

static enum status check_same(const struct reader *r) {
    for (int i = 0; i < r->a->family->n_key; i++) {
        const struct arch_field *f = &r->a->family->keys[i];
        const struct gguf_value *v = f->kind == FIELD_SAME ? get(r, f->key) : NULL;
        if (v == NULL) continue;
        int64_t n = 0, want = 0;
        memcpy(&want, (const char *)r->a + f->offset, sizeof want);
        const enum status st = read_int(&n, r, f, v, false);
        if (st != OK) return st;
        if (n != want) {
            return bad(r, f->key, E_UNSUPPORTED,
                       "is %" PRId64 " where heads have %" PRId64 " dimensions", n, want);
        }
    }
    return OK;
}

/* ---- the rest ---- */

static enum status settle_rope(const struct reader *r, bool scaled) {
    struct arch_rope *p = &r->a->rope;
    // Files from before the scaling had a name mean the linear one.
    if (get(r, "rope.scaling.type") == NULL && scaled) p->kind = ROPE_LINEAR;
    if (p->kind != ROPE_PLAIN && !scaled) {
        return bad(r, "rope.scaling.factor", E_FORMAT, "missing");
    }
    if (p->kind == ROPE_YARN && p->attention_factor > 0) {
        // There it multiplies what the paper's formula gives; here it stands for all of it.
        p->attention_factor *= p->factor <= 1 ? 1 : 0.1 * log(p->factor) + 1;
    } else if (p->attention_factor > 0 && p->attention_factor != 1) {
        return bad(r, "rope.scaling.attn_factor", E_UNSUPPORTED,
                   "is not supported without yarn scaling");
    }
    return OK;
}

static const struct gguf_tensor *named(const struct reader *r, const char *pattern) {
    char name[256];
    if (pattern == NULL) return NULL;
    arch_tensor_name(name, sizeof name, pattern, 0);
    return gguf_get(r->g, name);
}

static const struct gguf_tensor *tensor(const struct reader *r, enum arch_role role) {
    const struct arch_tensor *t = arch_tensor_of(r->a->family, role);
    return t != NULL ? named(r, t->gguf) : NULL;
}

// What there is decides what metadata do not say.
static void look_at_tensors(const struct reader *r) {
    struct arch *a = r->a;
    const struct arch_tensor *norm = arch_tensor_of(a->family, ARCH_NORM_ATTN);
    a->given.gguf = true;
    a->given.gguf_norm_mlp = tensor(r, ARCH_NORM_MLP) != NULL;
    a->given.gguf_qk_norm = tensor(r, ARCH_NORM_Q) != NULL;
    a->given.gguf_also = norm != NULL && named(r, norm->gguf_also) != NULL;
    a->tied = tensor(r, ARCH_HEAD) == NULL;
    a->qkv_bias = tensor(r, ARCH_Q_BIAS) != NULL;
    a->o_bias = tensor(r, ARCH_O_BIAS) != NULL;
    a->mlp_bias = tensor(r, ARCH_UP_BIAS) != NULL;
    a->rope_freqs = tensor(r, ARCH_ROPE_FREQS) != NULL;
}

static enum status settle_shape(const struct reader *r) {
    struct arch *a = r->a;
    look_at_tensors(r);
    if (!arch_settle(a)) {
        return bad(r, "attention.head_count", E_FORMAT, "must divide the embedding length");
    }
    const struct gguf_value *tokens = gguf_meta_get(r->g, "tokenizer.ggml.tokens");
    const struct gguf_tensor *embed = tensor(r, ARCH_EMBED);
    if (a->n_vocab == 0 && tokens != NULL && tokens->array) a->n_vocab = (int64_t)tokens->n;
    if (a->n_vocab == 0 && embed != NULL && embed->n_dim == 2) a->n_vocab = embed->dim[0];
    if (a->n_vocab == 0) {
        return err_fail(r->e, E_FORMAT, "%s: neither a vocabulary nor a token embedding",
                        gguf_borrow_path(r->g, 0));
    }
    struct arch_fault fault;
    if (!arch_find_fault(a, &fault)) return OK;
    const char *key = "";
    for (int i = 0; i < a->family->n_key; i++) {
        const struct arch_field *f = &a->family->keys[i];
        if (f->offset != fault.offset) continue;
        if (f->kind == FIELD_INT || f->kind == FIELD_LAYERS || f->kind == FIELD_COUNT) key = f->key;
    }
    return bad(r, key, fault.code, "%s", fault.what);
}

static enum status find_family(struct reader *r) {
    static const char key[] = "general.architecture";
    const struct gguf_value *v = gguf_meta_get(r->g, key);
    const char *path = gguf_borrow_path(r->g, 0), *s = NULL;
    size_t n = 0;
    if (v == NULL) return err_fail(r->e, E_FORMAT, "%s: %s is missing", path, key);
    if (v->array || !gguf_get_str(v, 0, &s, &n)) {
        return err_fail(r->e, E_FORMAT, "%s: byte %zu: %s must be a string, not %s%s", path,
                        v->offset, key, v->array ? "an array of " : "", gguf_type_name(v->type));
    }
    r->a->family = arch_family_find_gguf(s, n);
    if (r->a->family == NULL) {
        char known[256];
        arch_family_names(known, sizeof known, true);
        return err_fail(r->e, E_UNSUPPORTED,
                        "%s: byte %zu: %s \"%.*s\" is not one this version knows (%s)", path,
                        v->offset, key, n < 40 ? (int)n : 40, s, known);
    }
    snprintf(r->prefix, sizeof r->prefix, "%s.", r->a->family->gguf_arch);
    return OK;
}

enum status arch_read_gguf(struct arch *a, const struct gguf_files *g, struct err *e) {
    enum status st = OK;
    struct reader r = {.a = a, .g = g, .e = e};
    memset(a, 0, sizeof *a);
    TRY(find_family(&r));
    arch_begin(a, a->family);
    a->rope.factor = 0; // 0 while the file has said nothing
    a->rope_interleaved = a->family->gguf_rope_interleaved;
    a->norm_offset = 0; // converters add it to the weights
    TRY(read_fields(&r));
    TRY(check_known(&r));
    const bool scaled = a->rope.factor > 0;
    if (!scaled) a->rope.factor = 1;
    TRY(settle_rope(&r, scaled));
    TRY(settle_shape(&r));
    TRY(check_same(&r));
done:
    return st;
}
