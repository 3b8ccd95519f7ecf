#include "tests/support_span.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

void must(enum status st, const struct err *e) {
    if (st != OK) fail_msg("%s: %s", err_name(st), e->msg);
}

void rig_on(struct rig *r, const char *dir, struct dev *d) {
    struct err e = {0};
    must(model_open(&r->model, dir, &e), &e);
    r->dev = d;
    must(model_on_open(&r->on, r->model, r->dev, &e), &e);
}

void rig_close(struct rig *r) {
    model_on_close(r->on);
    dev_close(r->dev);
    model_close(r->model);
}

void score(const struct rig *r, const struct vis_rule *rule, const int32_t *ids, int64_t n,
           int64_t n_span, double *nll) {
    struct err e = {0};
    struct span *sp = NULL;
    struct cache *c = NULL;
    must(span_open(&sp, r->on, n_span, &e), &e);
    must(cache_open(&c, r->on, rule, &e), &e);
    for (int64_t t = 0; t < n - 1; t += n_span) {
        const int64_t rows = n - 1 - t < n_span ? n - 1 - t : n_span;
        int64_t at = 0;
        must(span_add(sp, c, ids + t, ids + t + 1, rows, t + rows < n - 1, &at, &e), &e);
        must(span_run(sp, NULL, &e), &e);
        for (int64_t i = 0; i < rows; i++) nll[t + i] = -span_logp(sp)[at + i];
        span_clear(sp);
    }
    cache_close(c);
    span_close(sp);
}

void fixture_open(struct fixture *f, const char *name) {
    char path[256];
    struct err e = {0};
    snprintf(path, sizeof path, FIXTURES "%s/ref.json", name);
    must(json_open(&f->ref, path, 1 << 22, &e), &e);
    const struct jnode *ids = json_get(json_root(f->ref), "ids");
    f->n = (int)json_len(ids);
    for (int i = 0; i < f->n; i++) f->ids[i] = (int32_t)json_int(json_at(ids, (size_t)i));
}

void rules_for_laws(struct vis_rule rules[6]) {
    rules[0] = (struct vis_rule){.n_sink = 4, .n_win = 28, .n_chunk = 1};
    rules[1] = (struct vis_rule){.n_sink = 0, .n_win = 32, .n_chunk = 1};
    rules[2] = (struct vis_rule){.dense = true, .n_chunk = 1};
    rules[3] = (struct vis_rule){.n_sink = 4, .n_win = 28, .n_chunk = 1, .n_prefill = 100};
    rules[4] = (struct vis_rule){.n_sink = 4, .n_win = 28, .n_chunk = 16};
    rules[5] = (struct vis_rule){.n_sink = 3, .n_win = 5, .n_chunk = 1, .strict = true};
}
