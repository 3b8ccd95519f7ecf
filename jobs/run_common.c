/* What runs with and without an output directory have in common. */
#include "base/clock.h"
#include "base/mem.h"
#include "jobs/run_impl.h"

/* ---- stopping ---- */

bool run_must_stop(void *ctx) {
    struct run *r = ctx;
    const struct run_hooks *h = &r->o->hooks;
    if (h->stop != NULL && h->stop(h->ctx)) return true;
    if (r->deadline_ns == 0) return false;
    const int64_t reserve = 500000000; // for the checkpoint
    return clock_ns() + reserve >= r->deadline_ns;
}

void run_set_deadline(struct run *r) {
    const int64_t now = clock_ns();
    const int64_t last_s = INT64_MAX / 1000000000; // an end behind it is no end
    if (r->o->time_limit_s > 0) r->deadline_ns = now + (int64_t)(r->o->time_limit_s * 1e9);
    if (r->o->end_unix_s > 0 && r->o->end_unix_s <= last_s) {
        // the scheduler's word: be gone ten seconds earlier
        const int64_t left = (r->o->end_unix_s - 10) * 1000000000 - clock_unix_ns();
        const int64_t at = now + (left > 1 ? left : 1);
        if (r->deadline_ns == 0 || at < r->deadline_ns) r->deadline_ns = at;
    }
}

/* ---- talking ---- */

void run_say(void *ctx, enum run_note kind, const char *text) {
    const struct run *r = ctx;
    if (r->o->hooks.note != NULL) r->o->hooks.note(r->o->hooks.ctx, kind, text);
}

static void progress(void *ctx, const struct part_totals *t, const char *source) {
    struct run *r = ctx;
    if (r->stale) run_record(r, false);
    if (r->o->hooks.progress == NULL) return;
    // What an earlier attempt did is neither done by this run nor left to it.
    int64_t read = r->jobs != NULL ? r->jobs->bytes : 0;
    int64_t begun = r->bytes_begun + (r->jobs != NULL ? r->jobs->bytes_begun : 0);
    for (const struct run_part *p = r->begun; p != NULL; p = p->next) {
        read += p->job.bytes;
        begun += p->job.bytes_begun;
    }
    const struct run_progress p = {.documents = t->documents,
                                   .failed = t->failed,
                                   .tokens = t->tokens,
                                   .bytes_done = r->bytes_done + read - begun,
                                   .bytes_total = r->bytes_total < 0 ? -1 : r->bytes_total - begun,
                                   .seconds = (double)(clock_ns() - r->started_ns) / 1e9,
                                   .sum_logprob = num_sum_value(&t->sum),
                                   .num_scored = t->num_scored,
                                   .parts_done = r->parts_done,
                                   .parts = r->parts,
                                   .source = source};
    r->o->hooks.progress(r->o->hooks.ctx, &p);
}

enum status run_open_work(struct run *r, struct err *e) {
    const struct part_config hooks = {
        .stop = {run_must_stop, r}, .note = run_say, .progress = progress, .ctx = r};
    return work_open(&r->work, &r->session, &hooks, e);
}

void run_close(struct run *r) {
    work_close(&r->work);
    while (r->begun != NULL) {
        struct run_part *p = r->begun;
        r->begun = p->next;
        ledger_part_close(p->ledger);
        sbuf_fini(&p->job.state);
        mem_free(p);
    }
    ledger_close(r->ledger);
    session_close(&r->session);
    mem_free(r->rank_of_part);
    sbuf_fini(&r->records);
}
