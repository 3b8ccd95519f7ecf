/* The normalizer, pre_tokenizer and decoder trees of tokenizer.json. */
#include "base/mem.h"
#include "io/tokjson_impl.h"

#include <stdio.h>
#include <string.h>

enum { MAX_STEPS = 32, MAX_DEPTH = 8, PATH_MAX_TEXT = 64 };

struct walk {
    struct tokjson *t;
    const struct json *j;
    const char *metaspace; // where the Metaspace pre-tokenizer stands, NULL without one
    char metaspace_path[PATH_MAX_TEXT];
    bool decodes_spaces, byte_level; // what the decoder does
};

static int find_name(const char *const *names, size_t n, const char *s) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(names[i], s) == 0) return (int)i;
    }
    return -1;
}

// What a step may say: the same in all three trees. A Sequence's list is looked for by each().
static const struct {
    const char *type, *fields[6];
} steps[] = {
    {"Sequence", {"type", "normalizers", "pretokenizers", "decoders"}},
    {"NFC", {"type"}},
    {"NFD", {"type"}},
    {"NFKC", {"type"}},
    {"NFKD", {"type"}},
    {"Lowercase", {"type"}},
    {"Prepend", {"type", "prepend"}},
    {"Replace", {"type", "pattern", "content"}},
    {"ByteLevel", {"type", "add_prefix_space", "trim_offsets", "use_regex"}},
    {"Split", {"type", "pattern", "behavior", "invert"}},
    {"Digits", {"type", "individual_digits"}},
    {"Punctuation", {"type", "behavior"}},
    {"Whitespace", {"type"}},
    {"WhitespaceSplit", {"type"}},
    {"Metaspace", {"type", "replacement", "add_prefix_space", "prepend_scheme", "split"}},
    {"Fuse", {"type"}},
    {"ByteFallback", {"type"}},
    {"Strip", {"type", "content", "start", "stop"}},
};

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
    for (size_t i = 0; i < COUNTOF(steps); i++) {
        if (strcmp(steps[i].type, type->s) != 0) continue;
        TRY(tokjson_only_known(w->j, *v, path, steps[i].fields, e));
    }
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
    static const char *const kinds[] = {"String", "Regex", NULL};
    TRY(tokjson_want(w->j, p, at, JSON_OBJ, e));
    TRY(tokjson_only_known(w->j, p, at, kinds, e));
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

static enum status read_metaspace(struct walk *w, const struct jnode *v, const char *path,
                                  struct err *e);

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
    if (strcmp(type.s, "Metaspace") == 0) {
        TRY(read_metaspace(w, v, path, e));
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

/* ---- Metaspace, and the spaces written as U+2581 ---- */

static const char LOW_BAR[] = "\xE2\x96\x81";

static bool same(struct tokjson_str a, const char *b) {
    return a.n == strlen(b) && memcmp(a.s, b, a.n) == 0;
}

// What text.s[0..n) holds anywhere.
static bool holds(struct tokjson_str text, const char *what) {
    return memmem(text.s, text.n, what, strlen(what)) != NULL;
}

static enum status read_replacement(const struct walk *w, const struct jnode *v, const char *path,
                                    struct err *e) {
    enum status st = OK;
    struct tokjson_str bar = {LOW_BAR, 3};
    if (json_get(v, "replacement") != NULL) {
        TRY(tokjson_string(w->j, v, path, "replacement", &bar, e));
    }
    if (!same(bar, LOW_BAR)) {
        st = tokjson_fail(w->j, e, E_UNSUPPORTED, path, "only U+2581 may stand for a space");
    }
done:
    return st;
}

// Older files say add_prefix_space instead of prepend_scheme.
static enum status read_scheme(const struct walk *w, const struct jnode *v, const char *path,
                               enum tokjson_prefix *out, struct err *e) {
    enum status st = OK;
    bool add;
    struct tokjson_str scheme;
    TRY(tokjson_bool(w->j, v, path, "add_prefix_space", true, &add, e));
    *out = add ? TOKJSON_PREFIX_UNLESS_THERE : TOKJSON_PREFIX_NONE;
    const struct jnode *name = json_get(v, "prepend_scheme");
    if (name == NULL || json_kind_of(name) == JSON_NIL) goto done;
    TRY(tokjson_string(w->j, v, path, "prepend_scheme", &scheme, e));
    if (same(scheme, "always")) {
        *out = TOKJSON_PREFIX_UNLESS_THERE;
    } else if (same(scheme, "first")) {
        *out = TOKJSON_PREFIX_FIRST;
    } else if (same(scheme, "never")) {
        *out = TOKJSON_PREFIX_NONE;
    } else {
        st = tokjson_fail(w->j, e, E_FORMAT, path, "unknown prepend_scheme \"%.40s\"", scheme.s);
    }
done:
    return st;
}

static enum status read_metaspace(struct walk *w, const struct jnode *v, const char *path,
                                  struct err *e) {
    enum status st = OK;
    struct tokjson *t = w->t;
    if (w->metaspace != NULL) {
        st = tokjson_fail(w->j, e, E_UNSUPPORTED, path, "a second Metaspace");
        goto done;
    }
    snprintf(w->metaspace_path, sizeof w->metaspace_path, "%s", path);
    w->metaspace = w->metaspace_path;
    TRY(read_replacement(w, v, path, e));
    TRY(tokjson_bool(w->j, v, path, "split", true, &t->split_spaces, e));
    TRY(read_scheme(w, v, path, &t->prefix, e));
done:
    return st;
}

// A text in which U+2581 stands for spaces is worked on with spaces in their place (tokens and
// other settings alike), so that a place in it is a place in the document. So the step that writes
// U+2581 becomes one that does away with those that stand in the document itself.
static enum status turn_spaces(struct walk *w, struct err *e) {
    enum status st = OK;
    struct tokjson *t = w->t;
    size_t turned = SIZE_MAX;
    for (size_t i = 0; i < t->n_norms; i++) {
        struct tokjson_norm *m = &t->norms[i];
        if (m->kind == TOKJSON_REPLACE && same(m->pattern, " ") && same(m->content, LOW_BAR)) {
            turned = i;
        }
    }
    t->spaced = w->metaspace != NULL || turned != SIZE_MAX;
    for (size_t i = 0; t->spaced && i < t->n_norms; i++) {
        struct tokjson_norm *m = &t->norms[i];
        const bool prepends_bar = m->kind == TOKJSON_PREPEND && same(m->content, LOW_BAR);
        if (i == turned) {
            m->pattern = (struct tokjson_str){LOW_BAR, 3};
            m->content = (struct tokjson_str){" ", 1};
        } else if (prepends_bar) {
            m->content = (struct tokjson_str){" ", 1};
        } else if ((m->kind == TOKJSON_REPLACE || m->kind == TOKJSON_PREPEND) &&
                   (holds(m->content, LOW_BAR) || holds(m->content, " ") ||
                    (m->kind == TOKJSON_REPLACE &&
                     (holds(m->pattern, LOW_BAR) || holds(m->pattern, " "))))) {
            st = tokjson_fail(w->j, e, E_UNSUPPORTED, "$.normalizer",
                              "a second step that reads or writes spaces or U+2581");
            goto done;
        }
    }
done:
    return st;
}

// Pre-tokenizers that would tell a space from U+2581.
static enum status check_spaced_pres(struct walk *w, struct err *e) {
    enum status st = OK;
    struct tokjson *t = w->t;
    size_t n = 0;
    for (size_t i = 0; i < t->n_pres; i++) {
        struct tokjson_pre *p = &t->pres[i];
        const bool plain = p->kind == TOKJSON_SPLIT && !p->is_regex && !holds(p->pattern, LOW_BAR);
        // No space is left where this one looks for it.
        if (plain && w->metaspace == NULL && holds(p->pattern, " ") && !p->invert) continue;
        const bool fine = p->kind == TOKJSON_DIGITS || p->kind == TOKJSON_PUNCTUATION ||
                          (plain && !holds(p->pattern, " "));
        if (!fine || w->metaspace != NULL) {
            st = tokjson_fail(w->j, e, E_UNSUPPORTED, p->place,
                              "this pre-tokenizer with spaces written as U+2581");
            goto done;
        }
        t->pres[n++] = *p;
    }
    t->n_pres = n;
done:
    return st;
}

/* ---- decoder: ids come from bytes and go back to bytes; checked that it means just that ---- */

static enum status read_strip(struct walk *w, const struct jnode *v, const char *path,
                              struct err *e) {
    enum status st = OK;
    struct tokjson_str content;
    TRY(tokjson_string(w->j, v, path, "content", &content, e));
    const struct jnode *start = json_get(v, "start"), *stop = json_get(v, "stop");
    const bool known = start != NULL && json_kind_of(start) == JSON_INT && json_int(start) <= 1 &&
                       stop != NULL && json_kind_of(stop) == JSON_INT && json_int(stop) == 0;
    if (!known || !same(content, " ")) {
        st = tokjson_fail(w->j, e, E_UNSUPPORTED, path,
                          "decoder \"Strip\" of anything but one space in front");
        goto done;
    }
    w->t->strip_space = json_int(start) == 1;
done:
    return st;
}

static enum status read_decoder(struct walk *w, const struct jnode *v, const char *path, int depth,
                                struct err *e) {
    enum status st = OK;
    struct tokjson_str type = {NULL, 0}, pattern, content;
    TRY(read_type(w, &v, path, &type, e));
    if (v == NULL || strcmp(type.s, "Fuse") == 0) goto done;
    const bool chars = w->t->model == TOKJSON_CHARS;
    if (strcmp(type.s, "Sequence") == 0) {
        TRY(each(w, v, path, "decoders", depth, read_decoder, e));
    } else if (strcmp(type.s, "ByteLevel") == 0) {
        w->byte_level = true;
    } else if (chars && strcmp(type.s, "ByteFallback") == 0) {
        goto done; // what tokens of bytes stand for anyway
    } else if (chars && strcmp(type.s, "Strip") == 0) {
        TRY(read_strip(w, v, path, e));
    } else if (chars && strcmp(type.s, "Metaspace") == 0) {
        enum tokjson_prefix scheme;
        TRY(read_replacement(w, v, path, e));
        TRY(read_scheme(w, v, path, &scheme, e));
        w->decodes_spaces = true;
        w->t->strip_space = scheme != TOKJSON_PREFIX_NONE;
    } else if (chars && strcmp(type.s, "Replace") == 0) {
        bool is_regex;
        TRY(read_pattern(w, v, path, &pattern, &is_regex, e));
        TRY(tokjson_string(w->j, v, path, "content", &content, e));
        w->decodes_spaces = !is_regex && same(pattern, LOW_BAR) && same(content, " ");
        if (!w->decodes_spaces) {
            st = tokjson_fail(w->j, e, E_UNSUPPORTED, path,
                              "decoder \"Replace\" of anything but U+2581 by a space");
        }
    } else {
        st = tokjson_fail(w->j, e, E_UNSUPPORTED, path, "decoder \"%.40s\" is not supported",
                          type.s);
    }
done:
    return st;
}

enum status tokjson_read_pipeline(struct tokjson *t, const struct json *j, struct err *e) {
    enum status st = OK;
    struct walk w = {.t = t, .j = j};
    const struct jnode *root = json_root(j);
    TRY(mem_zalloc(&t->norms, MAX_STEPS, sizeof *t->norms, e));
    TRY(mem_zalloc(&t->pres, MAX_STEPS, sizeof *t->pres, e));
    TRY(read_norm(&w, json_get(root, "normalizer"), "$.normalizer", 0, e));
    TRY(read_pre(&w, json_get(root, "pre_tokenizer"), "$.pre_tokenizer", 0, e));
    t->model = TOKJSON_CHARS;
    for (size_t i = 0; i < t->n_pres; i++) {
        if (t->pres[i].kind == TOKJSON_BYTE_LEVEL) t->model = TOKJSON_BYTES;
    }
    if (t->model == TOKJSON_CHARS) {
        TRY(turn_spaces(&w, e));
        if (t->spaced) TRY(check_spaced_pres(&w, e));
    } else if (w.metaspace != NULL) {
        st = tokjson_fail(j, e, E_UNSUPPORTED, w.metaspace, "Metaspace together with ByteLevel");
        goto done;
    }
    TRY(read_decoder(&w, json_get(root, "decoder"), "$.decoder", 0, e));
    if (t->model == TOKJSON_CHARS && w.byte_level) {
        st = tokjson_fail(j, e, E_UNSUPPORTED, "$.pre_tokenizer",
                          "no ByteLevel, but the decoder has one");
        goto done;
    }
    if (t->spaced && json_get(root, "decoder") != NULL && !w.decodes_spaces &&
        json_kind_of(json_get(root, "decoder")) != JSON_NIL) {
        st = tokjson_fail(j, e, E_UNSUPPORTED, "$.decoder", "leaves U+2581 as it is");
    }
done:
    return st;
}
