/* The stream engine with many streams: bits that depend neither on who else is there nor on when they
 * came, on threads, saves, stops in the middle of a step; streams that fail alone. */
#include "tests/alloc_fail.h"
#include "tests/support_stream.h"

#include "base/mem.h"
#include "io/json.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static int32_t text[400];

static int setup(void **state) {
    (void)state;
    struct err e = {0};
    struct json *ref = NULL;
    gen_must(json_open(&ref, "tests/data/fixtures/llama/ref.json", 1 << 22, &e), &e);
    const struct jnode *ids = json_get(json_root(ref), "ids");
    for (size_t i = 0; i < COUNTOF(text); i++) text[i] = (int32_t)json_int(json_at(ids, i));
    json_close(ref);
    return 0;
}

/* Document i of a crowd: prompts, rules and ways of choosing that differ. */
static const struct samp_bias bias[] = {{17, 2.5}, {3, -4}};
static const int32_t words[] = {6, 6, 56};
static const struct samp_word bad[] = {{words, 1}, {words + 1, 2}};

static void crowd_doc(struct gen_doc *d, int i) {
    static const struct vis_rule rules[] = {
        {.n_sink = 4, .n_win = 28, .n_chunk = 1},
        {.n_sink = 0, .n_win = 20, .n_chunk = 1},
        {.dense = true, .n_chunk = 1},
        {.n_sink = 4, .n_win = 12, .n_chunk = 1, .n_prefill = 50},
        {.n_sink = 2, .n_win = 9, .n_chunk = 4, .strict = true}};
    gen_doc_init(d, &rules[i % 5], text + 3 * i, 1 + (i * 37) % 90, 40 + (i * 7) % 50);
    d->how.key = samp_key(11, "crowd", 5, i);
    if (i % 2 == 1) d->how.samp.temperature = 0.9;
    if (i % 3 == 1) d->how.samp.top_p = 0.9;
    if (i % 4 == 1) d->how.samp.top_k = 30;
    if (i % 6 == 5) d->how.samp.min_p = 0.05;
    if (i % 3 == 2) d->how.samp.repetition_penalty = 1.2;
    if (i % 5 == 3) d->how.samp.frequency_penalty = 0.3;
    if (i % 7 == 3) d->how.samp.bias = bias, d->how.samp.n_bias = 2;
    if (i % 7 == 4) d->how.samp.bad = bad, d->how.samp.n_bad = 2;
    if (i % 8 == 6) {
        d->how.penalty_alpha = 0.4;
        d->how.samp.temperature = 0;
        d->how.samp.top_k = 4;
        d->how.contrastive_window = 30;
    }
    d->how.n_logprob = i % 3 == 0 ? 5 : 0;
    if (i % 9 == 2) d->by_span = 0;
}

enum { CROWD = 64 };
static struct gen_doc alone[CROWD], together[CROWD];

static void run_alone(const struct gen_rig *r, int n) {
    for (int i = 0; i < n; i++) {
        crowd_doc(&alone[i], i);
        gen_run(r, &alone[i]);
        assert_int_equal(alone[i].end, STREAM_LENGTH);
    }
}

/* All of them through n_slot slots; a stream enters whenever one is free, and `late` steps apart. */
static void run_together(const struct gen_rig *r, int n, int n_slot, int late) {
    static struct gen_doc *docs[CROWD];
    struct stream *st = gen_engine(r, n_slot, 4);
    int entered = 0, steps = 0;
    for (int i = 0; i < n; i++) {
        crowd_doc(&together[i], i);
        docs[i] = &together[i];
    }
    while (entered < n || stream_live(st) > 0) {
        while (entered < n && stream_room(st) > 0 && steps >= entered * late)
            gen_enter(r, st, &together[entered++]);
        gen_step(st, docs, n);
        steps++;
    }
    assert_int_equal(stream_room(st), n_slot);
    stream_close(st);
}

static void compare(const char *what, int n) {
    char name[64];
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s, document %d", what, i);
        gen_same(name, &alone[i], &together[i]);
    }
}

static void test_batch_same_bits(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        struct gen_rig r;
        gen_fixture(&r, "llama", (int)cpu_isa_best(), 1, k == 0 ? DT_BF16 : DT_F32);
        run_alone(&r, CROWD);
        run_together(&r, CROWD, CROWD, 0);
        compare("64 at once", CROWD);
        run_together(&r, CROWD, 8, 3);
        compare("8 slots", CROWD);
        gen_rig_close(&r);
    }
}

static void test_batch_same_bits_everywhere(void **state) {
    (void)state;
    static const char *const names[] = {"gemma3", "falcon_alibi", "qwen", "phi3"};
    for (int isa = -1; isa <= (int)cpu_isa_best(); isa++) {
        struct gen_rig r;
        gen_fixture(&r, names[(isa + 1) % 4], isa, 1, DT_F32);
        run_alone(&r, 8);
        run_together(&r, 8, 5, 2);
        compare("5 slots", 8);
        gen_rig_close(&r);
    }
}

static void test_threads_same_bits(void **state) {
    (void)state;
    for (int threads = 1; threads <= 3; threads++) {
        struct gen_rig r;
        gen_fixture(&r, "llama_tied", (int)cpu_isa_best(), threads, DT_BF16);
        if (threads == 1) run_alone(&r, 16);
        run_together(&r, 16, 16, 0);
        compare("threads", 16);
        gen_rig_close(&r);
    }
}

/* ---- saves ---- */

static void test_save_and_restore(void **state) {
    (void)state;
    enum { N = 24 };
    static struct gen_doc *docs[N];
    struct gen_rig r;
    gen_fixture(&r, "llama", (int)cpu_isa_best(), 1, DT_F32);
    run_alone(&r, N);
    struct stream *st = gen_engine(&r, N, 4);
    for (int i = 0; i < N; i++) {
        crowd_doc(&together[i], i);
        docs[i] = &together[i];
        gen_enter(&r, st, &together[i]);
    }
    for (int steps = 0; stream_live(st) > 0; steps++) {
        if (steps % 17 == 1) st = gen_move(&r, st, docs, N, N);
        gen_step(st, docs, N);
    }
    compare("restored", N);
    stream_close(st);
    gen_rig_close(&r);
}

/* Bytes that end early, or that other bytes have been written over, are refused or run; a slot stays free. */
static void test_damaged_saves(void **state) {
    (void)state;
    struct gen_rig r;
    struct err e = {0};
    struct sbuf saved;
    struct gen_doc *one[1] = {&together[0]};
    gen_fixture(&r, "llama", CPU_PORTABLE, 1, DT_F32);
    struct stream *st = gen_engine(&r, 1, 4);
    crowd_doc(&together[0], 14); // contrastive, with penalties
    assert_true(together[0].how.penalty_alpha > 0 && together[0].how.samp.repetition_penalty != 1);
    gen_enter(&r, st, &together[0]);
    for (int i = 0; i < 12; i++) gen_step(st, one, 1);
    sbuf_init(&saved);
    gen_must(stream_save(st, together[0].slot, &saved, &e), &e);
    gen_must(stream_leave(st, together[0].slot, NULL, NULL, &e), &e);
    for (size_t n = 0; n < saved.n; n += n < 2000 ? 1 : 997) {
        struct stream_saved in = {&together[0].rule, &together[0].how, saved.s, n, 0};
        int slot = 0;
        assert_int_equal(stream_restore(st, &in, &slot, NULL), E_FORMAT);
        assert_int_equal(stream_room(st), 1);
    }
    for (size_t at = 0; at < 1000; at++) {
        struct stream_saved in = {&together[0].rule, &together[0].how, saved.s, saved.n, 0};
        const char was = saved.s[at];
        int slot = 0;
        saved.s[at] = (char)0x81;
        const enum status got = stream_restore(st, &in, &slot, NULL);
        assert_true(got == OK || got == E_FORMAT);
        if (got == OK) {
            gen_must(stream_step(st, NULL, &e), &e);
            gen_must(stream_leave(st, slot, NULL, NULL, &e), &e);
        }
        saved.s[at] = was;
    }
    sbuf_fini(&saved);
    stream_close(st);
    gen_rig_close(&r);
}

/* ---- stops, and streams that end ---- */

struct countdown {
    int left;
};
static bool asked(void *ctx) {
    struct countdown *c = ctx;
    return c->left-- == 0;
}

static void test_given_up_step(void **state) {
    (void)state;
    enum { N = 8 };
    static struct gen_doc *docs[N];
    struct gen_rig r;
    gen_fixture(&r, "llama", (int)cpu_isa_best(), 1, DT_F32);
    run_alone(&r, N);
    struct stream *st = gen_engine(&r, N, 4);
    for (int i = 0; i < N; i++) {
        crowd_doc(&together[i], i);
        docs[i] = &together[i];
        gen_enter(&r, st, &together[i]);
    }
    while (stream_live(st) > 0) {
        for (int layer = 0; layer < 2; layer++) {
            struct countdown c = {layer};
            const struct span_stop stop = {asked, &c};
            assert_int_equal(stream_step(st, &stop, NULL), E_CANCEL);
            assert_int_equal(stream_events(st), 0);
        }
        gen_step(st, docs, N);
    }
    compare("given up", N);
    stream_close(st);
    gen_rig_close(&r);
}

static void test_ends(void **state) {
    (void)state;
    struct gen_rig r;
    static struct gen_doc d, plain;
    const struct vis_rule sink = {.n_sink = 4, .n_win = 28, .n_chunk = 1};
    gen_fixture(&r, "llama", CPU_PORTABLE, 1, DT_F32);
    gen_doc_init(&plain, &sink, text, 20, 40);
    gen_run(&r, &plain);
    const int32_t at9 = plain.ids[9], at20 = plain.ids[20];
    for (int i = 0; i < 9; i++) assert_int_not_equal(plain.ids[i], at9);

    gen_doc_init(&d, &sink, text, 20, 40);
    d.how.eos = &at9, d.how.n_eos = 1;
    gen_run(&r, &d);
    assert_int_equal(d.end, STREAM_EOS);
    assert_int_equal(d.n, 10);
    assert_int_equal(d.ids[9], at9);

    gen_doc_init(&d, &sink, text, 20, 40);
    d.how.stop = &at9, d.how.n_stop = 1;
    gen_run(&r, &d);
    assert_int_equal(d.end, STREAM_STOP);
    assert_int_equal(d.n, 10);

    gen_doc_init(&d, &sink, text, 20, 40);
    d.how.eos = &at9, d.how.n_eos = 1, d.how.ignore_eos = true, d.how.min_new = 30;
    gen_run(&r, &d);
    assert_int_equal(d.end, STREAM_LENGTH);
    assert_memory_equal(d.ids, plain.ids, 40 * sizeof *d.ids);

    // Neither before min_new: where they would have come, something else does.
    gen_doc_init(&d, &sink, text, 20, 40);
    d.how.eos = &at9, d.how.n_eos = 1, d.how.stop = &at20, d.how.n_stop = 1, d.how.min_new = 25;
    gen_run(&r, &d);
    assert_memory_equal(d.ids, plain.ids, 9 * sizeof *d.ids);
    assert_true(d.n > 25 || d.end == STREAM_LENGTH);
    for (int i = 0; i < 25; i++) assert_true(d.ids[i] != at9 && d.ids[i] != at20);
    gen_rig_close(&r);
}

static void test_top_lists(void **state) {
    (void)state;
    struct gen_rig r;
    struct err e = {0};
    static struct gen_doc d;
    const struct vis_rule sink = {.n_sink = 4, .n_win = 28, .n_chunk = 1};
    gen_fixture(&r, "llama", CPU_PORTABLE, 1, DT_F32);
    for (int contrastive = 0; contrastive < 2; contrastive++) {
        struct stream *st = gen_engine(&r, 1, 4);
        gen_doc_init(&d, &sink, text, 20, 10);
        d.how.n_logprob = 5;
        if (contrastive) d.how.penalty_alpha = 0.6, d.how.samp.top_k = 4;
        gen_enter(&r, st, &d);
        int seen = 0;
        while (stream_live(st) > 0) {
            gen_must(stream_step(st, NULL, &e), &e);
            if (stream_events(st) == 0) continue;
            const struct stream_event *ev = stream_event(st, 0);
            assert_int_equal(ev->n_top, 5);
            for (int k = 1; k < 5; k++) assert_true(ev->top_logp[k] <= ev->top_logp[k - 1]);
            int at = 0;
            while (at < 5 && ev->top_id[at] != ev->id) at++;
            assert_true(at < (contrastive ? 4 : 1)); // the most probable, or one of the candidates
            assert_true(ev->logp == ev->top_logp[at]);
            seen++;
        }
        assert_int_equal(seen, 10);
        stream_close(st);
    }
    gen_rig_close(&r);
}

/* One stream at the end of its positions or of its keys, beside others that go on. */
static void test_one_fails_alone(void **state) {
    (void)state;
    static struct gen_doc d[3];
    struct gen_doc *docs[3] = {&d[0], &d[1], &d[2]};
    const struct vis_rule dense = {.dense = true, .n_chunk = 1};
    struct gen_rig r;
    struct err e = {0};
    static int32_t ids[600];
    gen_fixture(&r, "gpt2", CPU_PORTABLE, 1, DT_F32);
    const struct stream_config cfg = {.n_stream = 3, .n_key_most = 440};
    struct stream *st = NULL;
    gen_must(stream_open(&st, r.on, &cfg, &e), &e);
    for (int i = 0; i < 600; i++) ids[i] = text[i % 400];
    gen_doc_init(&d[0], &dense, ids, 430, 100);
    gen_doc_init(&d[1], &dense, ids, 20, 60);
    gen_doc_init(&d[2], &dense, ids, 441, 5);
    gen_enter(&r, st, &d[0]);
    gen_enter(&r, st, &d[1]);
    assert_int_equal(gen_try_enter(&r, st, &d[2], &e), E_ARG);
    assert_non_null(strstr(e.msg, "its limit is 440"));
    assert_int_equal(stream_room(st), 1);
    while (stream_live(st) > 0) gen_step(st, docs, 2);
    assert_int_equal(d[0].end, STREAM_FAILED);
    assert_int_equal(d[0].n, 11);
    assert_non_null(strstr(d[0].why, "token 440: the stream would hold 441 keys"));
    gen_run(&r, &d[2]); // no limit; 448 positions
    assert_int_equal(d[2].n, 5);
    gen_doc_init(&d[2], &dense, ids, 441, 50);
    gen_run(&r, &d[2]);
    assert_int_equal(d[2].end, STREAM_FAILED);
    assert_int_equal(d[2].n, 8);
    assert_non_null(strstr(d[2].why, "past token 448"));
    assert_int_equal(d[1].end, STREAM_LENGTH);
    d[0] = d[1];
    gen_doc_init(&d[1], &dense, ids, 20, 60);
    gen_run(&r, &d[1]);
    gen_same("beside one that fails", &d[0], &d[1]);
    stream_close(st);
    gen_rig_close(&r);
}

/* ---- two devices ---- */

static void test_cache_of_another_device(void **state) {
    (void)state;
    static struct gen_doc d;
    struct gen_rig a, b;
    struct err e = {0};
    const struct vis_rule sink = {.n_sink = 4, .n_win = 28, .n_chunk = 1};
    gen_fixture(&a, "llama", CPU_PORTABLE, 1, DT_F32);
    gen_fixture(&b, "llama", CPU_PORTABLE, 1, DT_F32);
    gen_doc_init(&alone[0], &sink, text, 60, 40);
    alone[0].how.penalty_alpha = 0.6, alone[0].how.samp.top_k = 4;
    gen_run(&a, &alone[0]);
    struct stream *st = gen_engine(&b, 1, 4);
    struct gen_doc *one[1] = {&d};
    struct cache *c = NULL;
    struct stream_past *past = NULL;
    gen_doc_init(&d, &sink, text, 60, 40);
    d.how.penalty_alpha = 0.6, d.how.samp.top_k = 4;
    gen_must(stream_past_open(&past, b.on, &d.how, &e), &e);
    gen_must(cache_open(&c, a.on, &sink, &e), &e);
    gen_span(&a, c, past, text, 59);
    const struct stream_entry in = {c, &past, &d.how, text + 59, 1};
    gen_must(stream_enter(st, &in, &d.slot, &e), &e);
    cache_close(c);
    for (int i = 0; i < 20; i++) gen_step(st, one, 1);
    // Back, through a span there, and again.
    gen_must(cache_open(&c, a.on, &sink, &e), &e);
    gen_must(stream_leave(st, d.slot, c, &past, &e), &e);
    assert_int_equal(cache_pos(c), 59 + 20);
    cache_close(c);
    stream_past_close(past);
    alone[0].n = d.n;
    alone[0].end = d.end;
    gen_same("cache of another device", &alone[0], &d);
    stream_close(st);
    gen_rig_close(&a);
    gen_rig_close(&b);
}

/* ---- memory ---- */

/* Once windows are full and tables have grown, a step takes no memory. */
static void test_steps_take_no_memory(void **state) {
    (void)state;
    enum { N = 3, MANY = 1000000 };
    static struct gen_doc d[N];
    struct gen_rig r;
    struct gen_doc *docs[N] = {&d[0], &d[1], &d[2]};
    const struct vis_rule sink = {.n_sink = 4, .n_win = 28, .n_chunk = 1};
    gen_fixture(&r, "llama", (int)cpu_isa_best(), 1, DT_F32);
    struct stream *st = gen_engine(&r, N, 4);
    for (int i = 0; i < N; i++) {
        gen_doc_init(&d[i], &sink, text + i, 20, 2000);
        d[i].how.n_logprob = 3;
        if (i == 1) d[i].how.samp.temperature = 2, d[i].how.samp.frequency_penalty = 0.1;
        if (i == 2)
            d[i].how.penalty_alpha = 0.6, d[i].how.samp.top_k = 4, d[i].how.contrastive_window = 50;
        gen_enter(&r, st, &d[i]);
    }
    for (int i = 0; i < 700; i++) gen_step(st, docs, N);
    g_fail_at = MANY;
    for (int i = 0; i < 500; i++) gen_step(st, docs, N);
    const long left = g_fail_at;
    g_fail_at = -1;
    assert_int_equal(MANY - left, 0);
    assert_int_equal(d[0].n, 1200);
    stream_close(st);
    gen_rig_close(&r);
}

/* From opening to saving, with a stretch that grows. E_NOMEM or OK. */
static enum status whole_life(const struct gen_rig *r, struct sbuf *saved) {
    static const struct vis_rule dense = {.dense = true, .n_chunk = 1};
    const struct stream_config cfg = {.n_stream = 2, .n_candidate = 4, .n_logprob = 2};
    struct err e = {0};
    struct stream *engine = NULL;
    struct stream_past *past = NULL;
    struct cache *c = NULL;
    struct stream_how how;
    enum status st = OK;
    int slot = 0;
    stream_how_init(&how);
    how.max_new = 200, how.n_logprob = 2, how.samp.repetition_penalty = 1.2;
    how.penalty_alpha = 0.5, how.samp.top_k = 4, how.contrastive_window = 90;
    TRY(stream_open(&engine, r->on, &cfg, &e));
    TRY(stream_past_open(&past, r->on, &how, &e));
    TRY(cache_open(&c, r->on, &dense, &e));
    const struct stream_entry in = {c, &past, &how, text, 3};
    TRY(stream_enter(engine, &in, &slot, &e));
    for (int i = 0; i < 90; i++) {
        TRY(stream_step(engine, NULL, &e));
        for (int k = 0; k < stream_events(engine); k++)
            assert_int_equal(stream_event(engine, k)->end, STREAM_GOES_ON);
    }
    TRY(stream_save(engine, slot, saved, &e));
    TRY(stream_leave(engine, slot, NULL, NULL, &e));
    struct stream_saved back = {&dense, &how, saved->s, saved->n, 0};
    TRY(stream_restore(engine, &back, &slot, &e));
done:
    cache_close(c);
    stream_past_close(past);
    stream_close(engine);
    return st;
}

static void test_no_memory(void **state) {
    (void)state;
    struct gen_rig r;
    bool came = true;
    gen_fixture(&r, "llama", CPU_PORTABLE, 1, DT_F32);
    int k = 0, recovered = 0;
    for (; came; k++) {
        struct sbuf saved;
        sbuf_init(&saved);
        g_fail_at = k;
        const enum status st = whole_life(&r, &saved);
        came = g_fail_at < 0;
        g_fail_at = -1;
        assert_true(st == OK || (came && st == E_NOMEM));
        recovered += came && st == OK; // packing of a weight lets unused memory go and tries again
        sbuf_fini(&saved);
    }
    assert_true(recovered < k / 2);
    assert_true(k > 50);
    gen_rig_close(&r);
}

/* ---- what is refused ---- */

static void refused(const struct stream_how *h, const char *name) {
    struct err e = {0};
    assert_int_equal(stream_how_check(h, 256, &e), E_ARG);
    if (strstr(e.msg, name) == NULL) fail_msg("%s: %s", name, e.msg);
}

static void test_bad_parameters(void **state) {
    (void)state;
    struct stream_how good, h;
    const double nan = (double)NAN;
    const int32_t far = 256;
    const struct samp_bias far_bias = {256, 1}, nan_bias = {1, nan};
    const struct samp_word empty = {&far, 0}, outside = {&far, 1};
    stream_how_init(&good);
    good.max_new = 1;
    assert_int_equal(stream_how_check(&good, 256, NULL), OK);
    const struct {
        double *at, value;
        const char *name;
    } numbers[] = {{&h.samp.temperature, nan, "temperature"},
                   {&h.samp.temperature, -0.1, "temperature"},
                   {&h.samp.top_p, 0, "top_p"},
                   {&h.samp.top_p, 1.1, "top_p"},
                   {&h.samp.top_p, nan, "top_p"},
                   {&h.samp.min_p, -0.1, "min_p"},
                   {&h.samp.min_p, nan, "min_p"},
                   {&h.samp.repetition_penalty, 0, "repetition_penalty"},
                   {&h.samp.repetition_penalty, nan, "repetition_penalty"},
                   {&h.samp.presence_penalty, 3, "presence_penalty"},
                   {&h.samp.frequency_penalty, nan, "frequency_penalty"},
                   {&h.penalty_alpha, 1.5, "penalty_alpha"},
                   {&h.penalty_alpha, nan, "penalty_alpha"},
                   {&h.penalty_alpha, 0.5, "top_k"}};
    for (size_t i = 0; i < COUNTOF(numbers); i++) {
        h = good;
        *numbers[i].at = numbers[i].value;
        refused(&h, numbers[i].name);
    }
    h = good, h.samp.top_k = -1, refused(&h, "top_k");
    h = good, h.max_new = 0, refused(&h, "max_new_tokens");
    h = good, h.min_new = 2, refused(&h, "min_new_tokens");
    h = good, h.n_logprob = SAMP_MOST_TOP + 1, refused(&h, "logprobs");
    h = good, h.contrastive_window = 0, refused(&h, "contrastive_window");
    h = good, h.penalty_alpha = 0.5, h.samp.top_k = 4, h.samp.temperature = 1;
    refused(&h, "temperature");
    h = good, h.samp.bias = &far_bias, h.samp.n_bias = 1, refused(&h, "logit_bias");
    h = good, h.samp.bias = &nan_bias, h.samp.n_bias = 1, refused(&h, "logit_bias");
    h = good, h.samp.bad = &empty, h.samp.n_bad = 1, refused(&h, "bad_words");
    h = good, h.samp.bad = &outside, h.samp.n_bad = 1, refused(&h, "bad_words");
    h = good, h.stop = &far, h.n_stop = 1, refused(&h, "stop_token_ids");
    h = good, h.eos = &far, h.n_eos = 1, refused(&h, "eos");
    h = good, h.stop = &far, h.n_stop = STREAM_MOST_STOP + 1, refused(&h, "stop_token_ids");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_same_bits),
        cmocka_unit_test(test_batch_same_bits_everywhere),
        cmocka_unit_test(test_threads_same_bits),
        cmocka_unit_test(test_save_and_restore),
        cmocka_unit_test(test_damaged_saves),
        cmocka_unit_test(test_given_up_step),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_top_lists),
        cmocka_unit_test(test_one_fails_alone),
        cmocka_unit_test(test_cache_of_another_device),
        cmocka_unit_test(test_steps_take_no_memory),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_bad_parameters),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
