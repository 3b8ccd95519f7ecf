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

// What this run has done of a part.
static void describe_part(const struct run_part *p, const char *end, struct sbuf *out) {
    sbuf_printf(out,
                "%s{\"part\":%d,\"documents_resumed\":%lld,\"tokens_resumed\":%lld,\"tokens_"
                "computed\":%lld,"
                "\"end\":\"%s\"}",
                out->n > 0 && out->s[out->n - 1] != '[' ? "," : "", p->number,
                (long long)p->begun.documents, (long long)p->job.tokens_resumed,
                (long long)p->job.tokens, end);
}

static void put_stages(const char *name, const double stage[DEV_STAGE_COUNT], struct sbuf *out) {
    sbuf_printf(out,
                ",\"%s\":{\"linear\":%.3f,\"attention\":%.3f,\"head\":%.3f,\"prepare\":%.3f,"
                "\"other\":%.3f}",
                name, stage[DEV_LINEAR], stage[DEV_ATTEND], stage[DEV_HEAD], stage[DEV_PREPARE],
                stage[DEV_OTHER]);
}

// What each device has done, and what all have together.
static void put_devices(const struct run *r, struct sbuf *out) {
    const struct deal_worker *w = NULL;
    const int n = work_devices(&r->work, &w), n_dev = r->session.n_dev;
    double all[DEV_STAGE_COUNT] = {0};
    sbuf_puts(out, ",\"devices\":[");
    for (int i = 0; i < n_dev; i++) {
        static const struct deal_worker none = {.documents = 0};
        const struct deal_worker *x = i < n ? &w[i] : &none;
        const struct session_dev *v = &r->session.devs[i];
        sbuf_printf(out, "%s{\"name\":\"%s\",\"device\":", i > 0 ? "," : "", v->name);
        sbuf_json_string(out, dev_describe(v->dev), strlen(dev_describe(v->dev)));
        sbuf_printf(out, ",\"span_tokens\":%lld,\"documents\":%lld,\"tokens_computed\":%lld",
                    (long long)v->n_row, (long long)x->documents, (long long)x->tokens);
        put_stages("stage_seconds", x->seconds, out);
        sbuf_puts(out, ",\"failed\":");
        if (x->why[0] == '\0') sbuf_puts(out, "null");
        if (x->why[0] != '\0') sbuf_json_string(out, x->why, strlen(x->why));
        sbuf_puts(out, "}");
        for (int k = 0; k < DEV_STAGE_COUNT; k++) all[k] += x->seconds[k];
    }
    sbuf_puts(out, "]");
    put_stages("stage_seconds", all, out);
}

static enum status write_record(struct run *r, bool ended, struct err *e) {
    enum status st = OK;
    struct sbuf b;
    sbuf_init(&b);
    char host[128] = "unknown", cpu[128];
    gethostname(host, sizeof host - 1);
    cpu_model(cpu, sizeof cpu);
    const struct part_totals *t = work_totals(&r->work);
    sbuf_printf(&b, "{\"attempt\":\"%s\",\"version\":\"%s\",\"host\":", r->attempt, BASIN_VERSION);
    sbuf_json_string(&b, host, strlen(host));
    sbuf_puts(&b, ",\"cpu\":");
    sbuf_json_string(&b, cpu, strlen(cpu));
    sbuf_puts(&b, ",\"device\":\"");
    for (int i = 0; i < r->session.n_dev; i++) {
        sbuf_printf(&b, "%s%s", i > 0 ? "; " : "", dev_describe(r->session.devs[i].dev));
    }
    sbuf_printf(&b, "\",\"simd\":\"%s\",\"threads\":%d,\"dtype\":\"%s\",\"span_tokens\":%lld",
                cpu_isa_name(r->o->isa), r->o->n_thread, session_dtype(&r->session),
                (long long)r->session.n_row);
    sbuf_printf(&b, ",\"rank\":%d,\"ranks\":%d,\"started_unix\":", r->o->rank.i, r->o->rank.n);
    sbuf_json_double(&b, (double)(r->started_unix_ns / 1000000) / 1e3);
    sbuf_printf(&b, ",\"ended\":%s,\"seconds\":", ended ? "true" : "false");
    sbuf_json_double(&b, (double)(clock_ns() - r->started_ns) / 1e9);
    sbuf_printf(
        &b, ",\"documents\":%lld,\"failed\":%lld,\"tokens_computed\":%lld,\"tokens_resumed\":%lld",
        (long long)t->documents, (long long)t->failed, (long long)t->tokens,
        (long long)t->tokens_resumed);
    put_devices(r, &b);
    sbuf_printf(&b, ",\"parts\":[%s", sbuf_str(&r->records));
    for (const struct run_part *p = r->begun; p != NULL; p = p->next)
        describe_part(p, "running", &b);
    sbuf_puts(&b, "]}\n");
    TRY(sbuf_status(&b, e));
    TRY(ledger_write_run(r->ledger, b.s, e));
done:
    sbuf_fini(&b);
    return st;
}

void run_record(struct run *r, bool ended) {
    r->stale = false;
    if (r->ledger != NULL) (void)write_record(r, ended, &r->record);
}

/* ---- the ledger as the work sees it ---- */

static enum status out_add(void *ctx, enum ledger_stream s, const char *lines, size_t n,
                           struct err *e) {
    return ledger_add(((struct run_part *)ctx)->ledger, s, lines, n, e);
}

static enum status out_add_open(void *ctx, const char *lines, size_t n, struct err *e) {
    return ledger_add_open(((struct run_part *)ctx)->ledger, lines, n, e);
}

static void out_close(void *ctx) {
    ledger_close_document(((struct run_part *)ctx)->ledger);
}

static enum status out_drop(void *ctx, struct err *e) {
    return ledger_drop_document(((struct run_part *)ctx)->ledger, e);
}

static enum status out_spool(void *ctx, const char *bytes, size_t n, int64_t *at, struct err *e) {
    return ledger_spool(((struct run_part *)ctx)->ledger, bytes, n, at, e);
}

static enum status out_unspool(void *ctx, int64_t at, size_t n, struct sbuf *out, struct err *e) {
    return ledger_unspool(((struct run_part *)ctx)->ledger, at, n, out, e);
}

static enum status out_put_state(void *ctx, const char *bytes, size_t n, struct err *e) {
    return ledger_put_state(((struct run_part *)ctx)->ledger, bytes, n, e);
}

static int64_t out_uncommitted(void *ctx) {
    return ledger_uncommitted(((struct run_part *)ctx)->ledger);
}

static enum status out_commit(void *ctx, const struct ledger_mark *m, const char *state, size_t n,
                              struct err *e) {
    struct run_part *p = ctx;
    const enum status st = ledger_commit(p->ledger, m, state, n, e);
    p->run->stale = true;
    return st;
}

static const struct part_out to_ledger = {.add = out_add,
                                          .add_open = out_add_open,
                                          .close_document = out_close,
                                          .drop_document = out_drop,
                                          .spool = out_spool,
                                          .unspool = out_unspool,
                                          .uncommitted = out_uncommitted,
                                          .put_state = out_put_state,
                                          .commit = out_commit};

/* ---- parts ---- */

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

/* Takes a part. *out NULL: there is nothing to do on it, or another run has it. */
static enum status begin_part(struct run *r, int part, struct part_job **out, struct err *e) {
    enum status st = OK;
    struct run_part *p = NULL;
    bool held = false;
    *out = NULL;
    TRY(mem_zalloc(&p, 1, sizeof *p, e));
    sbuf_init(&p->job.state);
    TRY(ledger_part_open(&p->ledger, r->ledger, part, r->o->ignore_locks, &held, &r->no_locks,
                         &p->job.mark, &p->job.state, e));
    r->n_held += held;
    if (p->ledger == NULL) goto done; // held, or published by another run in the meantime
    adopt(r, part);
    p->run = r;
    p->number = part;
    p->begun = p->job.mark;
    p->job.part = &r->session.plan->parts[part];
    p->job.out = to_ledger;
    p->job.out.ctx = p;
    part_event(r, "part_begin", part, &p->begun);
    struct run_part **last = &r->begun;
    while (*last != NULL) last = &(*last)->next;
    *last = p;
    *out = &p->job;
    p = NULL;
done:
    if (p != NULL) sbuf_fini(&p->job.state);
    mem_free(p);
    return st;
}

static bool is_stdin(const struct run *r, int part) {
    return r->session.plan->parts[part].bytes < 0;
}

// This rank's parts in order; then, stealing, those of others.
static bool concerns(const struct run *r, int part) {
    const bool mine = r->rank_of_part[part] == r->o->rank.i;
    if (mine == r->others) return false;
    return mine || !is_stdin(r, part); // what this process reads there is another text
}

static enum status next_part(void *ctx, struct part_job **out, struct err *e) {
    enum status st = OK;
    struct run *r = ctx;
    *out = NULL;
    if (r->record.code != OK) FAIL(e, r->record.code, "%s", r->record.msg);
    for (; *out == NULL; r->at++) {
        if (r->at == r->session.plan->n_part) {
            if (r->others || !r->o->steal || r->no_locks) break;
            r->others = true;
            r->at = -1;
            continue;
        }
        if (!concerns(r, r->at)) continue;
        // Asked only where there is work to give up: a job that is all done is done, not stopped.
        if (ledger_is_settled(r->ledger, r->at)) {
            if (!r->others) r->parts_done++;
            continue;
        }
        if (run_must_stop(r)) FAIL(e, E_CANCEL, "stopped on request");
        const int held = r->n_held;
        TRY(begin_part(r, r->at, out, e));
        if (*out == NULL && r->n_held == held && !r->others) r->parts_done++;
    }
done:
    return st;
}

/* What is wrong with one part's inputs does not keep the next from being done: the first such error is
 * kept. */
static enum status end_part(void *ctx, struct part_job *j, enum status how, const struct err *why,
                            struct err *e) {
    enum status st = how;
    struct run_part *p = (struct run_part *)j;
    struct run *r = ctx;
    struct err wrong = {.code = OK};
    if (why != NULL) wrong = *why;
    struct run_part **at = &r->begun;
    while (*at != p) at = &(*at)->next;
    *at = p->next;
    if (st == OK) st = ledger_publish(p->ledger, &j->mark, &wrong);
    describe_part(p, st == OK ? "published" : err_name(st), &r->records);
    if (st == OK) {
        part_event(r, "part_end", p->number, &j->mark);
        r->bytes_done += j->part->bytes;
        r->bytes_begun += j->bytes_begun;
        r->parts_done++;
    }
    ledger_part_close(p->ledger);
    sbuf_fini(&j->state);
    mem_free(p);
    if (st == E_NOINPUT) {
        if (r->first.code == OK) r->first = wrong;
        run_say(r, RUN_WARNING, wrong.msg);
        st = OK;
    }
    if (st == OK && r->record.code != OK) FAIL(e, r->record.code, "%s", r->record.msg);
    if (st != OK) st = err_fail(e, st, "%s", wrong.msg);
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
    const struct part_source src = {r, next_part, end_part};
    TRY(write_record(r, false, e));
    if (stdin_needed(r)) TRY(session_spool_stdin(&r->session, ledger_dir(r->ledger), e));
    st = work_run(&r->work, &src, e);
    if (r->no_locks) {
        run_say(
            r, RUN_WARNING,
            "this file system has no working locks: the run keeps to its own shard; do not start "
            "the same "
            "shard twice");
    }
    TRY(st);
    out->end = r->n_held > 0 ? RUN_HELD : RUN_DONE;
    if (r->first.code != OK) FAIL(e, r->first.code, "%s", r->first.msg);
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
