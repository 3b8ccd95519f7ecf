/* Rows for people and pipes: chosen, cut to fields, as JSON lines or as a table. */
#include "jobs/report_impl.h"

#include "base/mem.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FLUSH_BYTES = 1 << 16, POLL_STEPS = 10 };

struct cat {
    const struct report_query *q;
    enum status (*write)(void *ctx, const char *bytes, size_t n, struct err *e);
    void *ctx;
    struct sbuf out;
    char *
        *columns; /* owned, and its strings: the fields of a table that was asked for without any */
    size_t n_column, cap_column;
    bool header_written;
    bool id_seen;
    struct report_job job;
    bool failed_rows; /* what comes now are errors */
};

static enum status flush(struct cat *c, struct err *e) {
    enum status st = OK;
    TRY(sbuf_status(&c->out, e));
    if (c->out.n > 0) TRY(c->write(c->ctx, c->out.s, c->out.n, e));
    sbuf_clear(&c->out);
done:
    return st;
}

/* ---- values ---- */

static void put_json(struct sbuf *out, const struct jnode *v) {
    size_t n = 0;
    switch (json_kind_of(v)) {
    case JSON_NIL: sbuf_puts(out, "null"); break;
    case JSON_BOOL: sbuf_puts(out, json_bool(v) ? "true" : "false"); break;
    case JSON_INT: sbuf_printf(out, "%" PRId64, json_int(v)); break;
    case JSON_NUM: sbuf_json_double(out, json_num(v)); break;
    case JSON_STR: {
        const char *s = json_str(v, &n);
        sbuf_json_string(out, s, n);
        break;
    }
    case JSON_ARR:
        sbuf_putc(out, '[');
        for (size_t i = 0; i < json_len(v); i++) {
            if (i > 0) sbuf_putc(out, ',');
            put_json(out, json_at(v, i));
        }
        sbuf_putc(out, ']');
        break;
    case JSON_OBJ:
        sbuf_putc(out, '{');
        for (struct json_iter it = json_iter(v); it.key != NULL; json_next(&it)) {
            if (out->s[out->n - 1] != '{') sbuf_putc(out, ',');
            sbuf_json_string(out, it.key, strlen(it.key));
            sbuf_putc(out, ':');
            put_json(out, it.value);
        }
        sbuf_putc(out, '}');
        break;
    }
}

static void put_escaped(struct sbuf *out, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        switch (s[i]) {
        case '\t': sbuf_puts(out, "\\t"); break;
        case '\n': sbuf_puts(out, "\\n"); break;
        case '\r': sbuf_puts(out, "\\r"); break;
        case '\\': sbuf_puts(out, "\\\\"); break;
        default: sbuf_putc(out, s[i]);
        }
    }
}

static void put_cell(struct sbuf *out, const struct jnode *v) {
    size_t n = 0;
    if (v == NULL || json_kind_of(v) == JSON_NIL) return;
    if (json_kind_of(v) == JSON_STR) {
        const char *s = json_str(v, &n);
        put_escaped(out, s, n);
    } else {
        put_json(out, v);
    }
}

/* ---- rows ---- */

static const char *field(const struct cat *c, size_t i) {
    return c->q->n_field > 0 ? c->q->fields[i] : c->columns[i];
}

static size_t n_fields(const struct cat *c) {
    return c->q->n_field > 0 ? (size_t)c->q->n_field : c->n_column;
}

// Without fields a table has those of its first row.
static enum status choose_columns(struct cat *c, const struct jnode *row, struct err *e) {
    enum status st = OK;
    if (c->q->n_field > 0 || c->n_column > 0) goto done;
    for (struct json_iter it = json_iter(row); it.key != NULL; json_next(&it)) {
        TRY(mem_grow(&c->columns, &c->cap_column, c->n_column + 1, sizeof *c->columns, e));
        TRY(mem_dup(&c->columns[c->n_column], it.key, strlen(it.key), e));
        c->n_column++;
    }
done:
    return st;
}

static void put_header(struct cat *c) {
    if (c->header_written) return;
    for (size_t i = 0; i < n_fields(c); i++) {
        if (i > 0) sbuf_putc(&c->out, '\t');
        put_escaped(&c->out, field(c, i), strlen(field(c, i)));
    }
    sbuf_putc(&c->out, '\n');
    c->header_written = true;
}

static void put_row(struct cat *c, const struct jnode *row) {
    struct sbuf *out = &c->out;
    if (!c->q->tsv) sbuf_putc(out, '{');
    for (size_t i = 0; i < n_fields(c); i++) {
        const struct jnode *v = json_get(row, field(c, i));
        if (i > 0) sbuf_putc(out, c->q->tsv ? '\t' : ',');
        if (c->q->tsv) {
            put_cell(out, v);
            continue;
        }
        sbuf_json_string(out, field(c, i), strlen(field(c, i)));
        sbuf_putc(out, ':');
        if (v == NULL) sbuf_puts(out, "null");
        if (v != NULL) put_json(out, v);
    }
    sbuf_puts(out, c->q->tsv ? "\n" : "}\n");
}

static bool is_string(const struct jnode *row, const char *key, const char *want) {
    size_t n = 0;
    const struct jnode *v = json_get(row, key);
    if (want == NULL) return true;
    if (v == NULL || json_kind_of(v) != JSON_STR) return false;
    const char *s = json_str(v, &n);
    return n == strlen(want) && memcmp(s, want, n) == 0;
}

static enum status on_row(void *ctx, const char *line, size_t n, struct err *e) {
    enum status st = OK;
    struct cat *c = ctx;
    struct json *j = NULL;
    const struct report_query *q = c->q;
    const bool as_it_is = q->n_field == 0 && !q->tsv;
    if (q->id == NULL && q->setting == NULL && as_it_is && !q->openai) {
        sbuf_add(&c->out, line, n); // as it stands
        sbuf_putc(&c->out, '\n');
        goto done;
    }
    TRY(json_open_text(&j, "row", line, n, e));
    const struct jnode *row = json_root(j);
    if (json_kind_of(row) != JSON_OBJ) FAIL(e, E_FORMAT, "a row that is not an object");
    if (!is_string(row, "id", q->id)) goto done;
    c->id_seen = true;
    if (!is_string(row, "setting", q->setting)) goto done;
    if (q->openai) {
        TRY(report_put_openai(line, n, c->failed_rows, sbuf_str(&c->job.model), &c->out, e));
        goto done;
    }
    if (as_it_is) {
        sbuf_add(&c->out, line, n);
        sbuf_putc(&c->out, '\n');
        goto done;
    }
    TRY(choose_columns(c, row, e));
    if (q->tsv) put_header(c);
    put_row(c, row);
done:
    json_close(j);
    if (st == OK && c->out.n >= FLUSH_BYTES) st = flush(c, e);
    return st;
}

/* ---- names that are not there ---- */

// Whether one entry of `cache` has the name; else the name is added to *known.
static bool is_setting(const struct jnode *cache, const char *want, struct sbuf *known) {
    size_t n = 0;
    if (cache == NULL || json_kind_of(cache) != JSON_OBJ) return false;
    if (is_string(cache, "name", want)) return true;
    const struct jnode *name = json_get(cache, "name");
    if (name == NULL || json_kind_of(name) != JSON_STR) return false;
    const char *s = json_str(name, &n);
    sbuf_puts(known, known->n > 0 ? ", " : "");
    sbuf_add(known, s, n);
    return false;
}

// The settings of a job stand in its job.json.
static enum status check_setting(const char *dir, const char *want, struct err *e) {
    enum status st = OK;
    struct json *job = NULL;
    struct sbuf known;
    sbuf_init(&known);
    TRY(ledger_read_job(&job, dir, e));
    const struct jnode *cache = json_get(json_root(job), "identity");
    cache = json_kind_of(cache) == JSON_OBJ ? json_get(cache, "manifest") : NULL;
    cache = cache != NULL && json_kind_of(cache) == JSON_OBJ ? json_get(cache, "cache") : NULL;
    const bool list = cache != NULL && json_kind_of(cache) == JSON_ARR;
    bool found = is_setting(cache, want, &known);
    for (size_t i = 0; list && i < json_len(cache) && !found; i++) {
        found = is_setting(json_at(cache, i), want, &known);
    }
    if (!found && known.n > 0) {
        FAIL(e, E_ARG, "%s: no cache setting \"%.64s\"; it has %s", dir, want, sbuf_str(&known));
    }
done:
    json_close(job);
    sbuf_fini(&known);
    return st;
}

/* ---- the pass over parts ---- */

static bool has_success(const char *dir) {
    struct sbuf path;
    sbuf_init(&path);
    sbuf_printf(&path, "%s/_SUCCESS", dir);
    const bool there = access(sbuf_str(&path), F_OK) == 0;
    sbuf_fini(&path);
    return there;
}

static bool asked_to_stop(const struct report_query *q) {
    return q->stop != NULL && q->stop(q->ctx);
}

// A second, unless asked to stop.
static void wait_for_more(const struct report_query *q) {
    for (int i = 0; i < POLL_STEPS && !asked_to_stop(q); i++) {
        const struct timespec step = {.tv_nsec = 1000000000 / POLL_STEPS};
        nanosleep(&step, NULL);
    }
}

static enum status one_pass(struct cat *c, const char *dir, int n_part,
                            struct report_cursor *cursors, bool *finished, struct err *e) {
    enum status st = OK;
    const enum ledger_stream s = c->failed_rows ? LEDGER_ERRORS : c->q->stream;
    const bool live = c->q->follow && c->job.generates && s == LEDGER_TOKENS;
    *finished = true;
    for (int i = 0; i < n_part && !asked_to_stop(c->q); i++) {
        if (cursors[i].finished) continue;
        cursors[i].live = live;
        st = report_read_part(dir, i, n_part, s, &cursors[i], on_row, c, e);
        if (st != OK) {
            err_prefix(e, "part %d: ", i);
            goto done;
        }
        *finished = *finished && cursors[i].finished;
    }
    TRY(flush(c, e));
done:
    return st;
}

enum status report_cat(const char *dir, const struct report_query *q,
                       enum status (*write)(void *ctx, const char *bytes, size_t n, struct err *e),
                       void *ctx, struct err *e) {
    enum status st = OK;
    struct cat c = {.q = q, .write = write, .ctx = ctx};
    struct report_cursor *cursors = NULL; /* owned */
    int n_part = 0;
    bool finished = false, last = false;
    sbuf_init(&c.out);
    TRY(report_open_dir(dir, &n_part, &c.job, e));
    if (q->setting != NULL) TRY(check_setting(dir, q->setting, e));
    TRY(mem_zalloc(&cursors, (size_t)n_part, sizeof *cursors, e));
    if (q->openai && !c.job.generates) FAIL(e, E_ARG, "%s: not the output of a generate job", dir);
    if (q->tsv && q->n_field > 0) put_header(&c);
    while (!last) {
        // Asked before the pass: what was published before _SUCCESS came is read by this one.
        last = !q->follow || has_success(dir);
        TRY(one_pass(&c, dir, n_part, cursors, &finished, e));
        last = last || finished || asked_to_stop(q);
        if (!last) wait_for_more(q);
    }
    if (q->openai) {
        c.failed_rows = true;
        memset(cursors, 0, (size_t)n_part * sizeof *cursors);
        TRY(one_pass(&c, dir, n_part, cursors, &finished, e));
    }
    if (q->id != NULL && !c.id_seen && !asked_to_stop(q)) {
        FAIL(e, E_NOINPUT, "%s: no row of a document \"%.100s\"%s", dir, q->id,
             finished ? "" : " so far: the job is not finished");
    }
done:
    for (size_t i = 0; i < c.n_column; i++) mem_free(c.columns[i]);
    mem_free(c.columns);
    mem_free(cursors);
    sbuf_fini(&c.out);
    sbuf_fini(&c.job.model);
    return st;
}
