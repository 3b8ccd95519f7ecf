#include "io/manifest_impl.h"

#include "base/mem.h"
#include "base/num.h"
#include "base/suggest.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_FINDINGS = 1000 };

/* ---- findings ---- */

void man_problems_init(struct man_problems *p) {
    memset(p, 0, sizeof *p);
}

static void free_findings(struct man_problem *list, size_t n) {
    for (size_t i = 0; i < n; i++) {
        mem_free(list[i].path);
        mem_free(list[i].message);
    }
    mem_free(list);
}

void man_problems_fini(struct man_problems *p) {
    if (p == NULL) return;
    free_findings(p->errors, p->n_errors);
    free_findings(p->warnings, p->n_warnings);
    man_problems_init(p);
}

// Takes the strings of `found`. Kept in the order of lines; on one line in the order found.
static enum status insert_finding(struct man_problem **list, size_t *n, size_t *cap,
                                  struct man_problem found) {
    if (mem_grow(list, cap, *n + 1, sizeof found, NULL) != OK) return E_NOMEM;
    size_t at = *n;
    while (at > 0 && (*list)[at - 1].line > found.line) at--;
    memmove(*list + at + 1, *list + at, (*n - at) * sizeof found);
    (*list)[at] = found;
    (*n)++;
    return OK;
}

// Keys and words of the file are quoted in messages: no control byte may reach a terminal.
static void make_printable(char *s) {
    for (; *s != '\0'; s++) {
        if ((unsigned char)*s < 0x20 || *s == 0x7F) *s = '?';
    }
}

static void add_finding(struct man_reader *r, enum status code, const char *key,
                        struct sbuf *message) {
    struct man_problems *p = r->problems;
    struct man_problem found = {.code = code};
    const size_t mark = r->place.n;
    if ((code == OK ? p->n_warnings : p->n_errors) >= MAX_FINDINGS) return;
    if (key != NULL) sbuf_printf(&r->place, ".%s", key);
    enum status st = sbuf_status(&r->place, NULL);
    if (st == OK) st = sbuf_status(message, NULL);
    if (st == OK) st = mem_dup(&found.path, r->place.s, r->place.n, NULL);
    if (st == OK) st = mem_dup(&found.message, message->s, message->n, NULL);
    if (st == OK) {
        make_printable(found.path);
        make_printable(found.message);
        found.line = json_line(r->doc, found.path);
        st = code == OK ? insert_finding(&p->warnings, &p->n_warnings, &p->cap_warnings, found)
                        : insert_finding(&p->errors, &p->n_errors, &p->cap_errors, found);
    }
    if (st != OK) {
        mem_free(found.path);
        mem_free(found.message);
        r->out_of_memory = true;
    }
    r->place.n = mark;
}

void man_complain(struct man_reader *r, enum status code, const char *key, const char *fmt, ...) {
    char text[512];
    struct sbuf message;
    sbuf_init(&message);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    sbuf_puts(&message, text);
    add_finding(r, code, key, &message);
    sbuf_fini(&message);
}

void man_expect(struct man_reader *r, const char *what, const struct jnode *v) {
    man_complain(r, E_FORMAT, NULL, "must be %s, found %s", what, json_kind_name(json_kind_of(v)));
}

void man_read_int(struct man_reader *r, const struct man_field *f, const struct jnode *v,
                  int64_t *out) {
    const enum json_kind kind = json_kind_of(v);
    if (kind != JSON_INT && kind != JSON_NUM) {
        man_expect(r, "an integer", v);
    } else if (kind == JSON_NUM && json_num(v) != floor(json_num(v))) {
        man_complain(r, E_FORMAT, NULL, "must be an integer, found %g", json_num(v));
    } else if (json_num(v) < (double)f->lo || json_num(v) > (double)f->hi) {
        man_complain(r, E_FORMAT, NULL, "%.17g is out of range %" PRId64 "..%" PRId64, json_num(v),
                     f->lo, f->hi);
    } else {
        *out = json_int(v);
    }
}

void man_read_real(struct man_reader *r, const struct man_field *f, const struct jnode *v,
                   double *out) {
    const enum json_kind kind = json_kind_of(v);
    if (kind != JSON_INT && kind != JSON_NUM) {
        man_expect(r, "a number", v);
        return;
    }
    const double x = json_num(v);
    if (x < f->rlo || x > f->rhi || (f->above && x == f->rlo)) {
        char text[NUM_TEXT];
        (void)num_shortest(x, text);
        man_complain(r, E_FORMAT, NULL, "%s is out of range: %s %g and at most %g", text,
                     f->above ? "above" : "at least", f->rlo, f->rhi);
    } else {
        *out = x + 0.0; // -0.0 is 0, here and where it is read back
    }
}

void man_read_string(struct man_reader *r, const struct jnode *v, char **out) {
    size_t n = 0;
    if (json_kind_of(v) != JSON_STR) {
        man_expect(r, "a string", v);
        return;
    }
    const char *s = json_str(v, &n);
    if (n == 0) {
        man_complain(r, E_FORMAT, NULL, "must not be empty");
    } else if (memchr(s, '\0', n) != NULL) {
        man_complain(r, E_FORMAT, NULL, "must not contain a NUL character");
    } else if (mem_dup(out, s, n, NULL) != OK) {
        r->out_of_memory = true;
    }
}

static int find_word(const char *const *words, const char *s) {
    for (int i = 0; words != NULL && words[i] != NULL; i++) {
        if (strcmp(words[i], s) == 0) return i;
    }
    return -1;
}

static void read_word(struct man_reader *r, const struct man_field *f, const struct jnode *v,
                      void *out) {
    char list[160] = "";
    for (const char *const *w = f->words; *w != NULL; w++) {
        const size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s\"%s\"", n > 0 ? ", " : "", *w);
    }
    if (json_kind_of(v) != JSON_STR) {
        man_complain(r, E_FORMAT, NULL, "must be one of %s, found %s", list,
                     json_kind_name(json_kind_of(v)));
        return;
    }
    const char *s = json_str(v, NULL);
    const int i = find_word(f->words, s);
    if (i >= 0) {
        const unsigned value = (unsigned)i; // what an enum without negative members is stored as
        memcpy(out, &value, sizeof value);
    } else if (find_word(f->later, s) >= 0) {
        man_complain(r, E_UNSUPPORTED, NULL, "\"%s\" is not in this version, which knows %s", s,
                     list);
    } else {
        const char *near = suggest_closest(s, f->words);
        man_complain(r, E_FORMAT, NULL, "\"%.80s\" is not one of %s%s%s%s", s, list,
                     near != NULL ? "; did you mean \"" : "", near != NULL ? near : "",
                     near != NULL ? "\"?" : "");
    }
}

static void read_field(struct man_reader *r, const struct man_field *f, const struct jnode *v,
                       void *base) {
    void *out = (char *)base + f->offset;
    switch (f->kind) {
    case MAN_K_BOOL:
        if (json_kind_of(v) == JSON_BOOL) {
            *(bool *)out = json_bool(v);
        } else {
            man_expect(r, "true or false", v);
        }
        break;
    case MAN_K_INT: man_read_int(r, f, v, out); break;
    case MAN_K_REAL: man_read_real(r, f, v, out); break;
    case MAN_K_STRING: man_read_string(r, v, out); break;
    case MAN_K_WORD: read_word(r, f, v, out); break;
    case MAN_K_OWN: f->own(r, v); break;
    }
}

static void unknown_key(struct man_reader *r, const struct man_section *s,
                        const struct jnode *object, const char *key) {
    const char *keys[48];
    CHECK(s->n_fields < COUNTOF(keys));
    for (size_t i = 0; i < s->n_fields; i++) keys[i] = s->fields[i].key;
    keys[s->n_fields] = NULL;
    if (s->foreign != NULL && s->foreign(r, object, key)) return;
    const char *home = r->home(key), *near = suggest_closest(key, keys);
    if (home != NULL) {
        man_complain(r, E_FORMAT, key, "unknown key here; it belongs in %s", home);
    } else if (near != NULL) {
        man_complain(r, E_FORMAT, key, "unknown key; did you mean \"%s\"?", near);
    } else {
        man_complain(r, E_FORMAT, key, "unknown key");
    }
}

bool man_read_section(struct man_reader *r, const struct man_section *s, const struct jnode *v,
                      void *base) {
    if (json_kind_of(v) != JSON_OBJ) {
        man_expect(r, "an object", v);
        return false;
    }
    for (struct json_iter it = json_iter(v); it.key != NULL; json_next(&it)) {
        size_t i = 0;
        while (i < s->n_fields && strcmp(s->fields[i].key, it.key) != 0) i++;
        if (i == s->n_fields) {
            unknown_key(r, s, v, it.key);
            continue;
        }
        const size_t mark = r->place.n;
        sbuf_printf(&r->place, ".%s", it.key);
        read_field(r, &s->fields[i], it.value, base);
        r->place.n = mark;
    }
    for (size_t i = 0; i < s->n_fields; i++) {
        const struct man_field *f = &s->fields[i];
        const bool required = f->required && (r->flags & f->unless) == 0;
        if (required && !man_given(v, f->key)) man_complain(r, E_FORMAT, f->key, "is missing");
    }
    return true;
}

bool man_given(const struct jnode *object, const char *key) {
    return json_get(object, key) != NULL;
}

bool man_word_is(const struct jnode *object, const char *key, const char *word) {
    const struct jnode *v = json_get(object, key);
    return v != NULL && json_kind_of(v) == JSON_STR && strcmp(json_str(v, NULL), word) == 0;
}

size_t man_list_length(struct man_reader *r, const struct jnode *v, size_t max, size_t size,
                       void *out) {
    const size_t n = v != NULL && json_kind_of(v) == JSON_ARR ? json_len(v) : 1;
    if (n == 0 || n > max) {
        if (n == 0) man_complain(r, E_FORMAT, NULL, "must not be empty");
        if (n > max) man_complain(r, E_FORMAT, NULL, "%zu elements; at most %zu are read", n, max);
        return 0;
    }
    if (mem_zalloc(out, n, size, NULL) == OK) return n;
    r->out_of_memory = true;
    return 0;
}

void man_set_default(struct man_reader *r, char **key, const char *value) {
    if (*key == NULL && mem_dup(key, value, strlen(value), NULL) != OK) r->out_of_memory = true;
}
