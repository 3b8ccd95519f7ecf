/* The backend of kernels/cuda/ on simulated GPUs, besides its arithmetic (test_ops and its like, which run there
 * as well): opening, memory that runs out, launches that fail, several devices; and that the simulated GPUs find
 * the mistakes they are there for. */
#include "kernels/cuda/cuda_impl.h"
#include "tests/simt/faulty.h"
#include "tests/support_ops.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static const struct cuda_tune small = {
    .rows = 16, .vocab = 256, .staging_bytes = 4096, .raw_bytes = 2048};
static const struct dev_config f32 = {.n_thread = 1, .compute = DT_F32},
                               bf16 = {.n_thread = 1, .compute = DT_BF16};

static struct dev *open_on(int ordinal, const struct dev_config *c) {
    struct dev *d = NULL;
    struct err e = {.code = OK};
    if (cuda_open_with(&d, ordinal, &small, c, &e) != OK) fail_msg("%s", e.msg);
    return d;
}

static int world_back(void **state) {
    (void)state;
    *simt_world() = (struct simt_world){.n_device = 4,
                                        .driver = 13000,
                                        .runtime = 13000,
                                        .memory_bytes = (size_t)1 << 30,
                                        .major = 9,
                                        .fail_launch_after = -1};
    return simt_memory_used() == 0 ? 0 : -1; // every test gives back what it took
}

// ---- opening

static void refuse(struct simt_world w, int ordinal, enum status code, const char *text) {
    struct err e = {.code = OK};
    struct dev *d = NULL;
    *simt_world() = w;
    assert_int_equal(dev_open_cuda(&d, ordinal, &f32, &e), code);
    assert_null(d);
    if (strstr(e.msg, text) == NULL) fail_msg("\"%s\" lacks \"%s\"", e.msg, text);
    assert_int_equal(simt_memory_used(), 0);
}

static void test_open(void **state) {
    (void)state;
    const struct simt_world fine = *simt_world();
    struct simt_world w = fine;
    assert_int_equal(dev_cuda_count(), 4);
    refuse(w, 4, E_DEVICE, "there is no GPU 4: 4 to be seen");
    refuse(w, -1, E_DEVICE, "there is no GPU -1");
    struct dev *d = NULL;
    const struct dev_config bytes = {.n_thread = 1, .compute = DT_BF16, .int8 = true};
    assert_int_equal(dev_open_cuda(&d, 0, &bytes, NULL), E_UNSUPPORTED);
    w.driver = 0;
    refuse(w, 0, E_DEVICE, "no NVIDIA driver is loaded");
    assert_int_equal(dev_cuda_count(), 0);
    w.driver = 12020;
    refuse(w, 0, E_DEVICE, "too old: it supports CUDA 12.2, this program was built with 13.0");
    w = fine;
    w.n_device = 0;
    refuse(w, 0, E_DEVICE, "CUDA_VISIBLE_DEVICES");
    assert_int_equal(dev_cuda_count(), 0);
    w = fine;
    w.major = 7;
    refuse(w, 0, E_DEVICE, "compute capability 7.0; 8.0 is needed");
    w = fine;
    w.no_blas = 1;
    refuse(w, 0, E_DEVICE, "cuBLAS cannot be loaded");
    w = fine;
    w.memory_bytes = 4;
    refuse(w, 0, E_NOMEM, "GPU 0 has no room");
}

// ---- memory

enum { SIDE = 64, N_WEIGHT = 8 };

struct stack {
    float *w[N_WEIGHT];
    struct wt *wt[N_WEIGHT];
};

static void stack_open(struct stack *s, struct dev *d, enum dtype type) {
    uint64_t seed = 5;
    for (int i = 0; i < N_WEIGHT; i++) {
        s->w[i] = ops_normals(&seed, SIDE * SIDE, 0.125f);
        if (type == DT_BF16) {
            ops_round_bf16(s->w[i], SIDE * SIDE);
            bf16_t *h = (bf16_t *)(void *)s->w[i];
            for (int64_t k = 0; k < SIDE * SIDE; k++) h[k] = dtype_f32_to_bf16(s->w[i][k]);
        }
        const struct dev_weight_src src = {.name = "w.stack",
                                           .data = s->w[i],
                                           .dtype = type,
                                           .n_out = SIDE,
                                           .n_in = SIDE,
                                           .n_stored_rows = SIDE,
                                           .block = SIDE};
        assert_int_equal(dev_weight_new(&s->wt[i], d, WT_MATRIX, &src, NULL), OK);
    }
}

static void stack_close(struct stack *s) {
    for (int i = 0; i < N_WEIGHT; i++) dev_weight_free(s->wt[i]), free(s->w[i]);
}

// x through all weights, one after the other. Owned by the caller.
static double *stack_run(struct dev *d, const struct stack *s) {
    uint64_t seed = 9;
    float *x = ops_normals(&seed, 3 * SIDE, 1);
    struct buf *a = ops_buf(d, BUF_ACT, 3, SIDE, x), *b = ops_buf(d, BUF_ACT, 3, SIDE, NULL);
    for (int i = 0; i < N_WEIGHT; i++) {
        dev_weights_prepare(d, &s->wt[i], 1);
        dev_linear(d, i % 2 ? a : b, i % 2 ? b : a, s->wt[i], NULL, 3);
        dev_weights_release(d, &s->wt[i], 1);
    }
    double *y = ops_get(d, a, 3, SIDE);
    buf_free(a), buf_free(b);
    free(x);
    return y;
}

/* A model larger than the device is computed all the same, and to the same bits; the weights that fit stay. */
static void test_short_of_memory(void **state) {
    (void)state;
    static const enum dtype types[] = {DT_F32, DT_BF16};
    for (size_t t = 0; t < COUNTOF(types); t++) {
        struct dev *d = open_on(0, &f32);
        struct stack s;
        stack_open(&s, d, types[t]);
        double *much = stack_run(d, &s), *again = stack_run(d, &s);
        const size_t all = simt_memory_used();
        assert_memory_equal(much, again, 3 * SIDE * sizeof *much);
        stack_close(&s);
        dev_close(d);
        d = open_on(0, &f32);
        stack_open(&s, d, types[t]);
        simt_world()->memory_bytes = all - 3 * SIDE * SIDE * dtype_bytes(types[t]);
        for (int round = 0; round < 3; round++) {
            double *little = stack_run(d, &s);
            assert_memory_equal(much, little, 3 * SIDE * sizeof *much);
            assert_true(simt_memory_used() <= simt_world()->memory_bytes);
            free(little);
        }
        free(much), free(again);
        stack_close(&s);
        dev_close(d);
        world_back(NULL);
    }
}

static void test_out_of_memory(void **state) {
    (void)state;
    struct dev *d = open_on(1, &f32);
    struct stack s;
    struct buf *b = NULL;
    struct err e = {.code = OK};
    stack_open(&s, d, DT_F32);
    simt_world()->memory_bytes = simt_memory_used() + SIDE * SIDE;
    assert_int_equal(buf_new(&b, d, BUF_ACT, SIDE, SIDE, &e), E_NOMEM);
    assert_non_null(strstr(e.msg, "GPU 1 has no room"));
    assert_non_null(strstr(e.msg, "smaller"));
    dev_weights_prepare(d, s.wt, 1);
    e = (struct err){.code = OK};
    assert_int_equal(dev_sync(d, &e), E_NOMEM);
    assert_non_null(strstr(e.msg, "weights_prepare: w.stack: GPU 1"));
    dev_weights_release(d, s.wt, 1);
    world_back(NULL);
    free(stack_run(d, &s)); // and goes on once there is room
    stack_close(&s);
    dev_close(d);
}

/* Spans of the same size take memory once. */
static void test_memory_constant(void **state) {
    (void)state;
    struct dev *d = open_on(0, &bf16);
    struct stack s;
    stack_open(&s, d, DT_BF16);
    free(stack_run(d, &s));
    ops_sync(d);
    const size_t used = simt_memory_used();
    for (int i = 0; i < 20; i++) free(stack_run(d, &s));
    ops_sync(d);
    assert_int_equal(simt_memory_used(), used);
    stack_close(&s);
    dev_close(d);
    assert_int_equal(simt_product_rows(), small.rows);
}

/* Operands are kept for the next layer that reads the same rows: every operation that writes them, and every other
 * number of rows, must make them anew. */
static double *line_of(struct dev *d, const struct buf *x, const struct wt *w, int64_t n) {
    struct buf *y = ops_buf(d, BUF_ACT, n, SIDE, NULL);
    dev_linear(d, y, x, w, NULL, n);
    double *out = ops_get(d, y, n, SIDE);
    buf_free(y);
    return out;
}

static void write_somehow(struct dev *d, int how, struct buf *x, const struct buf *other,
                          const struct wt *w, const struct wt *ones) {
    const struct dev_norm norm = {.kind = NORM_RMS, .eps = 1e-5, .weight = ones, .n_group = 1};
    const struct dev_rope rope = {1, SIDE, 2, false};
    const int64_t pos[37] = {1, 2, 3};
    const double freq = 1;
    struct buf *bp = ops_pos(d, 37, pos), *ang = ops_buf(d, BUF_ANGLE, 37, 2, NULL);
    float row[SIDE] = {1};
    dev_angles(d, ang, bp, &freq, 1, 1, 37);
    if (how == 0) dev_write(d, x, 0, 1, row);
    if (how == 1) dev_copy(d, x, 0, other, 1, 1);
    if (how == 2) dev_norm(d, x, x, &norm, 37);
    if (how == 3) dev_act(d, x, x, NULL, ACT_SILU, 37);
    if (how == 4) dev_add(d, x, other, 1, 37);
    if (how == 5) dev_rope(d, x, x, ang, &rope, 37);
    if (how == 6) dev_linear(d, x, other, w, NULL, 37);
    if (how == 7) dev_copy_peer(d, x, 0, d, other, 1, 1);
    buf_free(bp), buf_free(ang);
}

static void test_operands_anew(void **state) {
    (void)state;
    enum { N = 37 };
    struct dev *d = open_on(0, &f32);
    struct stack s;
    void *data = NULL;
    uint64_t seed = 3;
    float *a = ops_normals(&seed, N * SIDE, 1), *b = ops_normals(&seed, N * SIDE, 1), ones[SIDE];
    for (int k = 0; k < SIDE; k++) ones[k] = 1;
    struct wt *one = ops_weight(d, WT_VECTOR, SIDE, 1, ones, DT_F32, &data);
    stack_open(&s, d, DT_F32);
    dev_weights_prepare(d, s.wt, 1);
    for (int how = 0; how < 8; how++) {
        struct buf *x = ops_buf(d, BUF_ACT, N, SIDE, a), *other = ops_buf(d, BUF_ACT, N, SIDE, b);
        free(line_of(d, x, s.wt[0], 1));
        free(line_of(d, x, s.wt[0], N));
        write_somehow(d, how, x, other, s.wt[0], one);
        double *got = line_of(d, x, s.wt[0], N), *rows = ops_get(d, x, N, SIDE);
        float again[N * SIDE];
        for (int i = 0; i < N * SIDE; i++) again[i] = (float)rows[i];
        struct buf *fresh = ops_buf(d, BUF_ACT, N, SIDE, again);
        double *want = line_of(d, fresh, s.wt[0], N);
        if (memcmp(got, want, N * SIDE * sizeof *got) != 0) fail_msg("written by way %d", how);
        buf_free(x), buf_free(other), buf_free(fresh);
        free(got), free(rows), free(want);
    }
    dev_weights_release(d, s.wt, 1);
    stack_close(&s);
    dev_weight_free(one);
    dev_close(d);
    free(data), free(a), free(b);
}

// ---- failures

/* The k-th launch fails, for every k: the first operation that meets it says so by its name, the rest is not
 * done, and the handle goes on afterwards. */
static void test_launch_fails(void **state) {
    (void)state;
    for (int k = 0, failed = 1; failed; k++) {
        struct dev *d = open_on(0, &bf16);
        struct stack s;
        struct err e = {.code = OK};
        stack_open(&s, d, DT_BF16);
        struct buf *a = ops_buf(d, BUF_ACT, 3, SIDE, s.w[0]),
                   *b = ops_buf(d, BUF_ACT, 3, SIDE, NULL);
        ops_sync(d);
        simt_world()->fail_launch_after = k;
        dev_weights_prepare(d, s.wt, 1);
        dev_linear(d, b, a, s.wt[0], NULL, 3);
        dev_act(d, b, a, b, ACT_SILU, 3);
        dev_add(d, b, a, 1, 3);
        failed = dev_sync(d, &e) != OK;
        if (failed) {
            static const char *const op[] = {"weights_prepare: ", "linear: ", "act: ", "add: "};
            assert_true(k < (int)COUNTOF(op));
            assert_int_equal(e.code, E_DEVICE);
            if (strncmp(e.msg, op[k], strlen(op[k])) != 0) fail_msg("launch %d: %s", k, e.msg);
        } else {
            assert_int_equal(k, 4);
        }
        dev_weights_release(d, s.wt, 1);
        simt_world()->fail_launch_after = -1;
        free(stack_run(d, &s));
        buf_free(a), buf_free(b);
        stack_close(&s);
        dev_close(d);
    }
}

// ---- several devices

enum { ROWS = 5, COLS = 40 };

/* Rows go round 2 and 4 devices, and the sender overwrites its own at once: the copy has what was there. */
static void test_peers(void **state) {
    (void)state;
    for (int n = 2; n <= 4; n += 2) {
        struct dev *d[4];
        struct buf *x[4], *in[4];
        for (int i = 0; i < n; i++) {
            float line[ROWS * COLS];
            for (int k = 0; k < ROWS * COLS; k++) line[k] = (float)(1000 * i + k);
            d[i] = open_on(i, &f32);
            x[i] = ops_buf(d[i], BUF_ACT, ROWS, COLS, line);
            in[i] = ops_buf(d[i], BUF_ACT, ROWS, COLS, NULL);
        }
        for (int i = 0; i < n; i++) {
            dev_add(d[i], x[i], x[i], 1, ROWS); // twice
            dev_copy_peer(d[(i + 1) % n], in[(i + 1) % n], 0, d[i], x[i], 0, ROWS);
            dev_add(d[i], x[i], x[i], -1, ROWS); // nothing is left
        }
        for (int i = n - 1; i >= 0; i--) {
            double *got = ops_get(d[i], in[i], ROWS, COLS), *own = ops_get(d[i], x[i], ROWS, COLS);
            for (int k = 0; k < ROWS * COLS; k++) {
                assert_true(got[k] == 2.0 * (1000 * ((i + n - 1) % n) + k));
                assert_true(own[k] == 0);
            }
            free(got), free(own);
        }
        for (int i = 0; i < n; i++) {
            buf_free(x[i]), buf_free(in[i]);
            dev_close(d[i]);
        }
    }
}

static void test_events(void **state) {
    (void)state;
    struct dev *a = open_on(0, &f32), *b = open_on(1, &f32), *ref = ops_open_ref(DT_F32);
    struct dev_event *ev = NULL;
    float one[COLS];
    for (int k = 0; k < COLS; k++) one[k] = 1;
    struct buf *x = ops_buf(a, BUF_ACT, 1, COLS, one);
    assert_int_equal(dev_event_new(&ev, a, NULL), OK);
    dev_event_wait(b, ev); // not recorded: nothing to wait for
    dev_add(a, x, x, 1, 1);
    dev_event_record(a, ev);
    dev_event_wait(b, ev);
    dev_event_wait(ref, ev); // another kind of device waits by itself
    ops_sync(b);
    ops_sync(ref);
    double *got = ops_get(a, x, 1, COLS);
    assert_true(got[0] == 2 && got[COLS - 1] == 2);
    free(got);
    dev_event_free(ev);
    buf_free(x);
    dev_close(a), dev_close(b), dev_close(ref);
}

/* Time is counted by stage, on the device. */
static void test_times(void **state) {
    (void)state;
    struct dev *d = open_on(0, &f32);
    struct stack s;
    double t[DEV_STAGE_COUNT];
    stack_open(&s, d, DT_F32);
    free(stack_run(d, &s));
    ops_sync(d);
    dev_times(d, t);
    assert_true(t[DEV_LINEAR] > 0 && t[DEV_PREPARE] > 0);
    assert_true(t[DEV_ATTEND] == 0 && t[DEV_HEAD] == 0);
    stack_close(&s);
    dev_close(d);
}

/* Heads that no kernel has room for are refused by name. */
static void test_wide_heads(void **state) {
    (void)state;
    enum { WIDE = 4000 };
    struct dev *d = open_on(0, &bf16);
    struct buf *q = ops_buf(d, BUF_ACT, 1, WIDE, NULL), *o = ops_buf(d, BUF_ACT, 1, WIDE, NULL);
    struct buf *kv = ops_buf(d, BUF_KV, 1, WIDE, NULL);
    const struct dev_seg seg = {.n_row = 1};
    struct buf *bs = ops_segs(d, 1, &seg);
    const struct dev_attend a = {.out = o,
                                 .q_win = q,
                                 .q_sink = q,
                                 .k = kv,
                                 .v = kv,
                                 .seg = bs,
                                 .n_seg = 1,
                                 .n_head = 1,
                                 .n_kv = 1,
                                 .d_head = WIDE,
                                 .scale = 1};
    struct err e = {.code = OK};
    dev_attend(d, &a, 1);
    assert_int_equal(dev_sync(d, &e), E_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "attend: heads of 4000"));
    buf_free(q), buf_free(o), buf_free(kv), buf_free(bs);
    dev_close(d);
}

// ---- the simulated GPUs themselves

// 256 floats after a faulty kernel has run on a device.
static void faulty_on(int ordinal, int which, bool right, float out[256]) {
    struct dev *d = open_on(ordinal, &f32);
    struct cuda_dev *c = cuda_of(d);
    float x[256];
    for (int i = 0; i < 256; i++) x[i] = (float)i;
    struct buf *in = ops_buf(d, BUF_ACT, 1, 256, x), *y = ops_buf(d, BUF_ACT, 1, 256, x);
    cudaSetDevice(ordinal);
    if (which == 0) faulty_reverse(c->stream, cuda_at(y, 0), right);
    if (which == 1) faulty_through(c->stream, cuda_at(y, 0), cuda_at(in, 0), right);
    if (which == 2) faulty_put(c->stream, cuda_at(y, 0), 3 * 256);
    if (which == 3) faulty_apart(c->stream, cuda_at(y, 0));
    dev_read(d, y, 0, 1, out);
    ops_sync(d);
    buf_free(in), buf_free(y);
    dev_close(d);
}

static bool ends_the_test(int which) {
    float out[256];
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) {
        freopen("/dev/null", "w", stderr);
        signal(SIGABRT, SIG_DFL);
        faulty_on(0, which, false, out);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

static void test_finds_mistakes(void **state) {
    (void)state;
    float a[256], b[256];
    for (int i = 0; i < 4; i++) { // with the barrier: the same everywhere
        faulty_on(i, 0, true, a);
        for (int k = 0; k < 64; k++) assert_true(a[k] == (float)(63 - k));
    }
    faulty_on(0, 0, false, a);
    faulty_on(1, 0, false, b);
    assert_memory_not_equal(a, b, 64 * sizeof *a);
    faulty_on(0, 1, true, a);
    assert_true(a[0] == 0 && a[255] == 255);
    faulty_on(0, 1, false, a); // read before it has come
    assert_true(isnan(a[0]) && isnan(a[255]));
    assert_true(ends_the_test(2)); // behind the end of a buffer
    assert_true(ends_the_test(3)); // lanes that do not come
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_open, world_back),
        cmocka_unit_test_teardown(test_short_of_memory, world_back),
        cmocka_unit_test_teardown(test_out_of_memory, world_back),
        cmocka_unit_test_teardown(test_memory_constant, world_back),
        cmocka_unit_test_teardown(test_operands_anew, world_back),
        cmocka_unit_test_teardown(test_launch_fails, world_back),
        cmocka_unit_test_teardown(test_peers, world_back),
        cmocka_unit_test_teardown(test_events, world_back),
        cmocka_unit_test_teardown(test_times, world_back),
        cmocka_unit_test_teardown(test_wide_heads, world_back),
        cmocka_unit_test_teardown(test_finds_mistakes, world_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
