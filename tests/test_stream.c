/* The stream engine against the truth: the reference's recorded continuations, greedy and contrastive,
 * the span engine's log-probabilities long past eviction, chats against one document. */
#include "tests/support_stream.h"

#include "base/mem.h"
#include "io/json.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FIXTURES "tests/data/fixtures/"

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

static void recorded_read(struct recorded *r, const char *name, const char *file) {
    char path[256];
    struct err e = {0};
    snprintf(path, sizeof path, FIXTURES "%s/%s", name, file);
    gen_must(json_open(&r->ref, path, 1 << 22, &e), &e);
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

static void recorded_open(struct recorded *r, const char *name) {
    recorded_read(r, name, "ref.json");
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

static void same_ids(const char *what, const char *name, const struct gen_doc *d,
                     const int32_t *want, int n) {
    if (d->n != n) fail_msg("%s %s: %d ids, not %d (%s)", name, what, (int)d->n, n, d->why);
    for (int i = 0; i < n; i++)
        if (d->ids[i] != want[i])
            fail_msg("%s %s: id %d is %d, recorded %d", name, what, i, d->ids[i], want[i]);
}

static void continue_all(int isa) {
    int greedy = 0, contrastive = 0;
    static struct gen_doc d;
    for (size_t k = 0; k < COUNTOF(names); k++) {
        struct recorded want;
        struct gen_rig r;
        recorded_open(&want, names[k]);
        gen_fixture(&r, names[k], isa, 1, DT_F32);
        if (want.n_greedy > 0) {
            gen_doc_init(&d, &want.rule, want.prompt, want.n_prompt, want.n_greedy);
            gen_run(&r, &d);
            same_ids("greedy", names[k], &d, want.greedy, want.n_greedy);
            greedy++;
        }
        if (want.n_contrastive > 0) {
            gen_doc_init(&d, &want.rule, want.prompt, want.n_prompt, want.n_contrastive);
            d.how.penalty_alpha = 0.6;
            d.how.samp.top_k = 4;
            gen_run(&r, &d);
            same_ids("contrastive", names[k], &d, want.contrastive, want.n_contrastive);
            contrastive++;
        }
        gen_rig_close(&r);
        json_close(want.ref);
    }
    assert_int_equal(greedy, GREEDY);
    assert_int_equal(contrastive, CONTRASTIVE);
}

static void test_ref_continues_as_recorded(void **state) {
    (void)state;
    continue_all(-1);
}

static void test_cpu_continues_as_recorded(void **state) {
    (void)state;
    for (int isa = CPU_PORTABLE; isa <= (int)cpu_isa_best(); isa++) continue_all(isa);
}

/* ---- against the span engine ---- */

static int32_t text[400]; // ids of the fixture

static void read_text(void) {
    struct err e = {0};
    struct json *ref = NULL;
    gen_must(json_open(&ref, FIXTURES "llama/ref.json", 1 << 22, &e), &e);
    assert_int_equal(ids_of(json_root(ref), "ids", text, COUNTOF(text)), COUNTOF(text));
    json_close(ref);
}

/* logp[i] of ids[from + 1 + i] by the span engine. */
static void score_tail(const struct gen_rig *r, const struct vis_rule *rule, const int32_t *ids,
                       int64_t n, int64_t from, double *logp) {
    struct err e = {0};
    struct span *sp = NULL;
    struct cache *c = NULL;
    gen_must(span_open(&sp, r->on, 200, &e), &e);
    gen_must(cache_open(&c, r->on, rule, &e), &e);
    for (int64_t t = 0; t < n - 1;) {
        const int64_t rows = n - 1 - t < 200 ? n - 1 - t : 200;
        int64_t at = 0;
        gen_must(span_add(sp, c, ids + t, ids + t + 1, rows, true, &at, &e), &e);
        gen_must(span_run(sp, NULL, &e), &e);
        for (int64_t k = 0; k < rows; k++)
            if (t + k >= from) logp[t + k - from] = span_logp(sp)[at + k];
        span_clear(sp);
        t += rows;
    }
    cache_close(c);
    span_close(sp);
}

/* The largest difference between what was generated and the span engine's log-probabilities. */
static double gap(const struct gen_rig *r, const struct gen_doc *d) {
    static int32_t all[2 * GEN_MOST];
    static double logp[GEN_MOST];
    double worst = 0;
    memcpy(all, d->prompt, (size_t)d->n_prompt * sizeof *all);
    memcpy(all + d->n_prompt, d->ids, (size_t)d->n * sizeof *all);
    score_tail(r, &d->rule, all, d->n_prompt + d->n, d->n_prompt - 1, logp);
    for (int64_t i = 0; i < d->n; i++) {
        const double x = fabs(logp[i] - d->logp[i]);
        worst = !(x <= worst) ? x : worst;
    }
    return worst;
}

static void agree(const char *name, int isa, const struct vis_rule *rule, int64_t n_prompt,
                  int64_t by_span, int64_t n, double budget) {
    static struct gen_doc d;
    struct gen_rig r;
    gen_fixture(&r, name, isa, 1, DT_F32);
    gen_doc_init(&d, rule, text, n_prompt, n);
    d.by_span = by_span;
    d.how.samp.temperature = 1;
    d.how.key = samp_key(7, name, strlen(name), 0);
    gen_run(&r, &d);
    assert_int_equal(d.end, STREAM_LENGTH);
    assert_int_equal(d.n, n);
    const double x = gap(&r, &d);
    print_message("%s %s: %d tokens, %.1e from the span engine\n", isa < 0 ? "ref" : "cpu", name,
                  (int)n, x);
    if (!(x <= budget)) fail_msg("%s: off by %g, budget %g", name, x, budget);
    gen_rig_close(&r);
}

static void test_far_past_the_window(void **state) {
    (void)state;
    read_text();
    const struct vis_rule small = {.n_sink = 4, .n_win = 12, .n_chunk = 1};
    const int64_t n = 50 * (4 + 12);
    agree("llama", -1, &small, 20, -1, n, 1e-9);
    agree("gemma3", -1, &small, 20, -1, n, 1e-9);
    agree("mpt", -1, &small, 20, -1, n, 1e-9);
    const struct vis_rule sink = {.n_sink = 4, .n_win = 28, .n_chunk = 1};
    for (int isa = CPU_PORTABLE; isa <= (int)cpu_isa_best(); isa++) {
        agree("llama", isa, &sink, 20, -1, 50 * 32, 2e-5);
        agree("falcon_new", isa, &sink, 20, -1, 500, 2e-5);
    }
}

static void test_every_rule(void **state) {
    (void)state;
    read_text();
    const struct vis_rule rules[] = {{.dense = true, .n_chunk = 1},
                                     {.n_sink = 0, .n_win = 32, .n_chunk = 1},
                                     {.n_sink = 3, .n_win = 5, .n_chunk = 1, .strict = true},
                                     {.n_sink = 4, .n_win = 28, .n_chunk = 1, .n_prefill = 100},
                                     {.n_sink = 4, .n_win = 28, .n_chunk = 16},
                                     {.n_sink = 4, .n_win = 2, .n_chunk = 1}};
    for (size_t k = 0; k < COUNTOF(rules); k++) {
        agree("llama", -1, &rules[k], 100, -1, 150, 1e-9);
        agree("gemma3", -1, &rules[k], 30, -1, 60, 1e-9);
        agree("mistral_swa", -1, &rules[k], 100, -1, 60, 1e-9);
        agree("llama", -1, &rules[k], 3, 0, 100,
              1e-9); // shorter than the sinks, all of it streamed
        agree("llama", -1, &rules[k], 120, 50, 30, 1e-9); // and in the middle
    }
}

/* ---- chats ---- */

enum { TURN = 30, SAID = 24 };

/* Two turns; the second one's ids are fed by stream_turn or through a span. What it says is in d->ids. */
static void chat(const struct gen_rig *r, struct gen_doc *d, bool by_span, int32_t *all,
                 int64_t *n_all) {
    struct err e = {0};
    struct stream *st = gen_engine(r, 2, 0);
    struct gen_doc *one[1] = {d};
    int32_t ids[TURN + 1], last = -1;
    gen_enter(r, st, d);
    const int slot = d->slot;
    d->slot = -1; // stays when its turn has ended
    while (stream_live(st) > 0) {
        gen_must(stream_step(st, NULL, &e), &e);
        if (stream_events(st) == 1) d->ids[d->n++] = stream_event(st, 0)->id;
    }
    assert_int_equal(stream_generated(st, slot), SAID);
    assert_true(stream_unfed(st, slot, &last) && last == d->ids[SAID - 1]);
    assert_int_equal(stream_pos(st, slot), d->n_prompt + SAID - 1);
    ids[0] = last;
    memcpy(ids + 1, text + 200, TURN * sizeof *ids);
    memcpy(all, d->prompt, (size_t)d->n_prompt * sizeof *all);
    memcpy(all + d->n_prompt, d->ids, SAID * sizeof *all);
    memcpy(all + d->n_prompt + SAID, ids + 1, TURN * sizeof *all);
    *n_all = d->n_prompt + SAID + TURN;
    d->n = 0;
    d->how.first_step = SAID;
    if (by_span) {
        struct cache *c = NULL;
        struct stream_past *past = NULL;
        gen_must(cache_open(&c, r->on, &d->rule, &e), &e);
        gen_must(stream_leave(st, slot, c, &past, &e), &e);
        gen_span(r, c, past, ids, TURN);
        const struct stream_entry in = {c, &past, &d->how, ids + TURN, 1};
        gen_must(stream_enter(st, &in, &d->slot, &e), &e);
        cache_close(c);
    } else {
        gen_must(stream_turn(st, slot, &d->how, ids, TURN + 1, &e), &e);
        d->slot = slot;
    }
    while (stream_live(st) > 0) gen_step(st, one, 1);
    stream_close(st);
}

static void test_chat(void **state) {
    (void)state;
    static struct gen_doc d[2];
    static int32_t all[2][256];
    read_text();
    struct gen_rig r;
    gen_fixture(&r, "llama", -1, 1, DT_F32);
    const struct vis_rule sink = {.n_sink = 4, .n_win = 28, .n_chunk = 1};
    for (int i = 0; i < 2; i++) {
        int64_t n = 0;
        double logp[SAID];
        gen_doc_init(&d[i], &sink, text, 25, SAID);
        d[i].how.samp.repetition_penalty = 1.5;
        chat(&r, &d[i], i == 1, all[i], &n);
        assert_int_equal(d[i].n, SAID);
        memcpy(all[i] + n, d[i].ids, SAID * sizeof *all[i]);
        score_tail(&r, &sink, all[i], n + SAID, n - 1, logp);
        for (int k = 0; k < SAID; k++) assert_true(fabs(logp[k] - d[i].logp[k]) <= 1e-9);
    }
    assert_memory_equal(d[0].ids, d[1].ids, SAID * sizeof *d[0].ids);
    gen_rig_close(&r);
}

/* ---- contrastive search, computed from whole documents ---- */

struct seen_all { // of one run over a whole text, on ref
    double logits[256], hidden[64 * 64];
};

static void run_all(const struct gen_rig *r, const struct vis_rule *rule, const int32_t *ids, int n,
                    struct seen_all *out) {
    static const int32_t none[64] = {0};
    struct err e = {0};
    struct span *sp = NULL;
    struct cache *c = NULL;
    int64_t row = 0;
    gen_must(span_open(&sp, r->on, 64, &e), &e);
    gen_must(span_keep_logits(sp, &e), &e);
    gen_must(cache_open(&c, r->on, rule, &e), &e);
    gen_must(span_add(sp, c, ids, none, n, false, &row, &e), &e);
    gen_must(span_run(sp, NULL, &e), &e);
    dev_read(r->dev, span_logits(sp), n - 1, 1, out->logits);
    dev_read(r->dev, span_hidden(sp), 0, n, out->hidden);
    gen_must(dev_sync(r->dev, &e), &e);
    cache_close(c);
    span_close(sp);
}

static double cosine(const double *a, const double *b) {
    double ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < 64; i++) {
        ab += a[i] * b[i];
        aa += a[i] * a[i];
        bb += b[i] * b[i];
    }
    return ab / sqrt(aa * bb);
}

/* The next token after ids[0..n-1]. */
static int32_t contrast(const struct gen_rig *r, const struct gen_doc *d, const int32_t *ids,
                        int n) {
    static struct seen_all now, next;
    int32_t with[64], best_id = -1;
    double p[256], sum = 0, best = -INFINITY;
    run_all(r, &d->rule, ids, n, &now);
    for (int i = 0; i < n; i++) { // each id once, whether it is there twice or not
        bool before = false;
        for (int k = 0; k < i; k++) before = before || ids[k] == ids[i];
        double *l = &now.logits[ids[i]];
        if (!before)
            *l = *l > 0 ? *l / d->how.samp.repetition_penalty : *l * d->how.samp.repetition_penalty;
    }
    for (int v = 0; v < 256; v++) sum += p[v] = exp(now.logits[v]);
    memcpy(with, ids, (size_t)n * sizeof *with);
    for (int k = 0; k < d->how.samp.top_k; k++) {
        int top = 0;
        for (int v = 1; v < 256; v++)
            if (p[v] > p[top]) top = v;
        with[n] = top;
        run_all(r, &d->rule, with, n + 1, &next);
        double most = -1;
        const int first =
            n > (int)d->how.contrastive_window ? n - (int)d->how.contrastive_window : 0;
        for (int j = first; j < n; j++)
            most = fmax(most, cosine(next.hidden + (size_t)n * 64, next.hidden + (size_t)j * 64));
        const double score =
            (1 - d->how.penalty_alpha) * p[top] / sum - d->how.penalty_alpha * most;
        if (score > best) {
            best = score;
            best_id = top;
        }
        p[top] = -1;
    }
    return best_id;
}

static void test_contrastive_by_hand(void **state) {
    (void)state;
    static struct gen_doc d;
    static const int64_t windows[] = {3, 7, 1000};
    read_text();
    struct gen_rig r;
    gen_fixture(&r, "llama", -1, 1, DT_F32);
    assert_int_equal(model_arch(r.model)->d_model, 64);
    const struct vis_rule rules[] = {{.n_sink = 4, .n_win = 8, .n_chunk = 1},
                                     {.dense = true, .n_chunk = 1}};
    for (size_t k = 0; k < COUNTOF(windows) * COUNTOF(rules); k++) {
        int32_t ids[64];
        const int n_prompt = k == 2 ? 2 : 14; // once, shorter than the sinks
        gen_doc_init(&d, &rules[k % COUNTOF(rules)], text, n_prompt, 16);
        d.how.samp.repetition_penalty = 1.3;
        d.how.samp.top_k = 5;
        d.how.penalty_alpha = 0.5;
        d.how.contrastive_window = windows[k / COUNTOF(rules)];
        gen_run(&r, &d);
        memcpy(ids, text, (size_t)n_prompt * sizeof *ids);
        for (int i = 0; i < 16; i++) {
            ids[n_prompt + i] = contrast(&r, &d, ids, n_prompt + i);
            assert_int_equal(d.ids[i], ids[n_prompt + i]);
        }
        assert_true(gap(&r, &d) <= 1e-9);
    }
    gen_rig_close(&r);
}

/* ---- penalties, from the whole history ---- */

static void test_penalties_by_hand(void **state) {
    (void)state;
    enum { N = 40, PROMPT = 12 };
    static struct gen_doc d;
    static struct seen_all now;
    int32_t ids[64];
    read_text();
    struct gen_rig r;
    gen_fixture(&r, "llama", -1, 1, DT_F32);
    const struct vis_rule sink = {.n_sink = 4, .n_win = 8, .n_chunk = 1};
    gen_doc_init(&d, &sink, text, PROMPT, N);
    const struct samp_params *p = &d.how.samp;
    d.how.samp.repetition_penalty = 1.1;
    d.how.samp.presence_penalty = 0.4;
    d.how.samp.frequency_penalty = -1.5; // what has been said comes again, and again
    gen_run(&r, &d);
    int again = 0;
    memcpy(ids, text, PROMPT * sizeof *ids);
    for (int n = PROMPT; n < PROMPT + N; n++) {
        run_all(&r, &sink, ids, n, &now);
        int32_t best = 0;
        for (int v = 0; v < 256; v++) {
            int in_all = 0, in_output = 0;
            for (int i = 0; i < n; i++) in_all += ids[i] == v;
            for (int i = PROMPT; i < n; i++) in_output += ids[i] == v;
            double *l = &now.logits[v];
            if (in_all > 0) *l = *l > 0 ? *l / p->repetition_penalty : *l * p->repetition_penalty;
            if (in_output > 0) *l -= p->presence_penalty;
            *l -= p->frequency_penalty * in_output;
            if (*l > now.logits[best]) best = v;
            if (v == d.ids[n - PROMPT]) again += in_output;
        }
        assert_int_equal(d.ids[n - PROMPT], best);
        ids[n] = best;
    }
    assert_true(again > N); // the counts have mattered
    gen_rig_close(&r);
}

/* ---- a real model ---- */

static void test_smollm2(void **state) {
    (void)state;
    static struct gen_doc d;
    const char *path = getenv("BASIN_SMOLLM2");
    if (path == NULL) skip();
    struct recorded want;
    struct gen_rig r;
    recorded_read(&want, "smollm2", "greedy.json"); // tools/mksmollm2.py
    assert_int_equal(want.n_greedy, 200);
    gen_rig_open(&r, path, (int)cpu_isa_best(), 2, DT_F32);
    gen_doc_init(&d, &want.rule, want.prompt, want.n_prompt, want.n_greedy);
    gen_run(&r, &d);
    same_ids("greedy", "smollm2", &d, want.greedy, want.n_greedy);
    gen_rig_close(&r);
    json_close(want.ref);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ref_continues_as_recorded),
        cmocka_unit_test(test_cpu_continues_as_recorded),
        cmocka_unit_test(test_far_past_the_window),
        cmocka_unit_test(test_every_rule),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_contrastive_by_hand),
        cmocka_unit_test(test_penalties_by_hand),
        cmocka_unit_test(test_smollm2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
