/* The stream engine: the reference's recorded continuations, the span engine's log-probabilities long
 * past eviction, and bits that depend neither on who else is in the batch nor on saves. */
#include "base/cpu.h"
#include "base/mem.h"
#include "core/stream.h"
#include "io/json.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FIXTURES "tests/data/fixtures/"

static void must(enum status st, const struct err *e) {
    if (st != OK) fail_msg("%s: %s", err_name(st), e->msg);
}

/* ---- a model on a device ---- */

struct rig {
    struct model *model;
    struct dev *dev;
    struct model_on *on;
};

static void rig_open(struct rig *r, const char *path, bool ref, enum cpu_isa isa, int threads,
                     enum dtype dtype) {
    struct err e = {0};
    const struct dev_config c = {.n_thread = threads, .isa = isa, .compute = dtype};
    must(model_open(&r->model, path, &e), &e);
    must(ref ? dev_open_ref(&r->dev, &c, &e) : dev_open_cpu(&r->dev, &c, &e), &e);
    must(model_on_open(&r->on, r->model, r->dev, &e), &e);
}

static void rig_close(struct rig *r) {
    model_on_close(r->on);
    dev_close(r->dev);
    model_close(r->model);
}

static void fixture_dir(char dir[256], const char *name) {
    snprintf(dir, 256, FIXTURES "%s", name);
}

/* ---- a document that is continued ---- */

enum { MOST = 4096 };

struct doc {
    struct vis_rule rule;
    struct stream_how how;
    const int32_t *prompt;
    int64_t n_prompt;
    int64_t by_span; /* ids that go through a span; -1: all but the last */
    /* what came of it */
    int slot;
    int64_t n;
    int32_t ids[MOST];
    double logp[MOST];
    enum stream_end end;
    char why[512];
};

static void doc_init(struct doc *d, const int32_t *prompt, int64_t n, int64_t max_new) {
    *d = (struct doc){.prompt = prompt, .n_prompt = n, .by_span = -1, .slot = -1};
    stream_how_init(&d->how);
    d->how.max_new = max_new;
}

/* Feeds what goes through spans, in spans of uneven size. */
static void feed_span(const struct rig *r, struct cache *c, struct stream_past *past,
                      const int32_t *ids, int64_t n) {
    enum { MOST_ROWS = 64 };
    static const int32_t none[MOST_ROWS] = {0};
    struct err e = {0};
    struct span *sp = NULL;
    must(span_open(&sp, r->on, MOST_ROWS, &e), &e);
    for (int64_t t = 0; t < n;) {
        const int64_t rows = n - t < 37 ? n - t : 37;
        int64_t at = 0;
        must(span_add(sp, c, ids + t, none, rows, true, &at, &e), &e);
        must(span_run(sp, NULL, &e), &e);
        must(stream_past_add(past, sp, at, ids + t, rows, &e), &e);
        span_clear(sp);
        t += rows;
    }
    span_close(sp);
}

static enum status doc_try(const struct rig *r, struct stream *st, struct doc *d, struct err *e) {
    struct cache *c = NULL;
    struct stream_past *past = NULL;
    const int64_t by_span = d->by_span < 0 ? d->n_prompt - 1 : d->by_span;
    must(stream_past_open(&past, r->on, &d->how, e), e);
    must(cache_open(&c, r->on, &d->rule, e), e);
    if (by_span > 0) feed_span(r, c, past, d->prompt, by_span);
    const struct stream_entry in = {c, &past, &d->how, d->prompt + by_span, d->n_prompt - by_span};
    const enum status status = stream_enter(st, &in, &d->slot, e);
    assert_true((past == NULL) == (status == OK));
    cache_close(c);
    stream_past_close(past);
    return status;
}

static void doc_enter(const struct rig *r, struct stream *st, struct doc *d) {
    struct err e = {0};
    must(doc_try(r, st, d, &e), &e);
}

static void doc_take(struct doc *d, const struct stream_event *ev) {
    d->end = ev->end;
    if (ev->end == STREAM_FAILED) {
        assert_non_null(ev->why);
        snprintf(d->why, sizeof d->why, "%s", ev->why->msg);
        return;
    }
    assert_true(d->n < MOST);
    d->ids[d->n] = ev->id;
    d->logp[d->n++] = ev->logp;
}

/* One step; what came of it goes to the documents by slot. Those that have ended leave. */
static void step(struct stream *st, struct doc *const *docs, int n) {
    struct err e = {0};
    must(stream_step(st, NULL, &e), &e);
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
            must(stream_leave(st, docs[k]->slot, NULL, NULL, &e), &e);
            docs[k]->slot = -1;
        }
}

static struct stream *engine(const struct rig *r, int n_stream, int n_candidate) {
    struct err e = {0};
    struct stream *st = NULL;
    const struct stream_config c = {
        .n_stream = n_stream, .n_candidate = n_candidate, .n_logprob = 5};
    must(stream_open(&st, r->on, &c, &e), &e);
    return st;
}

static void doc_run(const struct rig *r, struct doc *d) {
    struct stream *st = engine(r, 1, d->how.penalty_alpha > 0 ? d->how.samp.top_k : 0);
    struct doc *one[1] = {d};
    doc_enter(r, st, d);
    while (stream_live(st) > 0) step(st, one, 1);
    stream_close(st);
}

/* ---- what the reference generated ---- */

struct recorded {
    struct json *ref;
    int32_t prompt[64], greedy[256], contrastive[256];
    int n_prompt, n_greedy, n_contrastive;
    struct vis_rule rule;
};

static int ids_of(const struct jnode *from, const char *key, int32_t *ids, int most) {
    const struct jnode *list = json_get(from, key);
    const int n = list != NULL ? (int)json_len(list) : 0;
    assert_true(n <= most);
    for (int i = 0; i < n; i++) ids[i] = (int32_t)json_int(json_at(list, (size_t)i));
    return n;
}

static void recorded_open(struct recorded *r, const char *name) {
    char path[256];
    struct err e = {0};
    snprintf(path, sizeof path, FIXTURES "%s/ref.json", name);
    must(json_open(&r->ref, path, 1 << 22, &e), &e);
    const struct jnode *g = json_get(json_root(r->ref), "generate");
    r->n_prompt = ids_of(g, "prompt", r->prompt, COUNTOF(r->prompt));
    r->n_greedy = ids_of(g, "greedy", r->greedy, COUNTOF(r->greedy));
    r->n_contrastive = ids_of(g, "contrastive", r->contrastive, COUNTOF(r->contrastive));
    const bool dense = json_get(g, "dense") != NULL;
    r->rule = (struct vis_rule){.dense = dense, .n_chunk = 1, .n_prefill = dense ? 0 : r->n_prompt};
    if (!dense) {
        r->rule.n_sink = json_int(json_get(g, "S"));
        r->rule.n_win = json_int(json_get(g, "W"));
    }
}

static const char *const names[] = {"llama",
                                    "llama_tied",
                                    "mistral",
                                    "yi",
                                    "llama_rope_linear",
                                    "llama_rope_llama3",
                                    "llama_rope_yarn",
                                    "mistral_swa",
                                    "qwen2",
                                    "qwen3",
                                    "stablelm2",
                                    "stablelm_epoch",
                                    "phi3",
                                    "gemma3",
                                    "gpt_neox",
                                    "gpt_neox_seq",
                                    "gptj",
                                    "falcon_mq",
                                    "falcon_new",
                                    "mpt",
                                    "btlm",
                                    "qwen",
                                    "gpt2",
                                    "opt",
                                    "falcon_alibi"};
enum { GREEDY = 25, CONTRASTIVE = 15 }; // how many of them have recorded ids

static void same_ids(const char *what, const char *name, const struct doc *d, const int32_t *want,
                     int n) {
    if (d->n != n) fail_msg("%s %s: %d ids, not %d (%s)", name, what, (int)d->n, n, d->why);
    for (int i = 0; i < n; i++)
        if (d->ids[i] != want[i])
            fail_msg("%s %s: id %d is %d, recorded %d", name, what, i, d->ids[i], want[i]);
}

static void continue_all(bool ref, enum cpu_isa isa) {
    int greedy = 0, contrastive = 0;
    static struct doc d;
    for (size_t k = 0; k < COUNTOF(names); k++) {
        struct recorded want;
        struct rig r;
        char dir[256];
        fixture_dir(dir, names[k]);
        recorded_open(&want, names[k]);
        rig_open(&r, dir, ref, isa, 1, DT_F32);
        if (want.n_greedy > 0) {
            doc_init(&d, want.prompt, want.n_prompt, want.n_greedy);
            d.rule = want.rule;
            doc_run(&r, &d);
            same_ids("greedy", names[k], &d, want.greedy, want.n_greedy);
            greedy++;
        }
        if (want.n_contrastive > 0) {
            doc_init(&d, want.prompt, want.n_prompt, want.n_contrastive);
            d.rule = want.rule;
            d.how.penalty_alpha = 0.6;
            d.how.samp.top_k = 4;
            doc_run(&r, &d);
            same_ids("contrastive", names[k], &d, want.contrastive, want.n_contrastive);
            contrastive++;
        }
        rig_close(&r);
        json_close(want.ref);
    }
    assert_int_equal(greedy, GREEDY);
    assert_int_equal(contrastive, CONTRASTIVE);
}

static void test_ref_continues_as_recorded(void **state) {
    (void)state;
    continue_all(true, CPU_PORTABLE);
}

static void test_cpu_continues_as_recorded(void **state) {
    (void)state;
    for (int isa = CPU_PORTABLE; isa <= (int)cpu_isa_best(); isa++)
        continue_all(false, (enum cpu_isa)isa);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ref_continues_as_recorded),
        cmocka_unit_test(test_cpu_continues_as_recorded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
