/* The normalizer, pre_tokenizer and decoder trees of tokenizer.json. */
#include "base/mem.h"
#include "io/tokjson_impl.h"

#include <stdio.h>
#include <string.h>

enum { MAX_STEPS = 32, MAX_DEPTH = 8, PATH_MAX_TEXT = 64 };

struct walk {
    struct tokjson *t;
    const struct json *j;
};

static int find_name(const char *const *names, size_t n, const char *s) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(names[i], s) == 0) return (int)i;
    }
    return -1;
}

// The object at `path` and its `type`; *v becomes NULL for null or absent.
static enum status read_type(const struct walk *w, const struct jnode **v, const char *path,
                             struct tokjson_str *type, struct err *e) {
    enum status st = OK;
    if (*v == NULL || json_kind_of(*v) == JSON_NIL) {
        *v = NULL;
        goto done;
    }
    TRY(tokjson_want(w->j, *v, path, JSON_OBJ, e));
    TRY(tokjson_string(w->j, *v, path, "type", type, e));
done:
    return st;
}

// `pattern` of Split and Replace: {"String": s} or {"Regex": s}.
static enum status read_pattern(const struct walk *w, const struct jnode *v, const char *path,
                                struct tokjson_str *out, bool *is_regex, struct err *e) {
    enum status st = OK;
    char at[PATH_MAX_TEXT + 16];
    snprintf(at, sizeof at, "%s.pattern", path);
    const struct jnode *p = json_get(v, "pattern");
    TRY(tokjson_want(w->j, p, at, JSON_OBJ, e));
    *is_regex = json_get(p, "Regex") != NULL;
    TRY(tokjson_string(w->j, p, at, *is_regex ? "Regex" : "String", out, e));
    if (out->n == 0) st = tokjson_fail(w->j, e, E_UNSUPPORTED, at, "an empty pattern");
done:
    return st;
}

// Calls one() for every member of a Sequence, `key` being the name of its list.
typedef enum status step_fn(struct walk *w, const struct jnode *v, const char *path, int depth,
                            struct err *e);

static enum status each(struct walk *w, const struct jnode *v, const char *path, const char *key,
                        int depth, step_fn *one, struct err *e) {
    enum status st = OK;
    char at[PATH_MAX_TEXT + 32];
    snprintf(at, sizeof at, "%s.%s", path, key);
    const struct jnode *list = json_get(v, key);
    TRY(tokjson_want(w->j, list, at, JSON_ARR, e));
    if (depth >= MAX_DEPTH) {
        st = tokjson_fail(w->j, e, E_FORMAT, path, "nested too deeply");
        goto done;
    }
    for (size_t i = 0; i < json_len(list); i++) {
        snprintf(at, sizeof at, "%s.%s[%zu]", path, key, i);
        TRY(one(w, json_at(list, i), at, depth + 1, e));
    }
done:
    return st;
}

/* ---- normalizers ---- */

static enum status read_norm(struct walk *w, const struct jnode *v, const char *path, int depth,
                             struct err *e) {
    static const char *const names[] = {"NFC",       "NFD",     "NFKC",   "NFKD",
                                        "Lowercase", "Prepend", "Replace"};
    enum status st = OK;
    struct tokjson_str type = {NULL, 0};
    struct tokjson *t = w->t;
    TRY(read_type(w, &v, path, &type, e));
    if (v == NULL) goto done;
    if (strcmp(type.s, "Sequence") == 0) {
        TRY(each(w, v, path, "normalizers", depth, read_norm, e));
        goto done;
    }
    const int kind = find_name(names, COUNTOF(names), type.s);
    if (kind < 0) {
        st = tokjson_fail(w->j, e, E_UNSUPPORTED, path, "normalizer \"%.40s\" is not supported",
                          type.s);
        goto done;
    }
    if (t->n_norms == MAX_STEPS) {
        st = tokjson_fail(w->j, e, E_FORMAT, path, "more than %d normalizers", MAX_STEPS);
        goto done;
    }
    struct tokjson_norm *s = &t->norms[t->n_norms++];
    s->kind = (enum tokjson_norm_kind)kind;
    if (kind == TOKJSON_PREPEND) TRY(tokjson_string(w->j, v, path, "prepend", &s->content, e));
    if (kind == TOKJSON_REPLACE) {
        bool is_regex;
        TRY(read_pattern(w, v, path, &s->pattern, &is_regex, e));
        TRY(tokjson_string(w->j, v, path, "content", &s->content, e));
        if (is_regex) {
            st = tokjson_fail(w->j, e, E_UNSUPPORTED, path,
                              "normalizer \"Replace\" with a regex is not supported");
        }
    }
done:
    return st;
}

/* ---- pre-tokenizers ---- */

static enum status read_behavior(const struct walk *w, const struct jnode *v, const char *path,
                                 enum tokjson_behavior *out, struct err *e) {
    static const char *const names[] = {"Isolated", "Removed", "Contiguous", "MergedWithPrevious",
                                        "MergedWithNext"};
    enum status st = OK;
    struct tokjson_str s;
    TRY(tokjson_string(w->j, v, path, "behavior", &s, e));
    const int i = find_name(names, COUNTOF(names), s.s);
    if (i < 0) {
        st = tokjson_fail(w->j, e, E_FORMAT, path, "unknown behavior \"%.40s\"", s.s);
        goto done;
    }
    *out = (enum tokjson_behavior)i;
done:
    return st;
}

static enum status read_pre_fields(const struct walk *w, const struct jnode *v, const char *path,
                                   struct tokjson_pre *p, struct err *e) {
    enum status st = OK;
    switch (p->kind) {
    case TOKJSON_BYTE_LEVEL:
        TRY(tokjson_bool(w->j, v, path, "add_prefix_space", true, &p->add_prefix_space, e));
        TRY(tokjson_bool(w->j, v, path, "use_regex", true, &p->use_regex, e));
        break;
    case TOKJSON_SPLIT:
        TRY(read_pattern(w, v, path, &p->pattern, &p->is_regex, e));
        TRY(read_behavior(w, v, path, &p->behavior, e));
        TRY(tokjson_bool(w->j, v, path, "invert", false, &p->invert, e));
        break;
    case TOKJSON_DIGITS:
        TRY(tokjson_bool(w->j, v, path, "individual_digits", false, &p->individual_digits, e));
        break;
    case TOKJSON_PUNCTUATION:
        p->behavior = TOKJSON_ISOLATED;
        if (json_get(v, "behavior") != NULL) TRY(read_behavior(w, v, path, &p->behavior, e));
        break;
    case TOKJSON_WHITESPACE:
    case TOKJSON_WHITESPACE_SPLIT: break;
    }
done:
    return st;
}

static enum status read_pre(struct walk *w, const struct jnode *v, const char *path, int depth,
                            struct err *e) {
    static const char *const names[] = {"ByteLevel",   "Split",      "Digits",
                                        "Punctuation", "Whitespace", "WhitespaceSplit"};
    enum status st = OK;
    struct tokjson_str type = {NULL, 0};
    struct tokjson *t = w->t;
    TRY(read_type(w, &v, path, &type, e));
    if (v == NULL) goto done;
    if (strcmp(type.s, "Sequence") == 0) {
        TRY(each(w, v, path, "pretokenizers", depth, read_pre, e));
        goto done;
    }
    const int kind = find_name(names, COUNTOF(names), type.s);
    if (kind < 0) {
        st = tokjson_fail(w->j, e, E_UNSUPPORTED, path, "pre-tokenizer \"%.40s\" is not supported",
                          type.s);
        goto done;
    }
    if (t->n_pres == MAX_STEPS) {
        st = tokjson_fail(w->j, e, E_FORMAT, path, "more than %d pre-tokenizers", MAX_STEPS);
        goto done;
    }
    struct tokjson_pre *p = &t->pres[t->n_pres++];
    p->kind = (enum tokjson_pre_kind)kind;
    snprintf(p->place, sizeof p->place, "%s", path);
    TRY(read_pre_fields(w, v, path, p, e));
done:
    return st;
}

/* ---- decoder: only checked, since ids come from bytes and go back to bytes ---- */

static enum status read_decoder(struct walk *w, const struct jnode *v, const char *path, int depth,
                                struct err *e) {
    enum status st = OK;
    struct tokjson_str type = {NULL, 0};
    TRY(read_type(w, &v, path, &type, e));
    if (v == NULL || strcmp(type.s, "ByteLevel") == 0) goto done;
    if (strcmp(type.s, "Sequence") == 0) {
        TRY(each(w, v, path, "decoders", depth, read_decoder, e));
        goto done;
    }
    st = tokjson_fail(w->j, e, E_UNSUPPORTED, path, "decoder \"%.40s\" is not supported", type.s);
done:
    return st;
}

enum status tokjson_read_pipeline(struct tokjson *t, const struct json *j, struct err *e) {
    enum status st = OK;
    struct walk w = {t, j};
    const struct jnode *root = json_root(j);
    TRY(mem_zalloc(&t->norms, MAX_STEPS, sizeof *t->norms, e));
    TRY(mem_zalloc(&t->pres, MAX_STEPS, sizeof *t->pres, e));
    TRY(read_norm(&w, json_get(root, "normalizer"), "$.normalizer", 0, e));
    TRY(read_pre(&w, json_get(root, "pre_tokenizer"), "$.pre_tokenizer", 0, e));
    TRY(read_decoder(&w, json_get(root, "decoder"), "$.decoder", 0, e));
done:
    return st;
}
