/* Reading the rows of a part while it may be growing, or moving from work in progress to published
 * files. */
#include "jobs/report_impl.h"

#include "base/mem.h"
#include "io/lz4f.h"

#include <string.h>

enum { MAX_LOOKS = 5 };

static const struct jnode *member(const struct jnode *v, const char *key) {
    return v != NULL && json_kind_of(v) == JSON_OBJ ? json_get(v, key) : NULL;
}

enum status report_open_dir(const char *dir, int *n_part, struct report_job *out, struct err *e) {
    enum status st = OK;
    struct json *job = NULL;
    if (out != NULL) memset(out, 0, sizeof *out);
    TRY(ledger_read_job(&job, dir, e));
    *n_part = (int)json_len(json_get(json_root(job), "parts"));
    if (out == NULL) goto done;
    const struct jnode *man = member(member(json_root(job), "identity"), "manifest");
    const struct jnode *kind = member(man, "job"), *model = member(member(man, "model"), "path");
    out->generates = kind != NULL && json_kind_of(kind) == JSON_STR &&
                     strcmp(json_str(kind, NULL), "generate") == 0;
    if (model != NULL && json_kind_of(model) == JSON_STR) {
        sbuf_puts(&out->model, json_str(model, NULL));
        TRY(sbuf_status(&out->model, e));
    }
done:
    json_close(job);
    return st;
}

// Where rows go. A failure of `row` itself is final; one of reading may be tried again elsewhere.
struct sink {
    struct report_cursor *cursor;
    report_row row;
    void *ctx;
    enum status failed;
};

// The line that begins `at` bytes into the content.
static enum status hand_out(struct sink *k, int64_t at, const char *line, size_t n, struct err *e) {
    enum status st = OK;
    if (at < k->cursor->taken_bytes) return OK;
    TRY(k->row(k->ctx, line, n, e));
    k->cursor->taken_bytes = at + (int64_t)n + 1;
done:
    k->failed = st;
    return st;
}

// limit: bytes of content that count, -1 for all.
static enum status read_frames(const char *path, int64_t limit, enum lz4f_tail tail, struct sink *k,
                               struct err *e) {
    enum status st = OK;
    struct lz4f_reader *r = NULL;
    TRY(lz4f_open(&r, path, tail, e));
    for (int64_t at = 0; limit < 0 || at < limit;) {
        const char *line = NULL;
        size_t n = 0;
        bool end = false;
        TRY(lz4f_line(r, &line, &n, &end, e));
        if (end) break;
        TRY(hand_out(k, at, line, n, e));
        at += (int64_t)n + 1;
    }
done:
    lz4f_close(r);
    return st;
}

static enum status read_plain(const char *path, struct sink *k, struct err *e) {
    enum status st = OK;
    struct sbuf text;
    sbuf_init(&text);
    TRY(file_read_all(path, SIZE_MAX, &text, e));
    for (size_t at = 0; at < text.n;) {
        const char *newline = memchr(text.s + at, '\n', text.n - at);
        const size_t n = newline != NULL ? (size_t)(newline - (text.s + at)) : text.n - at;
        TRY(hand_out(k, (int64_t)at, text.s + at, n, e));
        at += n + 1;
    }
done:
    sbuf_fini(&text);
    return st;
}

static enum status read_published(const char *dir, int part, int n_part, enum ledger_stream s,
                                  struct sink *k, struct err *e) {
    enum status st = OK;
    struct sbuf path;
    sbuf_init(&path);
    ledger_put_published(&path, dir, s, part, n_part);
    TRY(sbuf_status(&path, e));
    st = s == LEDGER_ERRORS ? read_plain(path.s, k, e) : read_frames(path.s, -1, LZ4F_WHOLE, k, e);
done:
    sbuf_fini(&path);
    return st;
}

// *lost: what was to be read is no longer there.
static enum status read_work(const char *dir, int part, enum ledger_stream s, struct sink *k,
                             bool *lost, struct err *e) {
    enum status st = OK;
    struct ledger_candidates c;
    struct sbuf path;
    sbuf_init(&path);
    *lost = false;
    memset(&c, 0, sizeof c);
    TRY(ledger_find_candidates(&c, dir, part, NULL, e));
    for (size_t i = 0; i < c.n; i++) {
        struct err why = {.code = OK};
        const struct ledger_length *length = &c.v[i].point.done[s];
        if (!k->cursor->live && length->content_bytes <= k->cursor->taken_bytes) break;
        sbuf_clear(&path);
        ledger_put_work(&path, dir, part, c.v[i].attempt, ledger_stream_names[s]);
        TRY(sbuf_status(&path, e));
        st = k->cursor->live ? read_frames(path.s, -1, LZ4F_TORN_OK, k, &why)
                             : read_frames(path.s, length->content_bytes, LZ4F_WHOLE, k, &why);
        if (st == OK) break;
        if (k->failed != OK || st == E_NOMEM) FAIL(e, st, "%s", why.msg);
        *lost = *lost || st == E_NOINPUT;
        st = OK; // damaged: an earlier commit may lie before the damage
    }
done:
    ledger_candidates_fini(&c);
    sbuf_fini(&path);
    return st;
}

enum status report_read_part(const char *dir, int part, int n_part, enum ledger_stream s,
                             struct report_cursor *cursor, report_row row, void *ctx,
                             struct err *e) {
    enum status st = OK;
    struct sink k = {cursor, row, ctx, OK};
    for (int look = 0; look < MAX_LOOKS && !cursor->finished; look++) {
        struct err why = {.code = OK};
        bool lost = false;
        if (ledger_has_results(dir, part, n_part)) {
            st = read_published(dir, part, n_part, s, &k, &why);
            // Not there: this part has no such file, unless it was withdrawn just now.
            cursor->finished = st == OK || (st == E_NOINPUT && k.failed == OK &&
                                            ledger_has_results(dir, part, n_part));
            if (st == E_NOINPUT && k.failed == OK) st = OK;
        } else {
            st = read_work(dir, part, s, &k, &lost, &why);
            // Published meanwhile: what was committed is in the files now, and perhaps more.
            lost = lost || ledger_has_results(dir, part, n_part);
        }
        if (st != OK) FAIL(e, st, "%s", why.msg);
        if (!lost && !cursor->finished && !ledger_has_results(dir, part, n_part)) break;
    }
done:
    return st;
}
