/* done/ records, and what published files say where there is none. */
#include "jobs/ledger_impl.h"

#include "base/mem.h"
#include "io/lz4f.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE_BYTES = 1 << 18, DONE_MAX_BYTES = 1 << 16 };

enum status ledger_hash_file(const char *path, char hash[HASH_TEXT], int64_t *bytes,
                             struct err *e) {
    enum status st = OK;
    struct hash *h = NULL;
    char *piece = NULL;
    *bytes = 0;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return err_errno(e, E_NOINPUT, errno, "%s", path);
    TRY(hash_open(&h, e));
    TRY(mem_zalloc(&piece, PIECE_BYTES, 1, e));
    for (;;) {
        const ssize_t k = read(fd, piece, PIECE_BYTES);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            st = err_errno(e, E_IO, errno, "%s: cannot read", path);
            goto done;
        }
        if (k == 0) break;
        hash_add(h, piece, (size_t)k);
        *bytes += k;
    }
    hash_text(h, hash);
done:
    close(fd);
    hash_close(h);
    mem_free(piece);
    return st;
}

/* ---- the record ---- */

void ledger_print_done(const struct ledger_done *d, int part, struct sbuf *out) {
    const struct ledger_counts *c = &d->counts;
    const char *comma = "";
    sbuf_printf(out,
                "{\"part\":%d,\"documents\":%" PRId64 ",\"failed\":%" PRId64 ",\"rows\":%" PRId64
                ",\"tokens\":%" PRId64 ",\"files\":{",
                part, c->documents, c->failed, c->rows, c->tokens);
    for (int s = 0; s < LEDGER_STREAMS; s++) {
        const struct ledger_file *f = &d->files[s];
        if (!f->there) continue;
        sbuf_printf(out,
                    "%s\"%s\":{\"bytes\":%" PRId64 ",\"xxh128\":\"%s\",\"content_bytes\":%" PRId64
                    ",\"lines\":%" PRId64 "}",
                    comma, ledger_stream_names[s], f->bytes, f->hash, f->content_bytes, f->lines);
        comma = ",";
    }
    sbuf_puts(out, "}}\n");
}

static bool get(const struct jnode *v, const char *key, int64_t *out) {
    const struct jnode *m = json_get(v, key);
    if (m == NULL || json_kind_of(m) != JSON_INT) return false;
    *out = json_int(m);
    return *out >= 0;
}

static bool get_file(const struct jnode *v, struct ledger_file *f) {
    size_t n = 0;
    if (v == NULL) return true; // this part has none
    if (json_kind_of(v) != JSON_OBJ) return false;
    const struct jnode *hash = json_get(v, "xxh128");
    if (hash == NULL || json_kind_of(hash) != JSON_STR) return false;
    const char *s = json_str(hash, &n);
    if (n != HASH_TEXT - 1) return false;
    memcpy(f->hash, s, HASH_TEXT);
    f->there = true;
    return get(v, "bytes", &f->bytes) && get(v, "content_bytes", &f->content_bytes) &&
           get(v, "lines", &f->lines);
}

enum status ledger_read_done(struct ledger_done *d, const char *dir, int part, struct err *e) {
    enum status st = OK;
    struct json *j = NULL;
    struct sbuf path;
    int64_t number = -1;
    sbuf_init(&path);
    memset(d, 0, sizeof *d);
    ledger_put_done(&path, dir, part);
    TRY(sbuf_status(&path, e));
    TRY(json_open(&j, path.s, DONE_MAX_BYTES, e));
    const struct jnode *v = json_root(j);
    struct ledger_counts *c = &d->counts;
    bool ok = json_kind_of(v) == JSON_OBJ && get(v, "part", &number) && number == part &&
              get(v, "documents", &c->documents) && get(v, "failed", &c->failed) &&
              get(v, "rows", &c->rows) && get(v, "tokens", &c->tokens);
    const struct jnode *files = ok ? json_get(v, "files") : NULL;
    ok = files != NULL && json_kind_of(files) == JSON_OBJ;
    for (int s = 0; s < LEDGER_STREAMS && ok; s++) {
        ok = get_file(json_get(files, ledger_stream_names[s]), &d->files[s]);
    }
    if (!ok) FAIL(e, E_FORMAT, "%s: not the record of part %d", path.s, part);
done:
    json_close(j);
    sbuf_fini(&path);
    return st;
}

/* ---- counting rows ---- */

struct keys {
    uint64_t *v; /* owned: one per row, a hash of the document it belongs to */
    size_t n, cap;
};

static int by_value(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int64_t count_distinct(struct keys *k) {
    int64_t n = k->n > 0;
    if (k->n > 1) qsort(k->v, k->n, sizeof *k->v, by_value);
    for (size_t i = 1; i < k->n; i++) n += k->v[i] != k->v[i - 1];
    return n;
}

static enum status add_row(struct keys *k, const char *label, const char *line, size_t n,
                           int64_t *tokens, struct err *e) {
    enum status st = OK;
    struct json *j = NULL;
    struct sbuf key;
    int64_t n_tok = 0;
    size_t n_source = 0;
    sbuf_init(&key);
    TRY(json_open_text(&j, label, line, n, e));
    const struct jnode *row = json_root(j);
    const bool object = json_kind_of(row) == JSON_OBJ;
    const struct jnode *source = object ? json_get(row, "source") : NULL;
    const struct jnode *offset = object ? json_get(row, "offset") : NULL;
    if (source == NULL || json_kind_of(source) != JSON_STR || offset == NULL ||
        json_kind_of(offset) != JSON_INT) {
        FAIL(e, E_FORMAT, "%s: a row without source and offset", label);
    }
    const char *s = json_str(source, &n_source);
    sbuf_printf(&key, "%" PRId64 " ", json_int(offset));
    sbuf_add(&key, s, n_source);
    TRY(sbuf_status(&key, e));
    TRY(mem_grow(&k->v, &k->cap, k->n + 1, sizeof *k->v, e));
    k->v[k->n++] = hash_64(key.s, key.n);
    const bool scored = get(row, "num_tokens", &n_tok);
    if (scored || get(row, "completion_tokens", &n_tok)) *tokens += n_tok;
done:
    json_close(j);
    sbuf_fini(&key);
    return st;
}

static enum status add_errors(struct keys *k, const char *path, struct err *e) {
    enum status st = OK;
    struct sbuf text;
    int64_t ignored = 0;
    sbuf_init(&text);
    if (access(path, F_OK) != 0) goto done;
    TRY(file_read_all(path, SIZE_MAX, &text, e));
    for (size_t i = 0; i < text.n;) {
        const char *newline = memchr(text.s + i, '\n', text.n - i);
        const size_t n = newline != NULL ? (size_t)(newline - (text.s + i)) : text.n - i;
        TRY(add_row(k, path, text.s + i, n, &ignored, e));
        i += n + 1;
    }
done:
    sbuf_fini(&text);
    return st;
}

enum status ledger_count_rows(const char *dir, int part, int n_part, struct ledger_counts *out,
                              struct err *e) {
    enum status st = OK;
    struct lz4f_reader *r = NULL;
    struct keys keys;
    struct sbuf path;
    memset(&keys, 0, sizeof keys);
    memset(out, 0, sizeof *out);
    sbuf_init(&path);
    ledger_put_published(&path, dir, LEDGER_ERRORS, part, n_part);
    TRY(sbuf_status(&path, e));
    TRY(add_errors(&keys, path.s, e));
    out->failed = count_distinct(&keys);
    sbuf_clear(&path);
    ledger_put_published(&path, dir, LEDGER_RESULTS, part, n_part);
    TRY(sbuf_status(&path, e));
    TRY(lz4f_open(&r, path.s, LZ4F_WHOLE, e));
    for (;;) {
        const char *line = NULL;
        size_t n = 0;
        bool end = false;
        TRY(lz4f_line(r, &line, &n, &end, e));
        if (end) break;
        TRY(add_row(&keys, path.s, line, n, &out->tokens, e));
        out->rows++;
    }
    out->documents = count_distinct(&keys);
done:
    lz4f_close(r);
    mem_free(keys.v);
    sbuf_fini(&path);
    return st;
}

enum status ledger_counts_of(const char *dir, int part, int n_part, struct ledger_counts *out,
                             struct err *e) {
    enum status st = OK;
    struct ledger_done d;
    struct sbuf path;
    sbuf_init(&path);
    memset(out, 0, sizeof *out);
    ledger_put_published(&path, dir, LEDGER_RESULTS, part, n_part);
    TRY(sbuf_status(&path, e));
    if (access(path.s, F_OK) != 0) FAIL(e, E_NOINPUT, "%s: not published", path.s);
    st = ledger_read_done(&d, dir, part, NULL);
    if (st == OK) {
        *out = d.counts;
    } else if (st == E_NOMEM) {
        FAIL(e, E_NOMEM, "out of memory");
    } else {
        TRY(ledger_count_rows(dir, part, n_part, out, e));
    }
done:
    sbuf_fini(&path);
    return st;
}
