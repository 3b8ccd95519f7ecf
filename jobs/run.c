#include "jobs/run.h"

#include "base/clock.h"
#include "base/mem.h"
#include "jobs/run_impl.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void event(const struct run *r, struct sbuf *json) {
    if (r->o->hooks.event != NULL && !json->failed)
        r->o->hooks.event(r->o->hooks.ctx, sbuf_str(json));
}

/* ---- the record of this attempt, OUT/run/ATTEMPT.json ---- */

// What this run has done of the part in hand.
static void describe_part(const struct run *r, const char *end, struct sbuf *out) {
    const struct part_totals *t = work_totals(&r->work);
    sbuf_printf(out,
                "%s{\"part\":%d,\"documents_resumed\":%lld,\"tokens_resumed\":%lld,\"tokens_"
                "computed\":%lld,"
                "\"end\":\"%s\"}",
                r->records.n > 0 ? "," : "", r->part_number, (long long)r->begun.documents,
                (long long)(t->tokens_resumed - r->resumed_before),
                (long long)(t->tokens - r->tokens_before), end);
}

static enum status write_record(struct run *r, bool ended, struct err *e) {
    enum status st = OK;
    struct sbuf b;
    sbuf_init(&b);
    char host[128] = "unknown", cpu[128];
    gethostname(host, sizeof host - 1);
    cpu_model(cpu, sizeof cpu);
    const struct part_totals *t = work_totals(&r->work);
    double stage[DEV_STAGE_COUNT];
    dev_times(r->session.dev, stage);
    sbuf_printf(&b, "{\"attempt\":\"%s\",\"version\":\"%s\",\"host\":", r->attempt, BASIN_VERSION);
    sbuf_json_string(&b, host, strlen(host));
    sbuf_puts(&b, ",\"cpu\":");
    sbuf_json_string(&b, cpu, strlen(cpu));
    sbuf_printf(
        &b,
        ",\"device\":\"%s\",\"simd\":\"%s\",\"threads\":%d,\"dtype\":\"%s\",\"span_tokens\":%lld",
        dev_describe(r->session.dev), cpu_isa_name(r->o->isa), r->o->n_thread,
        session_dtype(&r->session), (long long)r->session.n_row);
    sbuf_printf(&b, ",\"rank\":%d,\"ranks\":%d,\"started_unix\":", r->o->rank.i, r->o->rank.n);
    sbuf_json_double(&b, (double)(r->started_unix_ns / 1000000) / 1e3);
    sbuf_printf(&b, ",\"ended\":%s,\"seconds\":", ended ? "true" : "false");
    sbuf_json_double(&b, (double)(clock_ns() - r->started_ns) / 1e9);
    sbuf_printf(
        &b, ",\"documents\":%lld,\"failed\":%lld,\"tokens_computed\":%lld,\"tokens_resumed\":%lld",
        (long long)t->documents, (long long)t->failed, (long long)t->tokens,
        (long long)t->tokens_resumed);
    sbuf_printf(
        &b,
        ",\"stage_seconds\":{\"linear\":%.3f,\"attention\":%.3f,\"head\":%.3f,\"prepare\":%.3f,"
        "\"other\":%.3f}",
        stage[DEV_LINEAR], stage[DEV_ATTEND], stage[DEV_HEAD], stage[DEV_PREPARE],
        stage[DEV_OTHER]);
    sbuf_printf(&b, ",\"parts\":[%s", sbuf_str(&r->records));
    if (r->part != NULL) describe_part(r, "running", &b);
    sbuf_puts(&b, "]}\n");
    TRY(sbuf_status(&b, e));
    TRY(ledger_write_run(r->ledger, b.s, e));
done:
    sbuf_fini(&b);
    return st;
}

/* ---- the ledger as the work sees it ---- */

static enum status out_add(void *ctx, enum ledger_stream s, const char *lines, size_t n,
                           struct err *e) {
    return ledger_add(((struct run *)ctx)->part, s, lines, n, e);
}

static enum status out_add_open(void *ctx, const char *lines, size_t n, struct err *e) {
    return ledger_add_open(((struct run *)ctx)->part, lines, n, e);
}

static void out_close(void *ctx) {
    ledger_close_document(((struct run *)ctx)->part);
}

static enum status out_drop(void *ctx, struct err *e) {
    return ledger_drop_document(((struct run *)ctx)->part, e);
}

static enum status out_spool(void *ctx, const char *bytes, size_t n, int64_t *at, struct err *e) {
    return ledger_spool(((struct run *)ctx)->part, bytes, n, at, e);
}

static enum status out_unspool(void *ctx, int64_t at, size_t n, struct sbuf *out, struct err *e) {
    return ledger_unspool(((struct run *)ctx)->part, at, n, out, e);
}

static enum status out_put_state(void *ctx, const char *bytes, size_t n, struct err *e) {
    return ledger_put_state(((struct run *)ctx)->part, bytes, n, e);
}

static int64_t out_uncommitted(void *ctx) {
    return ledger_uncommitted(((struct run *)ctx)->part);
}

static enum status out_commit(void *ctx, const struct ledger_mark *m, const char *state, size_t n,
                              struct err *e) {
    struct run *r = ctx;
    const enum status st = ledger_commit(r->part, m, state, n, e);
    return st != OK ? st : write_record(r, false, e);
}

/* ---- parts ---- */

static enum status compute_and_publish(struct run *r, int part, struct ledger_mark *mark,
                                       struct sbuf *state, struct err *e) {
    enum status st = OK;
    const struct part_out out = {.ctx = r,
                                 .add = out_add,
                                 .add_open = out_add_open,
                                 .close_document = out_close,
                                 .drop_document = out_drop,
                                 .spool = out_spool,
                                 .unspool = out_unspool,
                                 .uncommitted = out_uncommitted,
                                 .put_state = out_put_state,
                                 .commit = out_commit};
    TRY(work_part(&r->work, r->session.plan, part, &out, mark, state, e));
    TRY(ledger_publish(r->part, mark, e));
done:
    return st;
}

static void part_event(const struct run *r, const char *kind, int part,
                       const struct ledger_mark *m) {
    struct sbuf b;
    sbuf_init(&b);
    sbuf_printf(&b,
                "{\"event\":\"%s\",\"part\":%d,\"parts\":%d,\"documents\":%lld,\"failed\":%lld}",
                kind, part, r->session.plan->n_part, (long long)m->documents, (long long)m->failed);
    event(r, &b);
    sbuf_fini(&b);
}

// What is left to do of a part that is this rank's.
static void add_work(struct run *r, int part) {
    const int64_t bytes = r->session.plan->parts[part].bytes;
    r->parts++;
    if (ledger_is_settled(r->ledger, part)) return;
    r->bytes_total = bytes < 0 || r->bytes_total < 0 ? -1 : r->bytes_total + bytes;
}

static void count_work(struct run *r) {
    for (int i = 0; i < r->session.plan->n_part; i++) {
        if (r->rank_of_part[i] == r->o->rank.i) add_work(r, i);
    }
}

// A stolen part is this run's from now on: in what it shows, and in what it comes to.
static void adopt(struct run *r, int part) {
    if (r->rank_of_part[part] == r->o->rank.i) return;
    r->rank_of_part[part] = r->o->rank.i;
    add_work(r, part);
}

/* Takes, computes and publishes one part. *held: another run has it. */
static enum status run_part(struct run *r, int part, bool *held, bool *no_locks, struct err *e) {
    enum status st = OK;
    struct ledger_mark mark;
    struct sbuf state;
    sbuf_init(&state);
    *held = false;
    if (ledger_is_settled(r->ledger, part)) goto done;
    TRY(ledger_part_open(&r->part, r->ledger, part, r->o->ignore_locks, held, no_locks, &mark,
                         &state, e));
    if (r->part == NULL) goto done; // held, or published by another run in the meantime
    adopt(r, part);
    r->part_number = part;
    r->begun = mark;
    r->tokens_before = work_totals(&r->work)->tokens;
    r->resumed_before = work_totals(&r->work)->tokens_resumed;
    part_event(r, "part_begin", part, &mark);
    st = compute_and_publish(r, part, &mark, &state, e);
    describe_part(r, st == OK ? "published" : err_name(st), &r->records);
    if (st == OK) part_event(r, "part_end", part, &mark);
    if (st == OK) {
        r->bytes_done += r->session.plan->parts[part].bytes;
        r->bytes_begun += work_totals(&r->work)->part_begun;
    }
done:
    ledger_part_close(r->part);
    r->part = NULL;
    sbuf_fini(&state);
    return st;
}

static bool is_stdin(const struct run *r, int part) {
    return r->session.plan->parts[part].bytes < 0;
}

/* One pass over the parts of this rank (or, stealing, of the others). What is wrong with one part's
 * inputs does not keep the next from being done: the first such error is kept in *first. */
static enum status run_parts(struct run *r, bool mine, int *n_held, bool *no_locks,
                             struct err *first, struct err *e) {
    enum status st = OK;
    *n_held = 0;
    for (int i = 0; i < r->session.plan->n_part; i++) {
        struct err why = {0};
        bool held = false;
        if ((r->rank_of_part[i] == r->o->rank.i) != mine) continue;
        if (!mine && is_stdin(r, i)) continue; // what this process reads there is another text
        // Asked only where there is work to give up: a job that is all done is done, not stopped.
        const bool settled = ledger_is_settled(r->ledger, i);
        if (!settled && run_must_stop(r)) FAIL(e, E_CANCEL, "stopped on request");
        st = run_part(r, i, &held, no_locks, &why);
        if (held) ++*n_held;
        if (st == E_NOINPUT) {
            if (first->code == OK) *first = why;
            run_say(r, RUN_WARNING, why.msg);
            st = OK;
            continue;
        }
        if (st != OK) FAIL(e, st, "%s", why.msg);
        if (!held && r->rank_of_part[i] == r->o->rank.i) r->parts_done++;
    }
done:
    return st;
}

static enum status summarize(struct run *r, struct run_result *out, struct err *e) {
    enum status st = OK;
    struct ledger_counts total = {0};
    for (int i = 0; i < r->session.plan->n_part; i++) {
        const bool mine = r->rank_of_part[i] == r->o->rank.i;
        if (!ledger_is_published(r->ledger, i)) {
            out->parts_missing_elsewhere += !mine;
            continue;
        }
        struct ledger_counts c = {0};
        TRY(ledger_part_counts(r->ledger, i, &c, e));
        if (!mine) continue;
        out->documents += c.documents;
        out->failed += c.failed;
    }
    TRY(ledger_finish(r->ledger, &out->success, &total, e));
done:
    return st;
}

/* ---- running ---- */

static void name_attempt(struct run *r) {
    snprintf(r->attempt, sizeof r->attempt, "%lld-%ld-%d", (long long)(clock_unix_ns() / 1000),
             (long)getpid(), r->o->rank.i);
}

static enum status open_run(struct run *r, const struct manifest *man, struct err *e) {
    enum status st = OK;
    struct sbuf dir, job;
    char dtype[16];
    sbuf_init(&dir);
    sbuf_init(&job);
    man_path(man, man->output.path, &dir);
    TRY(sbuf_status(&dir, e));
    TRY(session_fixed_dtype(man, sbuf_str(&dir), r->o->overwrite, dtype, e));
    TRY(session_open(&r->session, man, r->o, dtype[0] != '\0' ? dtype : NULL, e));
    TRY(session_print_job(&r->session, &job, e));
    TRY(session_start(&r->session, e));
    const struct ledger_config lc = {.dir = sbuf_str(&dir),
                                     .job_json = sbuf_str(&job),
                                     .n_part = r->session.plan->n_part,
                                     .overwrite = r->o->overwrite,
                                     .attempt = r->attempt,
                                     .tokens = man_wants_tokens(man),
                                     .retry_failed = r->o->retry_failed};
    TRY(ledger_open(&r->ledger, &lc, e));
    TRY(mem_zalloc(&r->rank_of_part, (size_t)r->session.plan->n_part, sizeof(int), e));
    TRY(plan_deal(r->session.plan, r->o->rank.n, r->rank_of_part, e));
    count_work(r);
    TRY(run_open_work(r, e));
done:
    sbuf_fini(&dir);
    sbuf_fini(&job);
    return st;
}

static bool stdin_needed(const struct run *r) {
    for (int i = 0; i < r->session.plan->n_part; i++) {
        if (is_stdin(r, i) && r->rank_of_part[i] == r->o->rank.i &&
            !ledger_is_settled(r->ledger, i)) {
            return true;
        }
    }
    return false;
}

static enum status run_all(struct run *r, struct run_result *out, struct err *e) {
    enum status st = OK;
    struct err first = {0};
    int held = 0, held_elsewhere = 0;
    bool no_locks = false;
    TRY(write_record(r, false, e));
    if (stdin_needed(r)) TRY(session_spool_stdin(&r->session, ledger_dir(r->ledger), e));
    TRY(run_parts(r, true, &held, &no_locks, &first, e));
    if (no_locks) {
        run_say(
            r, RUN_WARNING,
            "this file system has no working locks: the run keeps to its own shard; do not start "
            "the same "
            "shard twice");
    }
    if (r->o->steal && !no_locks) TRY(run_parts(r, false, &held_elsewhere, &no_locks, &first, e));
    out->end = held + held_elsewhere > 0 ? RUN_HELD : RUN_DONE;
    if (first.code != OK) FAIL(e, first.code, "%s", first.msg);
done:
    return st;
}

enum status run_job(const struct manifest *man, const struct run_options *o, struct run_result *out,
                    struct err *e) {
    enum status st = OK;
    struct run r;
    memset(&r, 0, sizeof r);
    memset(out, 0, sizeof *out);
    r.o = o;
    sbuf_init(&r.records);
    r.started_ns = clock_ns();
    r.started_unix_ns = clock_unix_ns();
    name_attempt(&r);
    run_set_deadline(&r);
    TRY(open_run(&r, man, e));
    struct err why = {0};
    st = run_all(&r, out, &why);
    if (st == E_CANCEL) {
        out->end = RUN_STOPPED;
        st = OK;
    }
    const enum status recorded = write_record(&r, true, st == OK ? &why : NULL);
    if (st == OK) st = recorded;
    if (st == OK) st = summarize(&r, out, &why);
    if (st != OK) st = err_fail(e, st, "%s", why.msg);
done:
    run_close(&r);
    return st;
}
