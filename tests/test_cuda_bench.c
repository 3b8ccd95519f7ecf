/* What `basin bench --devices cuda` does, on simulated GPUs and in sizes for them: everything but the time. */
#include "jobs/bench.h"
#include "kernels/cuda/cuda_impl.h"
#include "tests/support_span.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

// The program is linked so that every GPU is opened in these sizes.
enum status __wrap_dev_open_cuda(struct dev **out, int ordinal, const struct dev_config *c,
                                 struct err *e);
enum status __wrap_dev_open_cuda(struct dev **out, int ordinal, const struct dev_config *c,
                                 struct err *e) {
    static const struct cuda_tune small = {
        .rows = 16, .vocab = 256, .staging_bytes = 4096, .raw_bytes = 2048, .peak = 24};
    return cuda_open_with(out, ordinal, &small, c, e);
}

static const struct bench_on gpu = {.gpu = 1, .n_thread = 1};
static const struct bench_config config = {
    .shape = "stories260k", .dtype = "auto", .on = {.gpu = 1, .n_thread = 1}, .n_row = 32};

static void test_limits(void **state) {
    (void)state;
    struct err e = {0};
    struct bench_peak p;
    static const char *const types[] = {"f32", "bf16"};
    for (int i = 0; i < 2; i++) {
        must(bench_peak(&p, types[i], &gpu, 0, &e), &e);
        assert_string_equal(p.dtype, types[i]);
        assert_non_null(strstr(p.device, "simulated 1"));
        assert_true(p.flops > 0 && p.read_bytes > 0);
    }
    assert_int_equal(simt_memory_used(), 0);
}

static void check_speed(const struct bench_speed *s, int64_t tokens) {
    double sum = 0;
    for (int i = 0; i < DEV_STAGE_COUNT; i++) sum += s->stage[i];
    assert_int_equal(s->tokens, tokens);
    assert_true(s->seconds > 0 && sum - s->seconds < 1e-9 && s->seconds - sum < 1e-9);
    assert_true(s->stage[DEV_LINEAR] > 0 && s->stage[DEV_ATTEND] > 0 && s->stage[DEV_HEAD] > 0);
    // 5 layers of width 64, an MLP of 172, 8 heads of 8 and 4 of keys, 512 tokens.
    assert_true(s->flops[DEV_LINEAR] == 2 * 5 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 172));
    assert_true(s->flops[DEV_HEAD] == 2 * 512 * 64);
}

static void test_speeds(void **state) {
    (void)state;
    struct err e = {0};
    struct bench *b = NULL;
    struct bench_speed s;
    struct bench_steps steps;
    struct bench_text text;
    must(bench_open(&b, &config, &e), &e);
    assert_string_equal(bench_dtype(b), "bf16");
    assert_non_null(strstr(bench_device(b), "simulated 1"));
    must(bench_score(b, 4, 12, 0, &s, &e), &e);
    check_speed(&s, 32);
    assert_true(s.flops[DEV_ATTEND] == 4 * 5 * 64 * 17);
    must(bench_documents(b, 4, 12, 8, 0, &s, &e), &e);
    check_speed(&s, 32);
    // A GPU that does not write yet says so, and can be asked on.
    const enum status st = bench_steps(b, 2, 4, 12, 0, &steps, &e);
    if (st == E_UNSUPPORTED) {
        assert_non_null(strstr(e.msg, "not on this device yet"));
    } else {
        must(st, &e);
        assert_int_equal(steps.tokens, 2);
    }
    e = (struct err){0};
    must(bench_score(b, 4, 12, 0, &s, &e), &e);
    check_speed(&s, 32);
    must(bench_text(b, 0.001, &text, &e), &e);
    assert_true(text.tokenizer_bytes == 0 && text.row_tokens > 0);
    bench_close(b);
    assert_int_equal(simt_memory_used(), 0);
}

static void refused(const struct bench_config *c, enum status code, const char *text) {
    struct err e = {0};
    struct bench *b = NULL;
    assert_int_equal(bench_open(&b, c, &e), code);
    assert_null(b);
    if (strstr(e.msg, text) == NULL) fail_msg("\"%s\" lacks \"%s\"", e.msg, text);
    assert_int_equal(simt_memory_used(), 0);
}

static void test_refused(void **state) {
    (void)state;
    struct bench_config c = config;
    c.on.gpu = 9;
    refused(&c, E_DEVICE, "there is no GPU 9");
    c = config;
    c.memory_left = 20 << 20;
    refused(&c, E_NOMEM, "stories260k in bf16 takes 0.");
    c.on.gpu = -1; // the CPU counts as well
    refused(&c, E_NOMEM, "0.0 GB are left: take a smaller shape");
    c = config;
    c.shape = "llama3-405b"; // 1 GiB is simulated
    refused(&c, E_NOMEM, "1.1 GB are left");
    c.shape = "llama-405b";
    refused(&c, E_ARG, "did you mean \"llama3-405b\"?");
}

static void test_names(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int gpu; // -2: refused
    } cases[] = {{"cpu", -1},      {"cuda", 0},   {"cuda:0", 0},  {"cuda:3", 3}, {"cuda:0,1", -2},
                 {"cpu,cuda", -2}, {"cuda:", -2}, {"cuda:x", -2}, {"auto", -2},  {"", -2}};
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        struct err e = {0};
        int n = 7;
        const enum status st = bench_parse_device(cases[i].name, &n, &e);
        assert_int_equal(st, cases[i].gpu == -2 ? E_ARG : OK);
        if (st == OK) assert_int_equal(n, cases[i].gpu);
        if (strchr(cases[i].name, ',') != NULL) assert_non_null(strstr(e.msg, "at a time"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_speeds),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
