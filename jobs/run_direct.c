/* A job without an output directory: rows go straight to a sink, in order. */
#include "base/clock.h"
#include "io/file.h"
#include "jobs/run_impl.h"

#include <string.h>
#include <unistd.h>

struct direct {
    struct run *run;
    const struct run_sink *sink;
    struct run_result *result;
    struct plan_part all; /* the plan as one part: rows leave in one order */
    struct part_job job;
    bool given;
    const char *tmp_dir;
    struct sbuf spool_path;
    struct file_append *spool; /* owned; NULL until something is put aside */
};

static enum status direct_lines(void *ctx, enum ledger_stream s, const char *lines, size_t n,
                                struct err *e) {
    static const char kinds[LEDGER_STREAMS] = {'r', 't', 'e'};
    const struct direct *d = ctx;
    enum status st = OK;
    while (n > 0 && st == OK) {
        const char *end = memchr(lines, '\n', n);
        const size_t len = end != NULL ? (size_t)(end - lines) + 1 : n;
        st = d->sink->line(d->sink->ctx, kinds[s], lines, len, e);
        lines += len;
        n -= len;
    }
    return st;
}

static enum status direct_open(void *ctx, const char *lines, size_t n, struct err *e) {
    return direct_lines(ctx, LEDGER_TOKENS, lines, n, e);
}

static void direct_close(void *ctx) {
    (void)ctx;
}

static enum status direct_drop(void *ctx, struct err *e) {
    (void)ctx, (void)e; // lines that have left cannot be called back; the error row follows them
    return OK;
}

static enum status direct_spool(void *ctx, const char *bytes, size_t n, int64_t *at,
                                struct err *e) {
    enum status st = OK;
    struct direct *d = ctx;
    if (d->spool == NULL) {
        struct sbuf in;
        sbuf_init(&in);
        sbuf_printf(&in, "%s/x", d->tmp_dir);
        st = sbuf_status(&in, e);
        if (st == OK) st = file_temp_path(sbuf_str(&in), &d->spool_path, e);
        sbuf_fini(&in);
        TRY(st);
        TRY(file_append_open(&d->spool, sbuf_str(&d->spool_path), e));
    }
    *at = file_append_bytes(d->spool);
    TRY(file_append_write(d->spool, bytes, n, e));
done:
    return st;
}

static enum status direct_unspool(void *ctx, int64_t at, size_t n, struct sbuf *out,
                                  struct err *e) {
    struct direct *d = ctx;
    return file_read_piece(sbuf_str(&d->spool_path), at, n, out, e);
}

static void close_spool(struct direct *d) {
    file_append_close(d->spool);
    if (d->spool_path.n > 0) (void)unlink(sbuf_str(&d->spool_path));
    sbuf_fini(&d->spool_path);
}

static int64_t direct_uncommitted(void *ctx) {
    (void)ctx;
    return 0;
}

static enum status direct_put_state(void *ctx, const char *bytes, size_t n, struct err *e) {
    (void)ctx, (void)bytes, (void)n, (void)e;
    return OK;
}

static enum status direct_commit(void *ctx, const struct ledger_mark *m, const char *state,
                                 size_t n, struct err *e) {
    (void)ctx, (void)m, (void)state, (void)n, (void)e;
    return OK;
}

static enum status direct_next(void *ctx, struct part_job **out, struct err *e) {
    struct direct *d = ctx;
    (void)e;
    *out = d->given ? NULL : &d->job;
    d->given = true;
    return OK;
}

static enum status direct_end(void *ctx, struct part_job *j, enum status st, const struct err *why,
                              struct err *e) {
    struct direct *d = ctx;
    d->result->documents = j->mark.documents;
    d->result->failed = j->mark.failed;
    return st != OK && st != E_CANCEL ? err_fail(e, st, "%s", why->msg) : OK;
}

static enum status direct_all(struct run *r, const char *tmp_dir, const struct run_sink *sink,
                              struct run_result *result, struct err *e) {
    enum status st = OK;
    struct direct d = {.run = r, .sink = sink, .result = result, .tmp_dir = tmp_dir};
    const struct part_source src = {&d, direct_next, direct_end};
    d.job.part = &d.all;
    d.job.out = (struct part_out){.ctx = &d,
                                  .add = direct_lines,
                                  .add_open = direct_open,
                                  .close_document = direct_close,
                                  .drop_document = direct_drop,
                                  .spool = direct_spool,
                                  .unspool = direct_unspool,
                                  .uncommitted = direct_uncommitted,
                                  .put_state = direct_put_state,
                                  .commit = direct_commit};
    r->jobs = &d.job;
    TRY(session_start(&r->session, e));
    TRY(session_spool_stdin(&r->session, tmp_dir, e));
    d.all = (struct plan_part){.n_slice = r->session.plan->n_slice};
    TRY(run_open_work(r, e));
    TRY(work_run(&r->work, &src, e));
done:
    r->jobs = NULL;
    close_spool(&d);
    return st;
}

enum status run_direct(const struct manifest *man, const struct run_options *o,
                       const struct run_sink *sink, struct run_result *out, struct err *e) {
    enum status st = OK;
    struct run r;
    memset(&r, 0, sizeof r);
    memset(out, 0, sizeof *out);
    r.o = o;
    r.started_ns = clock_ns();
    run_set_deadline(&r);
    TRY(session_open(&r.session, man, o, NULL, e));
    TRY(direct_all(&r, o->tmp_dir != NULL ? o->tmp_dir : "/tmp", sink, out, e));
done:
    if (st == E_CANCEL) {
        if (e != NULL) e->code = OK;
        out->end = RUN_STOPPED;
        st = OK;
    }
    run_close(&r);
    return st;
}
