/* Small readers shared by the parts of the tokenizer.json reader. */
#include "base/mem.h"
#include "io/tokjson_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum status tokjson_map_init(struct tokjson_map *m, size_t n, struct err *e) {
    m->cap = 16;
    while (m->cap < n * 2) m->cap *= 2;
    return mem_zalloc(&m->slots, m->cap, sizeof *m->slots, e);
}

void tokjson_map_fini(struct tokjson_map *m) {
    mem_free(m->slots);
    m->slots = NULL;
}

static size_t map_slot(const struct tokjson_map *m, const char *s, size_t n) {
    size_t i = (size_t)hash_64(s, n) & (m->cap - 1);
    while (m->slots[i].key.s != NULL &&
           (m->slots[i].key.n != n || memcmp(m->slots[i].key.s, s, n) != 0)) {
        i = (i + 1) & (m->cap - 1);
    }
    return i;
}

void tokjson_map_put(struct tokjson_map *m, struct tokjson_str key, int32_t value) {
    const size_t i = map_slot(m, key.s, key.n);
    m->slots[i].key = key;
    m->slots[i].value = value;
}

int32_t tokjson_map_get(const struct tokjson_map *m, const char *s, size_t n) {
    if (m->slots == NULL) return -1;
    const size_t i = map_slot(m, s, n);
    return m->slots[i].key.s != NULL ? m->slots[i].value : -1;
}

enum status tokjson_fail(const struct json *j, struct err *e, enum status code, const char *path,
                         const char *fmt, ...) {
    char text[384];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_fail(e, code, "%s:%d: %s: %s", json_borrow_label(j), json_line(j, path), path, text);
}

enum status tokjson_want(const struct json *j, const struct jnode *v, const char *path,
                         enum json_kind kind, struct err *e) {
    if (v == NULL) return tokjson_fail(j, e, E_FORMAT, path, "missing");
    if (json_kind_of(v) == kind) return OK;
    return tokjson_fail(j, e, E_FORMAT, path, "must be %s, not %s", json_kind_name(kind),
                        json_kind_name(json_kind_of(v)));
}

enum status tokjson_bool(const struct json *j, const struct jnode *v, const char *path,
                         const char *key, bool fallback, bool *out, struct err *e) {
    const struct jnode *m = json_get(v, key);
    *out = fallback;
    if (m == NULL || json_kind_of(m) == JSON_NIL) return OK;
    char at[128];
    snprintf(at, sizeof at, "%s.%s", path, key);
    const enum status st = tokjson_want(j, m, at, JSON_BOOL, e);
    if (st == OK) *out = json_bool(m);
    return st;
}

enum status tokjson_string(const struct json *j, const struct jnode *v, const char *path,
                           const char *key, struct tokjson_str *out, struct err *e) {
    char at[128];
    snprintf(at, sizeof at, "%s.%s", path, key);
    const struct jnode *m = json_get(v, key);
    const enum status st = tokjson_want(j, m, at, JSON_STR, e);
    if (st == OK) out->s = json_str(m, &out->n);
    return st;
}

int tokjson_byte_of(struct tokjson_str text) {
    static const char digits[] = "0123456789ABCDEF";
    if (text.n != 6 || memcmp(text.s, "<0x", 3) != 0 || text.s[5] != '>') return -1;
    const char *high = text.s[3] != '\0' ? strchr(digits, text.s[3]) : NULL;
    const char *low = text.s[4] != '\0' ? strchr(digits, text.s[4]) : NULL;
    return high != NULL && low != NULL ? (int)(16 * (high - digits) + (low - digits)) : -1;
}

enum status tokjson_id(const struct json *j, const struct jnode *v, const char *path,
                       const char *name, int32_t *out, struct err *e) {
    enum status st = OK;
    TRY(tokjson_want(j, v, path, JSON_INT, e));
    const int64_t id = json_int(v);
    if (id < 0 || id > TOKJSON_MAX_ID) {
        st = tokjson_fail(j, e, E_FORMAT, path, "id %lld of \"%.60s\" is not in 0..%d",
                          (long long)id, name, TOKJSON_MAX_ID);
        goto done;
    }
    *out = (int32_t)id;
done:
    return st;
}

enum status tokjson_only_known(const struct json *j, const struct jnode *v, const char *path,
                               const char *const *keys, struct err *e) {
    for (struct json_iter it = json_iter(v); it.key != NULL; json_next(&it)) {
        size_t i = 0;
        while (keys[i] != NULL && strcmp(keys[i], it.key) != 0) i++;
        if (keys[i] != NULL) continue;
        char at[96];
        snprintf(at, sizeof at, "%s.%.60s", path, it.key);
        return tokjson_fail(j, e, E_UNSUPPORTED, at, "unknown");
    }
    return OK;
}
