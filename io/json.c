#include "io/json.h"

#include "base/mem.h"
#include "io/fmap.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct json {
    json_t *root; /* owned */
    char *text;   /* owned; kept so that json_line() can find places */
    size_t n;
    char *label; /* owned */
};

static const json_t *real(const struct jnode *v) {
    return (const json_t *)(const void *)v;
}

static const struct jnode *view(const json_t *v) {
    return (const struct jnode *)(const void *)v;
}

enum status json_open_text(struct json **out, const char *label, const char *text, size_t n,
                           struct err *e) {
    enum status st = OK;
    struct json *j = NULL;
    *out = NULL;
    TRY(mem_zalloc(&j, 1, sizeof *j, e));
    TRY(mem_dup(&j->text, text, n, e));
    TRY(mem_dup(&j->label, label, strlen(label), e));
    j->n = n;
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY;
    json_error_t je;
    j->root = json_loadb(j->text, n, flags, &je);
    // Hugging Face writes 10^30 for "no limit": only then are integers read as doubles, so that
    // everywhere else 4 and 4.0 stay different things.
    if (j->root == NULL && json_error_code(&je) == json_error_numeric_overflow) {
        j->root = json_loadb(j->text, n, flags | JSON_DECODE_INT_AS_REAL, &je);
    }
    if (j->root == NULL) {
        const enum status code =
            json_error_code(&je) == json_error_out_of_memory ? E_NOMEM : E_FORMAT;
        FAIL(e, code, "%s:%d:%d: %s", label, je.line < 1 ? 1 : je.line,
             je.column < 1 ? 1 : je.column, je.text);
    }
    *out = j;
    j = NULL;
done:
    json_close(j);
    return st;
}

enum status json_open(struct json **out, const char *path, size_t max_bytes, struct err *e) {
    enum status st = OK;
    struct fmap *m = NULL;
    *out = NULL;
    TRY(fmap_open(&m, path, e));
    if (fmap_bytes(m) > max_bytes) {
        FAIL(e, E_FORMAT, "%s: %zu bytes; at most %zu are read from such a file", path,
             fmap_bytes(m), max_bytes);
    }
    const void *data = fmap_borrow_data(m);
    TRY(json_open_text(out, path, data != NULL ? data : "", fmap_bytes(m), e));
    if (fmap_torn(m)) FAIL(e, E_IO, "%s: cut short while it was read", path);
done:
    if (st != OK) {
        json_close(*out);
        *out = NULL;
    }
    fmap_close(m);
    return st;
}

void json_close(struct json *j) {
    if (j == NULL) return;
    json_decref(j->root);
    mem_free(j->text);
    mem_free(j->label);
    mem_free(j);
}

const struct jnode *json_root(const struct json *j) {
    return view(j->root);
}

const char *json_borrow_label(const struct json *j) {
    return j->label;
}

const char *json_borrow_text(const struct json *j, size_t *n) {
    *n = j->n;
    return j->text;
}

enum json_kind json_kind_of(const struct jnode *v) {
    switch (json_typeof(real(v))) {
    case JSON_OBJECT: return JSON_OBJ;
    case JSON_ARRAY: return JSON_ARR;
    case JSON_STRING: return JSON_STR;
    case JSON_INTEGER: return JSON_INT;
    case JSON_REAL: {
        const double x = json_real_value(real(v)); // a whole number in a document read as doubles
        return x == floor(x) && fabs(x) < 0x1p53 ? JSON_INT : JSON_NUM;
    }
    case JSON_TRUE:
    case JSON_FALSE: return JSON_BOOL;
    case JSON_NULL: break;
    }
    return JSON_NIL;
}

const char *json_kind_name(enum json_kind k) {
    static const char *const names[] = {"null",   "boolean", "integer", "number",
                                        "string", "array",   "object"};
    return names[k];
}

bool json_bool(const struct jnode *v) {
    return json_is_true(real(v));
}

int64_t json_int(const struct jnode *v) {
    return json_is_real(real(v)) ? (int64_t)json_real_value(real(v))
                                 : (int64_t)json_integer_value(real(v));
}

double json_num(const struct jnode *v) {
    return json_number_value(real(v));
}

const char *json_str(const struct jnode *v, size_t *n) {
    if (n != NULL) *n = json_string_length(real(v));
    return json_string_value(real(v));
}

size_t json_len(const struct jnode *v) {
    return json_is_object(real(v)) ? json_object_size(real(v)) : json_array_size(real(v));
}

const struct jnode *json_at(const struct jnode *v, size_t i) {
    return view(json_array_get(real(v), i));
}

const struct jnode *json_get(const struct jnode *v, const char *key) {
    return view(json_object_get(real(v), key));
}

static void load_iter(struct json_iter *it) {
    it->key = it->at != NULL ? json_object_iter_key(it->at) : NULL;
    it->value = it->at != NULL ? view(json_object_iter_value(it->at)) : NULL;
}

struct json_iter json_iter(const struct jnode *v) {
    struct json_iter it = {.object = v};
    it.at = json_object_iter((json_t *)(uintptr_t)real(v));
    load_iter(&it);
    return it;
}

void json_next(struct json_iter *it) {
    it->at = json_object_iter_next((json_t *)(uintptr_t)real(it->object), it->at);
    load_iter(it);
}

/* ---- places: a second, tiny scan of text that is known to be valid JSON ---- */

static const char *skip_space(const char *p) {
    while (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r') p++;
    return p;
}

static const char *skip_string(const char *p) { // at the opening quote
    for (p++; *p != '"'; p++) {
        if (*p == '\\') p++;
    }
    return p + 1;
}

static const char *skip_value(const char *p) {
    if (*p == '"') return skip_string(p);
    if (*p != '{' && *p != '[') {
        while (*p != '\0' && strchr(",]} \t\r\n", *p) == NULL) p++;
        return p;
    }
    int depth = 0;
    do {
        if (*p == '"') {
            p = skip_string(p);
            continue;
        }
        depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
        p++;
    } while (depth > 0);
    return p;
}

// The member `key` of the object at p, or element `index` of the array at p; NULL when it has none.
static const char *descend(const char *p, const char *key, size_t key_n, size_t index) {
    const char open = key != NULL ? '{' : '[', close = key != NULL ? '}' : ']';
    if (*p != open) return NULL;
    p = skip_space(p + 1);
    for (size_t i = 0; *p != close; i++) {
        if (key != NULL) {
            const char *name = p + 1;
            const char *end = skip_string(p);
            const bool hit = (size_t)(end - 1 - name) == key_n && memcmp(name, key, key_n) == 0;
            p = skip_space(skip_space(end) + 1); // the colon
            if (hit) return p;
        } else if (i == index) {
            return p;
        }
        p = skip_space(skip_value(p));
        if (*p == ',') p = skip_space(p + 1);
    }
    return NULL;
}

// The value at `path`, or the deepest value on the way that exists; *whole tells which.
static const char *locate(const struct json *j, const char *path, bool *whole) {
    const char *at = skip_space(j->text);
    while (*path == '$') path++;
    *whole = false;
    while (*path != '\0') {
        const char *next = NULL;
        if (*path == '.') {
            const size_t n = strcspn(path + 1, ".[");
            next = descend(at, path + 1, n, 0);
            path += 1 + n;
        } else if (*path == '[') {
            char *end = NULL;
            next = descend(at, NULL, 0, (size_t)strtoull(path + 1, &end, 10));
            path = *end == ']' ? end + 1 : end;
        }
        if (next == NULL) return at;
        at = next;
    }
    *whole = true;
    return at;
}

int json_line(const struct json *j, const char *path) {
    bool whole = false;
    const char *at = locate(j, path, &whole);
    int line = 1;
    for (const char *p = j->text; p < at; p++) line += *p == '\n';
    return line;
}

bool json_span(const struct json *j, const char *path, size_t *begin, size_t *end) {
    bool whole = false;
    const char *at = locate(j, path, &whole);
    *begin = (size_t)(at - j->text);
    *end = (size_t)(skip_value(at) - j->text);
    return whole;
}
