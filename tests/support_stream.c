#include "tests/support_stream.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

void gen_must(enum status st, const struct err *e) {
    if (st != OK) fail_msg("%s: %s", err_name(st), e->msg);
}

void gen_rig_open(struct gen_rig *r, const char *path, int isa, int threads, enum dtype dtype) {
    struct err e = {0};
    const struct dev_config c = {
        .n_thread = threads, .isa = isa < 0 ? CPU_PORTABLE : (enum cpu_isa)isa, .compute = dtype};
    struct dev *d = NULL;
    gen_must(isa < 0 ? dev_open_ref(&d, &c, &e) : dev_open_cpu(&d, &c, &e), &e);
    gen_rig_on(r, path, d, NULL);
}

void gen_rig_on(struct gen_rig *r, const char *path, struct dev *dev, struct dev *step_dev) {
    struct err e = {0};
    *r = (struct gen_rig){.dev = dev, .step_dev = step_dev};
    gen_must(model_open(&r->model, path, &e), &e);
    gen_must(model_on_open(&r->on, r->model, dev, &e), &e);
    if (step_dev != NULL) gen_must(model_on_open(&r->step_on, r->model, step_dev, &e), &e);
}

static const struct model_on *streams_on(const struct gen_rig *r) {
    return r->step_on != NULL ? r->step_on : r->on;
}

void gen_rig_close(struct gen_rig *r) {
    model_on_close(r->step_on);
    dev_close(r->step_dev);
    model_on_close(r->on);
    dev_close(r->dev);
    model_close(r->model);
}

void gen_fixture(struct gen_rig *r, const char *name, int isa, int threads, enum dtype dtype) {
    char dir[256];
    snprintf(dir, sizeof dir, "tests/data/fixtures/%s", name);
    gen_rig_open(r, dir, isa, threads, dtype);
}

void gen_doc_init(struct gen_doc *d, const struct vis_rule *rule, const int32_t *prompt, int64_t n,
                  int64_t max_new) {
    *d =
        (struct gen_doc){.rule = *rule, .prompt = prompt, .n_prompt = n, .by_span = -1, .slot = -1};
    stream_how_init(&d->how);
    d->how.max_new = max_new;
}

void gen_span(const struct gen_rig *r, struct cache *c, struct stream_past *past,
              const int32_t *ids, int64_t n) {
    enum { MOST_ROWS = 64 };
    static const int32_t none[MOST_ROWS] = {0};
    struct err e = {0};
    struct span *sp = NULL;
    gen_must(span_open(&sp, r->on, MOST_ROWS, &e), &e);
    for (int64_t t = 0; t < n;) {
        const int64_t rows = n - t < 37 ? n - t : 37;
        int64_t at = 0;
        gen_must(span_add(sp, c, ids + t, none, rows, true, &at, &e), &e);
        gen_must(span_run(sp, NULL, &e), &e);
        gen_must(stream_past_add(past, sp, at, ids + t, rows, &e), &e);
        span_clear(sp);
        t += rows;
    }
    span_close(sp);
}

enum status gen_try_enter(const struct gen_rig *r, struct stream *st, struct gen_doc *d,
                          struct err *e) {
    struct cache *c = NULL;
    struct stream_past *past = NULL;
    const int64_t by_span = d->by_span < 0 ? d->n_prompt - 1 : d->by_span;
    gen_must(stream_past_open(&past, streams_on(r), &d->how, e), e);
    gen_must(cache_open(&c, r->on, &d->rule, e), e);
    if (by_span > 0) gen_span(r, c, past, d->prompt, by_span);
    const struct stream_entry in = {c, &past, &d->how, d->prompt + by_span, d->n_prompt - by_span};
    const enum status status = stream_enter(st, &in, &d->slot, e);
    assert_true((past == NULL) == (status == OK));
    cache_close(c);
    stream_past_close(past);
    return status;
}

void gen_enter(const struct gen_rig *r, struct stream *st, struct gen_doc *d) {
    struct err e = {0};
    gen_must(gen_try_enter(r, st, d, &e), &e);
}

static void doc_take(struct gen_doc *d, const struct stream_event *ev) {
    d->end = ev->end;
    if (ev->end == STREAM_FAILED) {
        assert_non_null(ev->why);
        snprintf(d->why, sizeof d->why, "%s", ev->why->msg);
        return;
    }
    assert_true(d->n < GEN_MOST);
    d->ids[d->n] = ev->id;
    d->logp[d->n++] = ev->logp;
}

void gen_step(struct stream *st, struct gen_doc *const *docs, int n) {
    struct err e = {0};
    gen_must(stream_step(st, NULL, &e), &e);
    gen_take(st, docs, n);
}

void gen_take(struct stream *st, struct gen_doc *const *docs, int n) {
    struct err e = {0};
    int before = -1;
    for (int i = 0; i < stream_events(st); i++) {
        const struct stream_event *ev = stream_event(st, i);
        assert_true(ev->slot > before);
        before = ev->slot;
        for (int k = 0; k < n; k++)
            if (docs[k]->slot == ev->slot) doc_take(docs[k], ev);
    }
    for (int k = 0; k < n; k++)
        if (docs[k]->slot >= 0 && docs[k]->end != STREAM_GOES_ON) {
            gen_must(stream_leave(st, docs[k]->slot, NULL, NULL, &e), &e);
            docs[k]->slot = -1;
        }
}

struct stream *gen_engine(const struct gen_rig *r, int n_stream, int n_candidate) {
    struct err e = {0};
    struct stream *st = NULL;
    const struct stream_config c = {
        .n_stream = n_stream, .n_candidate = n_candidate, .n_logprob = 5};
    gen_must(stream_open(&st, streams_on(r), &c, &e), &e);
    return st;
}

void gen_run(const struct gen_rig *r, struct gen_doc *d) {
    struct stream *st = gen_engine(r, 1, d->how.penalty_alpha > 0 ? d->how.samp.top_k : 0);
    struct gen_doc *one[1] = {d};
    gen_enter(r, st, d);
    while (stream_live(st) > 0) gen_step(st, one, 1);
    stream_close(st);
}

void gen_same(const char *what, const struct gen_doc *a, const struct gen_doc *b) {
    if (a->n != b->n || a->end != b->end)
        fail_msg("%s: %d ids, not %d", what, (int)b->n, (int)a->n);
    for (int64_t i = 0; i < a->n; i++)
        if (a->ids[i] != b->ids[i] || memcmp(&a->logp[i], &b->logp[i], sizeof a->logp[i]) != 0)
            fail_msg("%s: token %d is %d (%.17g), not %d (%.17g)", what, (int)i, b->ids[i],
                     b->logp[i], a->ids[i], a->logp[i]);
}

struct stream *gen_move(const struct gen_rig *r, struct stream *st, struct gen_doc *const *docs,
                        int n, int n_slot) {
    struct err e = {0};
    static struct sbuf saved[64];
    assert_true(n <= 64);
    for (int i = 0; i < n; i++) {
        sbuf_init(&saved[i]);
        if (docs[i]->slot >= 0) gen_must(stream_save(st, docs[i]->slot, &saved[i], &e), &e);
    }
    stream_close(st);
    st = gen_engine(r, n_slot, 4);
    for (int i = n - 1; i >= 0; i--) { // into other slots
        if (docs[i]->slot >= 0) {
            struct stream_saved in = {&docs[i]->rule, &docs[i]->how, saved[i].s, saved[i].n, 0};
            gen_must(stream_restore(st, &in, &docs[i]->slot, &e), &e);
            assert_int_equal(in.used, saved[i].n);
        }
        sbuf_fini(&saved[i]);
    }
    return st;
}
