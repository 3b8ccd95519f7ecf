/* Reading everything again: published files against their own checksums and their records, work in
 * progress against its commits. */
#include "jobs/report_impl.h"

#include "io/lz4f.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct check {
    const char *dir;
    int n_part;
    struct sbuf *findings;
    bool ok;
    bool all_published;
    struct ledger_counts total;
    struct sbuf path; /* scratch */
};

PRINTF_LIKE(2, 3) static void finding(struct check *c, const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    sbuf_puts(c->findings, text);
    sbuf_putc(c->findings, '\n');
    c->ok = false;
}

// What a reader found wrong. Out of memory is no finding.
static enum status judge(struct check *c, enum status st, const struct err *why, struct err *e) {
    if (st == E_NOMEM) return err_fail(e, st, "%s", why->msg);
    if (st != OK) finding(c, "%s", why->msg);
    return OK;
}

static enum status published_path(struct check *c, enum ledger_stream s, int part, struct err *e) {
    sbuf_clear(&c->path);
    ledger_put_published(&c->path, c->dir, s, part, c->n_part);
    return sbuf_status(&c->path, e);
}

// The frames themselves; *lines as they are.
static enum status check_frames(struct check *c, int64_t *lines, struct err *e) {
    enum status st = OK;
    struct err why = {.code = OK};
    struct lz4f_counts counts;
    st = lz4f_scan(c->path.s, LZ4F_WHOLE, &counts, &why);
    const bool readable = st == OK;
    *lines = readable ? counts.lines : -1;
    TRY(judge(c, st, &why, e));
    if (readable && counts.frames != 1) {
        finding(c, "%s: %" PRId64 " frames instead of one", c->path.s, counts.frames);
    }
done:
    return st;
}

// One published file, its path in c->path. recorded: NULL where there is no record.
static enum status check_file(struct check *c, enum ledger_stream s,
                              const struct ledger_file *recorded, int64_t *lines, struct err *e) {
    enum status st = OK;
    struct err why = {.code = OK};
    char hash[HASH_TEXT];
    int64_t bytes = 0;
    *lines = -1;
    const bool there = access(c->path.s, F_OK) == 0;
    if (recorded != NULL && recorded->there != there) {
        // A part is done with its results and tokens there: without errors it would stay so.
        finding(c, "%s: %s", c->path.s,
                there ? "not in the part's record"
                : s == LEDGER_ERRORS
                    ? "missing; to have it made again, remove the part's results too"
                    : "missing");
    }
    if (!there) goto done;
    if (s != LEDGER_ERRORS) TRY(check_frames(c, lines, e));
    if (recorded == NULL || !recorded->there) goto done;
    st = ledger_hash_file(c->path.s, hash, &bytes, &why);
    if (st != OK) {
        st = judge(c, st, &why, e);
        goto done;
    }
    if (bytes != recorded->bytes || strcmp(hash, recorded->hash) != 0) {
        finding(c, "%s: %" PRId64 " bytes, XXH128 %s; recorded: %" PRId64 " bytes, %s", c->path.s,
                bytes, hash, recorded->bytes, recorded->hash);
    }
    if (*lines >= 0 && *lines != recorded->lines) {
        finding(c, "%s: %" PRId64 " rows; recorded: %" PRId64, c->path.s, *lines, recorded->lines);
    }
done:
    return st;
}

static void compare_count(struct check *c, int part, const char *what, int64_t is, int64_t want) {
    if (is == want) return;
    finding(c, "part %d: %" PRId64 " %s; recorded: %" PRId64, part, is, what, want);
}

static enum status check_published(struct check *c, int part, struct err *e) {
    enum status st = OK;
    struct err why = {.code = OK}, why_count = {.code = OK};
    struct ledger_done d;
    struct ledger_counts n;
    const size_t before = c->findings->n;
    st = ledger_read_done(&d, c->dir, part, &why);
    const bool recorded = st == OK;
    if (st != E_NOINPUT) TRY(judge(c, st, &why, e)); // without a record there is less to compare
    for (int s = 0; s < LEDGER_STREAMS; s++) {
        int64_t lines = 0;
        TRY(published_path(c, (enum ledger_stream)s, part, e));
        TRY(check_file(c, (enum ledger_stream)s, recorded ? &d.files[s] : NULL, &lines, e));
    }
    st = ledger_count_rows(c->dir, part, c->n_part, &n, &why_count);
    const bool counted = st == OK;
    // Damage of the frames has been found above.
    if (st != E_FORMAT || c->findings->n == before) TRY(judge(c, st, &why_count, e));
    st = OK;
    if (counted && recorded) {
        compare_count(c, part, "documents", n.documents, d.counts.documents);
        compare_count(c, part, "failed documents", n.failed, d.counts.failed);
        compare_count(c, part, "rows", n.rows, d.counts.rows);
    }
    if (recorded) n = d.counts;
    c->total.documents += n.documents;
    c->total.failed += n.failed;
    c->total.rows += n.rows;
    c->total.tokens += n.tokens;
done:
    return st;
}

// The furthest attempt: what the next run would go on from.
static enum status check_work(struct check *c, int part, struct err *e) {
    enum status st = OK;
    struct ledger_candidates found;
    memset(&found, 0, sizeof found);
    TRY(ledger_find_candidates(&found, c->dir, part, NULL, e));
    for (int s = 0; s < LEDGER_STREAMS && found.n > 0; s++) {
        struct err why = {.code = OK};
        const struct ledger_candidate *first = &found.v[0];
        sbuf_clear(&c->path);
        ledger_put_work(&c->path, c->dir, part, first->attempt, ledger_stream_names[s]);
        TRY(sbuf_status(&c->path, e));
        st = ledger_check_segment(c->path.s, &first->point.done[s], false, NULL, &why);
        // Published, or taken over by another attempt, while we were reading.
        if (st == E_NOINPUT) st = OK;
        TRY(judge(c, st, &why, e));
    }
done:
    ledger_candidates_fini(&found);
    return st;
}

static enum status check_success(struct check *c, struct err *e) {
    enum status st = OK;
    struct json *j = NULL;
    struct err why = {.code = OK};
    sbuf_clear(&c->path);
    sbuf_printf(&c->path, "%s/_SUCCESS", c->dir);
    TRY(sbuf_status(&c->path, e));
    if (access(c->path.s, F_OK) != 0) goto done;
    if (!c->all_published) finding(c, "%s: there, but not every part is published", c->path.s);
    st = json_open(&j, c->path.s, 4096, &why);
    if (st != OK) {
        st = judge(c, st, &why, e);
        goto done;
    }
    const struct {
        const char *key;
        int64_t want;
    } rows[] = {{"parts", c->n_part},
                {"documents", c->total.documents},
                {"failed", c->total.failed},
                {"rows", c->total.rows},
                {"tokens", c->total.tokens}};
    for (size_t i = 0; i < COUNTOF(rows) && c->all_published; i++) {
        const struct jnode *root = json_root(j);
        const struct jnode *v = json_kind_of(root) == JSON_OBJ ? json_get(root, rows[i].key) : NULL;
        if (v == NULL || json_kind_of(v) != JSON_INT || json_int(v) != rows[i].want) {
            finding(c, "%s: \"%s\" is not %" PRId64, c->path.s, rows[i].key, rows[i].want);
        }
    }
done:
    json_close(j);
    return st;
}

enum status report_verify(const char *dir, struct sbuf *findings, bool *ok, struct err *e) {
    enum status st = OK;
    struct check c = {.dir = dir, .findings = findings, .ok = true, .all_published = true};
    sbuf_init(&c.path);
    TRY(report_open_dir(dir, &c.n_part, NULL, e));
    for (int i = 0; i < c.n_part; i++) {
        const bool published = ledger_has_results(dir, i, c.n_part);
        c.all_published = c.all_published && published;
        if (published) TRY(check_published(&c, i, e));
        if (!published) TRY(check_work(&c, i, e));
    }
    TRY(check_success(&c, e));
    TRY(sbuf_status(findings, e));
done:
    *ok = st == OK && c.ok;
    sbuf_fini(&c.path);
    return st;
}
