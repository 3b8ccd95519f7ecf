#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support_tok.h"

#include "base/mem.h"
#include "io/json.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

void stok_fini(struct stok_ids *x) {
    mem_free(x->id);
    mem_free(x->end);
}

struct tok *stok_open(const char *path) {
    struct err e = {0};
    struct tok *t = NULL;
    if (tok_open(&t, path, &e) != OK) fail_msg("%s", e.msg);
    return t;
}

struct tok_stream *stok_stream(const struct tok *t) {
    struct tok_stream *s = NULL;
    assert_int_equal(tok_stream_open(&s, t, NULL), OK);
    return s;
}

/* ---- there and back ---- */

static void take_all(struct tok_stream *s, struct stok_ids *out) {
    for (size_t n = 1; n > 0; out->n += n) {
        assert_int_equal(mem_grow(&out->id, &out->cap, out->n + 1000, sizeof *out->id, NULL), OK);
        assert_int_equal(mem_grow(&out->end, &out->end_cap, out->n + 1000, sizeof *out->end, NULL),
                         OK);
        n = tok_take(s, out->id + out->n, out->end + out->n, 1000);
    }
}

void stok_encode(struct tok_stream *s, const char *text, size_t n, size_t chunk,
                 struct stok_ids *out) {
    struct err e = {0};
    uint32_t seed = (uint32_t)n + 7;
    out->n = 0;
    tok_stream_reset(s);
    for (size_t i = 0, k; i < n; i += k) {
        seed = seed * 1664525u + 1013904223u;
        k = chunk > 0 ? chunk : (seed >> 8) % 40;
        if (k > n - i) k = n - i;
        if (tok_feed(s, text + i, k, &e) != OK) fail_msg("%s", e.msg);
        take_all(s, out);
    }
    if (tok_finish(s, &e) != OK) fail_msg("%s", e.msg);
    take_all(s, out);
}

void stok_decode(const struct tok *t, const int32_t *ids, size_t n, struct sbuf *out) {
    sbuf_clear(out);
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *piece = tok_borrow_piece(t, ids[i], &len);
        assert_non_null(piece);
        const size_t skip =
            out->n == 0 && i == 0 && len > 0 && *piece == ' ' ? tok_decode_skip(t) : 0;
        sbuf_add(out, piece + skip, len - skip);
    }
    (void)sbuf_str(out);
    assert_int_equal(sbuf_status(out, NULL), OK);
}

enum status stok_run(const char *path, const char *text, size_t n, struct err *e) {
    enum status st = OK;
    struct tok *t = NULL;
    struct tok_stream *s = NULL;
    TRY(tok_open(&t, path, e));
    TRY(tok_stream_open(&s, t, e));
    TRY(tok_feed(s, text, n, e));
    TRY(tok_finish(s, e));
done:
    tok_stream_close(s);
    tok_close(t);
    return st;
}

/* ---- recorded ids ---- */

static uint64_t fnv(const int32_t *id, size_t n) {
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < n; i++) {
        for (int b = 0; b < 4; b++) h = (h ^ ((uint32_t)id[i] >> (8 * b) & 0xFF)) * 0x100000001B3u;
    }
    return h;
}

bool stok_as_recorded(const struct stok_case *c, const struct stok_ids *x) {
    const struct jnode *want = c->want;
    if (json_kind_of(want) == JSON_STR) {
        char text[64];
        snprintf(text, sizeof text, "%zu:%016llx", x->n, (unsigned long long)fnv(x->id, x->n));
        return strcmp(text, json_str(want, NULL)) == 0;
    }
    if (json_len(want) != x->n) return false;
    for (size_t i = 0; i < x->n; i++) {
        if (json_int(json_at(want, i)) != x->id[i]) return false;
    }
    return true;
}

static void build_text(const struct jnode *v, struct sbuf *out) {
    size_t n;
    sbuf_clear(out);
    if (json_kind_of(v) == JSON_STR) {
        const char *s = json_str(v, &n);
        sbuf_add(out, s, n);
    }
    for (size_t i = 0; json_kind_of(v) == JSON_ARR && i < json_len(v); i++) {
        const struct jnode *part = json_at(v, i);
        const char *s = json_str(json_at(part, 0), &n);
        for (int64_t k = json_int(json_at(part, 1)); k > 0; k--) sbuf_add(out, s, n);
    }
    (void)sbuf_str(out);
    assert_int_equal(sbuf_status(out, NULL), OK);
}

static struct json *open_json(const char *dir, const char *name) {
    struct err e = {0};
    struct json *j = NULL;
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (json_open(&j, path, 1 << 24, &e) != OK) fail_msg("%s", e.msg);
    return j;
}

static void each_text(const char *folder, const char *name, const struct jnode *texts,
                      stok_fn *one) {
    char dir[512];
    struct sbuf text;
    sbuf_init(&text);
    snprintf(dir, sizeof dir, "%s/%s", folder, name);
    struct tok *t = stok_open(dir);
    struct tok_stream *s = stok_stream(t);
    struct json *ids = open_json(dir, "ids.json");
    const struct jnode *want = json_root(ids);
    assert_int_equal(json_len(texts), json_len(want));
    for (size_t i = 0; i < json_len(texts); i++) {
        build_text(json_at(texts, i), &text);
        one(&(struct stok_case){name, i, t, s, &text, json_at(want, i)});
    }
    tok_stream_close(s);
    json_close(ids);
    tok_close(t);
    sbuf_fini(&text);
}

int stok_each(const char *folder, stok_fn *one) {
    struct json *texts = open_json(folder, "texts.json");
    int count = 0;
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d)) != NULL;) {
        if (strchr(f->d_name, '.') != NULL) continue;
        each_text(folder, f->d_name, json_root(texts), one);
        count++;
    }
    closedir(d);
    json_close(texts);
    return count;
}

static void check_places(const struct stok_case *c, const struct stok_ids *x) {
    for (size_t i = 0; i < x->n; i++) {
        if (x->end[i] < (i > 0 ? x->end[i - 1] : 0) || x->end[i] > (int64_t)c->text->n) {
            fail_msg("%s text %zu: place %lld of id %zu", c->name, c->index, (long long)x->end[i],
                     i);
        }
    }
    if (x->n > 0) assert_int_equal(x->end[x->n - 1], c->text->n);
}

void stok_check_recorded(const struct stok_case *c) {
    static const size_t chunks[] = {1 << 20, 1, 2, 3, 7, 64, 4096, 0};
    struct stok_ids x = {0};
    for (size_t k = 0; k < COUNTOF(chunks); k++) {
        stok_encode(c->s, c->text->s, c->text->n, chunks[k], &x);
        if (!stok_as_recorded(c, &x)) {
            fail_msg("%s text %zu in chunks of %zu: other ids than recorded", c->name, c->index,
                     chunks[k]);
        }
        check_places(c, &x);
    }
    stok_fini(&x);
}

/* ---- cost ---- */

struct stok_cost stok_cost_of(struct tok_stream *s, const char *unit, size_t total) {
    struct err e = {0};
    char piece[65520]; // a multiple of every unit's length
    int32_t ids[4096];
    const size_t len = strlen(unit);
    struct stok_cost c = {0, 0};
    for (size_t i = 0; i < sizeof piece; i++) piece[i] = unit[i % len];
    tok_stream_reset(s);
    for (size_t done = 0; done < total; done += sizeof piece) {
        if (tok_feed(s, piece, sizeof piece, &e) != OK) fail_msg("%s", e.msg);
        while (tok_take(s, ids, NULL, COUNTOF(ids)) > 0) continue;
        if (tok_stream_bytes(s) > c.bytes) c.bytes = tok_stream_bytes(s);
    }
    if (tok_finish(s, &e) != OK) fail_msg("%s", e.msg);
    if (tok_stream_bytes(s) > c.bytes) c.bytes = tok_stream_bytes(s); // the ids of one long word
    while (tok_take(s, ids, NULL, COUNTOF(ids)) > 0) continue;
    c.work = tok_work(s);
    return c;
}

/* ---- refusals ---- */

static void check_refusal(const char *dir, const char *file) {
    char path[600], code[64] = "", part[256] = "";
    snprintf(path, sizeof path, "%s/error", dir);
    FILE *want = fopen(path, "r");
    assert_non_null(want);
    assert_non_null(fgets(code, sizeof code, want));
    assert_non_null(fgets(part, sizeof part, want));
    fclose(want);
    code[strcspn(code, "\n")] = '\0';
    part[strcspn(part, "\n")] = '\0';
    snprintf(path, sizeof path, "%s%s%s", dir, file != NULL ? "/" : "", file != NULL ? file : "");
    struct err e = {0};
    struct tok *t = NULL;
    const enum status st = tok_open(&t, path, &e);
    const bool named = strncmp(e.msg, path, strlen(path)) == 0;
    if (strcmp(err_name(st), code) != 0 || strstr(e.msg, part) == NULL || !named || t != NULL) {
        fail_msg("%s: %s: %s", path, err_name(st), e.msg);
    }
}

int stok_refusals(const char *dir, const char *file) {
    int count = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d)) != NULL;) {
        char path[520];
        if (f->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", dir, f->d_name);
        check_refusal(path, file);
        count++;
    }
    closedir(d);
    return count;
}
