#include "core/arch.h"

#include <stdio.h>
#include <string.h>

// "config.json:12: $.hidden_size: " in front of what is wrong there.
static enum status bad(const struct json *j, const char *key, enum status code, struct err *e,
                       const char *what) {
    char path[192];
    snprintf(path, sizeof path, "$.%s", key);
    return err_fail(e, code, "%s:%d: %s: %s", json_borrow_label(j), json_line(j, path), path, what);
}

static enum status wrong_kind(const struct json *j, const char *key, const struct jnode *v,
                              const char *want, struct err *e) {
    char what[96];
    snprintf(what, sizeof what, "must be %s, not %s", want, json_kind_name(json_kind_of(v)));
    return bad(j, key, E_FORMAT, e, what);
}

static enum status read_act(enum act_kind *out, const struct json *j, const char *key,
                            const struct jnode *v, struct err *e) {
    static const struct {
        const char *name;
        enum act_kind act;
    } acts[] = {{"silu", ACT_SILU},
                {"swish", ACT_SILU},
                {"gelu", ACT_GELU_ERF},
                {"gelu_new", ACT_GELU_TANH},
                {"gelu_fast", ACT_GELU_TANH},
                {"gelu_pytorch_tanh", ACT_GELU_TANH},
                {"relu", ACT_RELU}};
    if (json_kind_of(v) != JSON_STR) return wrong_kind(j, key, v, "a string", e);
    for (size_t i = 0; i < COUNTOF(acts); i++) {
        if (strcmp(json_str(v, NULL), acts[i].name) == 0) {
            *out = acts[i].act;
            return OK;
        }
    }
    char what[96];
    snprintf(what, sizeof what, "activation \"%.40s\" is not known", json_str(v, NULL));
    return bad(j, key, E_UNSUPPORTED, e, what);
}

/* ---- rope_scaling ---- */

static enum status rope_number(double *out, const struct json *j, const char *object,
                               const struct jnode *v, const char *key, double least, bool required,
                               struct err *e) {
    char path[96];
    snprintf(path, sizeof path, "%s.%s", object, key);
    const struct jnode *x = json_get(v, key);
    if (x == NULL || json_kind_of(x) == JSON_NIL) {
        return required ? bad(j, object, E_FORMAT, e,
                              key[0] == 'f' ? "\"factor\" is missing"
                                            : "a number of this rope type is missing")
                        : OK;
    }
    if (json_kind_of(x) != JSON_INT && json_kind_of(x) != JSON_NUM) {
        return wrong_kind(j, path, x, "a number", e);
    }
    *out = json_num(x);
    if (!(*out >= least && *out <= 1e12)) return bad(j, path, E_FORMAT, e, "out of range");
    return OK;
}

static enum status rope_keys_known(enum arch_rope_kind kind, const struct json *j,
                                   const char *object, const struct jnode *v, struct err *e) {
    static const char *const known[] = {"short_factor", // these two of longrope only
                                        "long_factor",      "type",
                                        "rope_type",        "rope_theta",
                                        "factor",           "low_freq_factor",
                                        "high_freq_factor", "original_max_position_embeddings",
                                        "beta_fast",        "beta_slow",
                                        "mscale",           "mscale_all_dim",
                                        "attention_factor", "truncate",
                                        "finetuned"};
    for (struct json_iter it = json_iter(v); it.key != NULL; json_next(&it)) {
        bool ok = false;
        for (size_t i = kind == ROPE_LONG ? 0 : 2; i < COUNTOF(known); i++)
            ok = ok || strcmp(it.key, known[i]) == 0;
        if (ok) continue;
        char path[160];
        snprintf(path, sizeof path, "%s.%.80s", object, it.key);
        return bad(j, path, E_UNSUPPORTED, e, "unknown field");
    }
    return OK;
}

static enum status rope_kind(enum arch_rope_kind *out, const struct json *j, const char *object,
                             const struct jnode *v, struct err *e) {
    static const struct {
        const char *name;
        enum arch_rope_kind kind;
    } kinds[] = {{"default", ROPE_PLAIN}, {"linear", ROPE_LINEAR}, {"llama3", ROPE_LLAMA3},
                 {"yarn", ROPE_YARN},     {"longrope", ROPE_LONG}, {"su", ROPE_LONG}};
    const struct jnode *type = json_get(v, "rope_type");
    if (type == NULL) type = json_get(v, "type");
    if (type == NULL) return bad(j, object, E_FORMAT, e, "\"rope_type\" is missing");
    if (json_kind_of(type) != JSON_STR) return wrong_kind(j, object, type, "a rope_type string", e);
    for (size_t i = 0; i < COUNTOF(kinds); i++) {
        if (strcmp(json_str(type, NULL), kinds[i].name) == 0) {
            *out = kinds[i].kind;
            return OK;
        }
    }
    char what[192];
    snprintf(what, sizeof what,
             "rope type \"%.30s\" is not supported (its base changes with the length, or it is "
             "unknown); "
             "default, linear, llama3, yarn and longrope are",
             json_str(type, NULL));
    return bad(j, object, E_UNSUPPORTED, e, what);
}

// "short_factor": [1.0, ...]
static enum status rope_factors(double *by, int64_t *n, const struct json *j, const char *object,
                                const struct jnode *v, const char *key, struct err *e) {
    char path[96];
    snprintf(path, sizeof path, "%s.%s", object, key);
    const struct jnode *list = json_get(v, key);
    if (list == NULL) return bad(j, object, E_FORMAT, e, "a list of longrope factors is missing");
    if (json_kind_of(list) != JSON_ARR) return wrong_kind(j, path, list, "an array", e);
    if (json_len(list) > ARCH_MAX_PAIRS) return bad(j, path, E_FORMAT, e, "out of range");
    for (size_t i = 0; i < json_len(list); i++) {
        const struct jnode *x = json_at(list, i);
        const bool number = json_kind_of(x) == JSON_INT || json_kind_of(x) == JSON_NUM;
        if (!number) return wrong_kind(j, path, x, "an array of numbers", e);
        by[i] = json_num(x);
        if (!(by[i] >= 1e-6 && by[i] <= 1e12)) return bad(j, path, E_FORMAT, e, "out of range");
    }
    *n = (int64_t)json_len(list);
    return OK;
}

static enum status read_long(struct arch *a, const struct json *j, const char *object,
                             const struct jnode *v, struct err *e) {
    enum status st = OK;
    struct arch_long *l = &a->rope_long;
    TRY(rope_factors(l->short_by, &l->n_short, j, object, v, "short_factor", e));
    TRY(rope_factors(l->long_by, &l->n_long, j, object, v, "long_factor", e));
done:
    return st;
}

static enum status read_rope(struct arch *a, const struct json *j, const char *object,
                             const struct jnode *v, struct err *e) {
    enum status st = OK;
    struct arch_rope *r = &a->rope;
    if (json_kind_of(v) == JSON_NIL) return OK;
    if (json_kind_of(v) != JSON_OBJ) return wrong_kind(j, object, v, "an object or null", e);
    TRY(rope_kind(&r->kind, j, object, v, e));
    TRY(rope_keys_known(r->kind, j, object, v, e));
    TRY(rope_number(&r->theta, j, object, v, "rope_theta", 1e-6, false, e));
    if (r->kind == ROPE_PLAIN) goto done;
    if (r->kind == ROPE_LONG) TRY(read_long(a, j, object, v, e));
    TRY(rope_number(&r->factor, j, object, v, "factor", 1e-6, r->kind != ROPE_LONG, e));
    double original = 0;
    TRY(rope_number(&original, j, object, v, "original_max_position_embeddings", 1,
                    r->kind == ROPE_LLAMA3, e));
    if (original > 0) r->n_ctx_original = (int64_t)original;
    if (r->kind == ROPE_LLAMA3) {
        TRY(rope_number(&r->low_freq_factor, j, object, v, "low_freq_factor", 1e-6, true, e));
        TRY(rope_number(&r->high_freq_factor, j, object, v, "high_freq_factor", 1e-6, true, e));
        if (r->high_freq_factor <= r->low_freq_factor) {
            TRY(bad(j, object, E_FORMAT, e, "high_freq_factor must be above low_freq_factor"));
        }
    }
    TRY(rope_number(&r->beta_fast, j, object, v, "beta_fast", 1e-6, false, e));
    TRY(rope_number(&r->beta_slow, j, object, v, "beta_slow", 1e-6, false, e));
    TRY(rope_number(&r->mscale, j, object, v, "mscale", 0, false, e));
    TRY(rope_number(&r->mscale_all, j, object, v, "mscale_all_dim", 0, false, e));
    TRY(rope_number(&r->attention_factor, j, object, v, "attention_factor", 1e-6, false, e));
    const struct jnode *truncate = json_get(v, "truncate");
    if (truncate != NULL && json_kind_of(truncate) == JSON_BOOL) r->truncate = json_bool(truncate);
done:
    return st;
}

/* ---- config.json ---- */

static enum status read_layer_types(struct arch *a, const struct json *j, const char *key,
                                    const struct jnode *v, struct err *e) {
    if (json_kind_of(v) != JSON_ARR) return wrong_kind(j, key, v, "an array", e);
    if (json_len(v) < 1 || json_len(v) > ARCH_MAX_LAYERS) {
        return bad(j, key, E_FORMAT, e, "out of range");
    }
    for (size_t l = 0; l < json_len(v); l++) {
        const struct jnode *x = json_at(v, l);
        const char *type = json_kind_of(x) == JSON_STR ? json_str(x, NULL) : "";
        if (strcmp(type, "sliding_attention") == 0) {
            a->local_layers[l / 64] |= UINT64_C(1) << l % 64;
        } else if (strcmp(type, "full_attention") != 0) {
            return bad(j, key, E_UNSUPPORTED, e,
                       "layers are known as full_attention and sliding_attention");
        }
    }
    a->given.n_layer_types = (int64_t)json_len(v);
    return OK;
}

static enum status read_field(struct arch *a, const struct arch_field *f, const struct json *j,
                              const struct jnode *v, struct err *e) {
    char *member = (char *)a + f->offset;
    const enum json_kind kind = json_kind_of(v);
    char what[96];
    if (kind == JSON_NIL && !f->required) return OK; // null means "the default"
    switch (f->kind) {
    case FIELD_INT: {
        if (kind != JSON_INT) return wrong_kind(j, f->key, v, "an integer", e);
        const int64_t n = json_int(v);
        if (n < 1 || n > (int64_t)1 << 40) return bad(j, f->key, E_FORMAT, e, "out of range");
        memcpy(member, &n, sizeof n);
        return OK;
    }
    case FIELD_NUM: {
        if (kind != JSON_INT && kind != JSON_NUM) return wrong_kind(j, f->key, v, "a number", e);
        const double x = json_num(v);
        if (!(x > 0 && x < 1e18)) return bad(j, f->key, E_FORMAT, e, "out of range");
        memcpy(member, &x, sizeof x);
        return OK;
    }
    case FIELD_BOOL: {
        if (kind != JSON_BOOL) return wrong_kind(j, f->key, v, "true or false", e);
        const bool b = json_bool(v);
        memcpy(member, &b, sizeof b);
        return OK;
    }
    case FIELD_FALSE:
        if (kind == JSON_BOOL && !json_bool(v)) return OK;
        snprintf(what, sizeof what, "models that set this are not supported%s%s",
                 f->word != NULL ? ": " : "", f->word != NULL ? f->word : "");
        return bad(j, f->key, E_UNSUPPORTED, e, what);
    case FIELD_TRUE:
        if (kind == JSON_BOOL && json_bool(v)) return OK;
        return bad(j, f->key, E_UNSUPPORTED, e, "models without this are not supported");
    case FIELD_WORD:
        if (kind == JSON_STR && strcmp(json_str(v, NULL), f->word) == 0) return OK;
        snprintf(what, sizeof what, "models where this is not \"%s\" are not supported", f->word);
        return bad(j, f->key, E_UNSUPPORTED, e, what);
    case FIELD_LOCAL: return read_layer_types(a, j, f->key, v, e);
    case FIELD_GROUP: return wrong_kind(j, f->key, v, "an object", e);
    case FIELD_ROPE: return read_rope(a, j, f->key, v, e);
    case FIELD_ACT: return read_act(&a->act, j, f->key, v, e);
    case FIELD_LAYERS: // these three of GGUF metadata only
    case FIELD_COUNT:
    case FIELD_SAME:
    case FIELD_IGNORED: break;
    }
    return OK;
}

static enum status read_object(struct arch *a, const struct json *j, const struct jnode *object,
                               const char *prefix, struct err *e) {
    const struct arch_family *fam = a->family;
    for (struct json_iter it = json_iter(object); it.key != NULL; json_next(&it)) {
        const struct arch_field *f = NULL;
        char key[128], what[128];
        snprintf(key, sizeof key, "%s%.80s", prefix, it.key);
        for (int i = 0; i < fam->n_field && f == NULL; i++) {
            if (strcmp(fam->fields[i].key, key) == 0) f = &fam->fields[i];
        }
        if (f == NULL) f = arch_field_common(key);
        if (f == NULL) {
            snprintf(what, sizeof what,
                     "not a field of the %s family that this program accounts for", fam->name);
            return bad(j, key, E_UNSUPPORTED, e, what);
        }
        enum status st = OK;
        if (f->kind == FIELD_GROUP && json_kind_of(it.value) == JSON_OBJ) {
            snprintf(key, sizeof key, "%s.", f->key);
            st = read_object(a, j, it.value, key, e); // groups hold no groups
        } else {
            st = read_field(a, f, j, it.value, e);
        }
        if (st != OK) return st;
    }
    return OK;
}

// Whether the file has the field, under this name or another one of the same member.
static bool given(const struct arch_family *family, const struct json *j,
                  const struct arch_field *f) {
    for (int i = 0; i < family->n_field; i++) {
        const struct arch_field *other = &family->fields[i];
        const bool same = other == f || (f->offset != 0 && other->offset == f->offset);
        if (same && json_get(json_root(j), other->key) != NULL) return true;
    }
    return false;
}

// Two names of one number that do not agree.
static enum status check_names_agree(const struct arch_family *family, const struct json *j,
                                     struct err *e) {
    for (int i = 0; i < family->n_field; i++) {
        const struct arch_field *f = &family->fields[i];
        const struct jnode *v = json_get(json_root(j), f->key);
        const bool number = f->kind == FIELD_INT || f->kind == FIELD_NUM;
        if (!number || v == NULL || json_kind_of(v) == JSON_NIL) continue;
        for (int k = 0; k < i; k++) {
            const struct arch_field *g = &family->fields[k];
            const struct jnode *w = json_get(json_root(j), g->key);
            if (g->offset != f->offset || g->kind != f->kind) continue;
            if (w == NULL || json_kind_of(w) == JSON_NIL || json_num(w) == json_num(v)) continue;
            char what[96];
            snprintf(what, sizeof what, "is not what $.%.40s says, another name of it", g->key);
            return bad(j, f->key, E_FORMAT, e, what);
        }
    }
    return OK;
}

static enum status read_fields(struct arch *a, const struct json *j, struct err *e) {
    enum status st = read_object(a, j, json_root(j), "", e);
    if (st == OK) st = check_names_agree(a->family, j, e);
    if (st != OK) return st;
    for (int i = 0; i < a->family->n_field; i++) {
        const struct arch_field *f = &a->family->fields[i];
        if (f->required && !given(a->family, j, f)) {
            return bad(j, f->key, E_FORMAT, e, "missing");
        }
    }
    return OK;
}

static enum status check_shape(const struct arch *a, const struct json *j, struct err *e) {
    struct arch_fault fault;
    if (!arch_find_fault(a, &fault)) return OK;
    const char *key = "", *heads = "";
    for (int i = 0; i < a->family->n_field; i++) {
        const struct arch_field *f = &a->family->fields[i];
        const bool says = json_get(json_root(j), f->key) != NULL;
        if (f->offset == fault.offset && (says || key[0] == '\0')) key = f->key;
        if (f->offset == offsetof(struct arch, n_head)) heads = f->key;
    }
    if (key[0] == '\0') key = heads; // a number that no field gives comes from this one
    return bad(j, key, fault.code, e, fault.what);
}

enum status arch_read(struct arch *a, const struct json *config, struct err *e) {
    enum status st = OK;
    const struct jnode *root = json_root(config);
    memset(a, 0, sizeof *a);
    if (json_kind_of(root) != JSON_OBJ) {
        FAIL(e, E_FORMAT, "%s:1: must be an object", json_borrow_label(config));
    }
    const struct jnode *type = json_get(root, "model_type");
    if (type == NULL) TRY(bad(config, "model_type", E_FORMAT, e, "missing"));
    if (json_kind_of(type) != JSON_STR) TRY(wrong_kind(config, "model_type", type, "a string", e));
    a->family = arch_family_find(json_str(type, NULL));
    if (a->family == NULL) {
        char known[256], what[384];
        arch_family_names(known, sizeof known, false);
        snprintf(what, sizeof what, "\"%.40s\" is not a family this version knows (%s)",
                 json_str(type, NULL), known);
        TRY(bad(config, "model_type", E_UNSUPPORTED, e, what));
    }
    arch_begin(a, a->family);
    a->rope_interleaved = a->family->rope_interleaved;
    TRY(read_fields(a, config, e));
    if (!arch_settle(a)) {
        TRY(bad(config, "num_attention_heads", E_FORMAT, e, "must divide hidden_size"));
    }
    TRY(check_shape(a, config, e));
done:
    return st;
}
