/* Steps of the stream engine as CUDA graphs on simulated GPUs: played again they compute what launches compute, a
 * step waits once, and what a graph was captured with is checked before it is played. */
#include "core/stream_impl.h"
#include "kernels/cuda/cuda_impl.h"
#include "tests/simt/simt.h"
#include "tests/support_stream.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const struct cuda_tune small = {
    .rows = 16, .vocab = 256, .staging_bytes = 1 << 20, .raw_bytes = 2048};

static struct dev *open_steps(int ordinal) {
    struct dev *d = NULL;
    struct err e = {.code = OK};
    const struct dev_config c = {.n_thread = 1, .compute = DT_BF16, .purpose = DEV_STEPS};
    if (cuda_open_with(&d, ordinal, &small, &c, &e) != OK) fail_msg("%s", e.msg);
    return d;
}

static int world_back(void **state) {
    (void)state;
    simt_world()->fail_launch_after = -1;
    return simt_memory_used() == 0 ? 0 : -1;
}

// ---- the stream engine

enum { DOCS = 3, NEW = 60 };
static const struct vis_rule sink = {.n_sink = 4, .n_win = 12, .n_chunk = 1};
static struct gen_doc docs[DOCS], direct[DOCS];
static int32_t prompt[64];

static struct stream *enter_all(const struct gen_rig *r, struct gen_doc *d) {
    struct stream *st = gen_engine(r, DOCS, 0);
    for (int i = 0; i < DOCS; i++) {
        gen_doc_init(&d[i], &sink, prompt + 5 * i, 3 + i, NEW - 4 * i);
        d[i].by_span = 0;
        d[i].how.key = samp_key(3, "graph", 5, i);
        d[i].how.samp.temperature = i;
        gen_enter(r, st, &d[i]);
    }
    return st;
}

// Steps to the end; with `play` false nothing is recorded. The largest number of waits of a step.
static int64_t run(const struct gen_rig *r, struct gen_doc *d, bool play) {
    struct gen_doc *all[DOCS] = {&d[0], &d[1], &d[2]};
    struct stream *st = enter_all(r, d);
    int64_t most = 0;
    if (!play) dev_replay_free(st->fwd->replay), st->fwd->replay = NULL;
    *simt_counts() = (struct simt_counts){0};
    while (stream_live(st) > 0) {
        const int64_t before = simt_counts()->waits;
        gen_step(st, all, DOCS);
        const int64_t n = simt_counts()->waits - before;
        // The first step takes memory for what it samples with.
        if (n > most) most = n;
    }
    stream_close(st);
    return most;
}

static void test_played_again(void **state) {
    (void)state;
    for (int i = 0; i < 64; i++) prompt[i] = 3 + 7 * i % 250;
    struct gen_rig r;
    gen_rig_on(&r, "tests/data/fixtures/llama", open_steps(0), NULL);
    assert_int_equal(run(&r, direct, false), 1);
    assert_int_equal(simt_counts()->captures, 0);
    assert_int_equal(simt_counts()->replays, 0);
    assert_int_equal(run(&r, docs, true), 1);
    for (int i = 0; i < DOCS; i++) gen_same("played again", &direct[i], &docs[i]);
    /* Three, two and one row; with three rows also before and after queries turn apart for sinks. A sequence runs
     * once before it is captured, and once more where memory has moved. */
    print_message("%d captures, %d launches\n", (int)simt_counts()->captures,
                  (int)simt_counts()->replays);
    const int64_t steps = NEW + 2;
    assert_true(simt_counts()->captures >= 3 && simt_counts()->captures <= 6);
    assert_true(simt_counts()->replays >= steps - 12 && simt_counts()->replays < steps);
    gen_rig_close(&r);
}

/* Asked to stop: nothing has changed, whether the step runs, is recorded or is played. */
static bool asked(void *ctx) {
    int *left = ctx;
    return (*left)-- == 0;
}

static void test_given_up(void **state) {
    (void)state;
    struct gen_doc *all[DOCS] = {&docs[0], &docs[1], &docs[2]};
    struct gen_rig r;
    gen_rig_on(&r, "tests/data/fixtures/llama", open_steps(1), NULL);
    struct stream *st = enter_all(&r, docs);
    while (stream_live(st) > 0) {
        bool stepped = false;
        for (int after = 0; after < 3 && !stepped; after++) { // before it, between layers
            int left = after;
            const struct span_stop stop = {asked, &left};
            const int64_t played = simt_counts()->replays;
            const enum status got = stream_step(st, &stop, NULL);
            assert_true(got == E_CANCEL || simt_counts()->replays > played);
            stepped = got == OK;
        }
        if (stepped)
            gen_take(st, all, DOCS);
        else
            gen_step(st, all, DOCS);
    }
    for (int i = 0; i < DOCS; i++) gen_same("given up", &direct[i], &docs[i]);
    stream_close(st);
    gen_rig_close(&r);
}

// ---- the seam

enum {
    ROWS = 2,
    COLS = 40,
    OWN = 1900,
    KEYS = OWN + ROWS
}; // own keys lie behind the old ones, which are ones

struct seq {
    struct dev *d;
    struct buf *x, *y, *kv, *seg, *out;
    struct dev_replay *r;
};

static void seq_open(struct seq *s) {
    struct err e = {.code = OK};
    s->d = open_steps(2);
    gen_must(buf_new(&s->x, s->d, BUF_ACT, ROWS, COLS, &e), &e);
    gen_must(buf_new(&s->y, s->d, BUF_ACT, ROWS, COLS, &e), &e);
    gen_must(buf_new(&s->out, s->d, BUF_ACT, ROWS, COLS, &e), &e);
    static bf16_t ones[KEYS * COLS];
    for (int i = 0; i < KEYS * COLS; i++) ones[i] = dtype_f32_to_bf16(1);
    gen_must(buf_new(&s->kv, s->d, BUF_KV, KEYS, COLS, &e), &e);
    dev_write(s->d, s->kv, 0, KEYS, ones);
    gen_must(buf_new(&s->seg, s->d, BUF_SEG, ROWS, 1, &e), &e);
    gen_must(dev_replay_new(&s->r, s->d, &e), &e);
}

static void seq_close(struct seq *s) {
    dev_replay_free(s->r);
    buf_free(s->x), buf_free(s->y), buf_free(s->kv), buf_free(s->seg), buf_free(s->out);
    dev_close(s->d);
}

/* Row i of the block is token `pos` of its document, and sees `n` keys before it. */
static enum status seq_step(struct seq *s, float value, int64_t pos, int64_t n, float *got,
                            struct err *e) {
    float x[ROWS * COLS];
    struct dev_seg seg[ROWS];
    const int64_t key = 7;
    for (int i = 0; i < ROWS * COLS; i++) x[i] = value + (float)i;
    for (int i = 0; i < ROWS; i++)
        seg[i] = (struct dev_seg){.first_row = i,
                                  .n_row = 1,
                                  .pos = pos,
                                  .low = pos - n,
                                  .old_row = 0,
                                  .old_pos = pos - n,
                                  .own_row = OWN + i};
    dev_write(s->d, s->x, 0, ROWS, x);
    dev_write(s->d, s->seg, 0, ROWS, seg);
    if (!dev_replay_begin(s->r, &key, sizeof key)) {
        const struct dev_attend a = {.out = s->out,
                                     .q_win = s->x,
                                     .q_sink = s->x,
                                     .k = s->kv,
                                     .v = s->kv,
                                     .seg = s->seg,
                                     .n_seg = ROWS,
                                     .n_head = 1,
                                     .n_kv = 1,
                                     .d_head = COLS,
                                     .scale = 0};
        dev_kv_store(s->d, s->kv, s->x, s->seg, ROWS);
        dev_attend(s->d, &a, ROWS);
        dev_copy(s->d, s->y, 0, s->out, 0, ROWS);
        dev_replay_end(s->r, true);
    }
    dev_read(s->d, s->y, 0, ROWS, got);
    return dev_sync(s->d, e);
}

/* Buffers made anew, more tiles than were captured, segments that are wrong, launches that fail. */
static void test_what_changes(void **state) {
    (void)state;
    struct seq s;
    struct err e = {.code = OK};
    float got[ROWS * COLS];
    seq_open(&s);
    *simt_counts() = (struct simt_counts){0};
    for (int i = 0; i < 5; i++) {
        gen_must(seq_step(&s, (float)i, 0, 0, got, &e), &e); // sees itself alone
        for (int k = 0; k < ROWS * COLS; k++) assert_true(got[k] == (float)(i + k));
    }
    assert_int_equal(simt_counts()->captures, 1);
    assert_int_equal(simt_counts()->replays, 4);
    buf_free(s.y); // another one in its place: anew, twice
    gen_must(buf_new(&s.y, s.d, BUF_ACT, ROWS, COLS, &e), &e);
    for (int i = 0; i < 3; i++) {
        gen_must(seq_step(&s, (float)i, 0, 0, got, &e), &e);
        for (int k = 0; k < ROWS * COLS; k++) assert_true(got[k] == (float)(i + k));
    }
    assert_int_equal(simt_counts()->captures, 2);
    assert_int_equal(simt_counts()->replays, 6);
    // More keys than when the graph was captured: within its grid, and past it. Values are means.
    *simt_counts() = (struct simt_counts){0};
    for (int64_t n = 0; n < 900; n += n < 20 ? 1 : 110) {
        gen_must(seq_step(&s, 1, 1000, n, got, &e), &e);
        for (int k = 0; k < COLS; k++)
            assert_true(fabsf(got[k] * (float)(n + 1) - (float)(n + 1 + k)) <
                        0.01f * (float)(n + 1));
    }
    assert_true(simt_counts()->captures >= 1 && simt_counts()->replays >= 20);
    seq_close(&s);
}

static void test_wrong_segments(void **state) {
    (void)state;
    struct seq s;
    struct err e = {.code = OK};
    float got[ROWS * COLS];
    seq_open(&s);
    for (int i = 0; i < 3; i++) gen_must(seq_step(&s, 1, 0, 0, got, &e), &e);
    assert_int_equal(seq_step(&s, 1, 5000, KEYS + 1, got, &e),
                     E_BUG); // rows that the keys have not got
    assert_non_null(strstr(e.msg, "names rows outside its buffers"));
    gen_must(seq_step(&s, 2, 0, 0, got, &e), &e);
    assert_true(got[0] == 2);
    e = (struct err){.code = OK};
    for (int i = 0; i < 2; i++) gen_must(seq_step(&s, 3, 0, 0, got, &e), &e);
    simt_world()->fail_launch_after = 0; // of the graph
    assert_int_equal(seq_step(&s, 4, 0, 0, got, &e), E_DEVICE);
    simt_world()->fail_launch_after = -1;
    e = (struct err){.code = OK};
    gen_must(seq_step(&s, 5, 0, 0, got, &e), &e);
    assert_true(got[0] == 5);
    seq_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_played_again, world_back),
        cmocka_unit_test_teardown(test_given_up, world_back),
        cmocka_unit_test_teardown(test_what_changes, world_back),
        cmocka_unit_test_teardown(test_wrong_segments, world_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
