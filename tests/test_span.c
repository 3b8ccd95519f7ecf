/* The span engine: the streaming laws, bytes that do not depend on how the rows were cut, where
 * documents end. (That it is exact: test_truth.c.) */
#include "base/cpu.h"
#include "base/mem.h"
#include "core/span.h"
#include "io/json.h"
#include "tests/support_score.h"
#include "tests/support_span.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void rig_open(struct rig *r, const char *dir, const char *kind, enum cpu_isa isa,
                     int threads, enum dtype dtype) {
    struct err e = {0};
    const struct dev_config c = {.n_thread = threads, .isa = isa, .compute = dtype};
    must(model_open(&r->model, dir, &e), &e);
    must(strcmp(kind, "ref") == 0 ? dev_open_ref(&r->dev, &c, &e) : dev_open_cpu(&r->dev, &c, &e),
         &e);
    must(model_on_open(&r->on, r->model, r->dev, &e), &e);
}

/* ---- laws ---- */

static void test_span_sizes_same_bytes(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 7, 64, 256};
    struct fixture f;
    struct vis_rule rules[6];
    rules_for_laws(rules);
    fixture_open(&f, "llama");
    for (int bf16 = 0; bf16 < 2; bf16++) {
        for (int isa = CPU_PORTABLE; isa <= (int)cpu_isa_best(); isa++) {
            struct rig r;
            rig_open(&r, FIXTURES "llama", "cpu", (enum cpu_isa)isa, 2, bf16 ? DT_BF16 : DT_F32);
            for (int k = 0; k < 6; k++) {
                double whole[4096], cut[4096];
                score(&r, &rules[k], f.ids, f.n, f.n, whole);
                for (size_t i = 0; i < COUNTOF(sizes); i++) {
                    score(&r, &rules[k], f.ids, f.n, sizes[i], cut);
                    if (memcmp(whole, cut, (size_t)(f.n - 1) * sizeof whole[0]) != 0) {
                        fail_msg("isa %d bf16 %d rule %d: spans of %d rows differ", isa, bf16, k,
                                 (int)sizes[i]);
                    }
                }
            }
            rig_close(&r);
        }
    }
    json_close(f.ref);
}

/* A model, streaming and dense, cut small and not at all. */
static void same_bytes(const char *dir, void *ctx) {
    static const int64_t sizes[] = {7, 64};
    (void)ctx;
    struct rig r;
    struct vis_rule rules[6];
    static int32_t ids[300];
    double whole[300], cut[300];
    rules_for_laws(rules);
    rig_open(&r, dir, "cpu", cpu_isa_best(), 1, DT_BF16);
    const struct arch *a = model_arch(r.model);
    for (int i = 0; i < 300; i++) ids[i] = (int32_t)((i * 7919 + i / 3) % a->n_vocab);
    for (int i = 0; i < 3; i += 2) {
        if (a->positions == POS_LEARNED && !rules[i].dense) continue;
        if (a->rope.kind == ROPE_LONG && rules[i].dense) continue; // see test_longrope_ends
        score(&r, &rules[i], ids, 300, 300, whole);
        for (size_t s = 0; s < COUNTOF(sizes); s++) {
            score(&r, &rules[i], ids, 300, sizes[s], cut);
            if (memcmp(whole, cut, 299 * sizeof whole[0]) != 0)
                fail_msg("%s rule %d: spans of %d rows differ", dir, i, (int)sizes[s]);
        }
    }
    rig_close(&r);
}

static void test_families_same_bytes(void **state) {
    (void)state;
    assert_true(support_fixtures(same_bytes, NULL) >= 38);
}

static void test_threads_same_bytes(void **state) {
    (void)state;
    struct fixture f;
    struct vis_rule rules[6];
    rules_for_laws(rules);
    fixture_open(&f, "llama_tied");
    double one[4096], more[4096];
    for (int threads = 1; threads <= 3; threads++) {
        struct rig r;
        rig_open(&r, FIXTURES "llama_tied", "cpu", cpu_isa_best(), threads, DT_BF16);
        score(&r, &rules[0], f.ids, f.n, 100, threads == 1 ? one : more);
        if (threads > 1) assert_memory_equal(one, more, (size_t)(f.n - 1) * sizeof one[0]);
        rig_close(&r);
    }
    json_close(f.ref);
}

/* Several documents under several rules in one span, in pieces of uneven size, against each one
 * alone. */
static void packing(const char *dir, const struct vis_rule rules[6]) {
    enum { DOCS = 6 };
    struct fixture f;
    struct rig r;
    struct err e = {0};
    fixture_open(&f, "llama");
    rig_open(&r, dir, "cpu", cpu_isa_best(), 2, DT_F32);
    for (int i = 0; i < f.n; i++) f.ids[i] %= (int32_t)model_arch(r.model)->n_vocab;
    static double alone[DOCS][512], packed[DOCS][512];
    const int64_t from[DOCS] = {0, 30, 7, 111, 200, 3}, len[DOCS] = {390, 90, 250, 200, 199, 2};
    struct cache *c[DOCS];
    int64_t pos[DOCS] = {0};
    for (int d = 0; d < DOCS; d++) {
        score(&r, &rules[d], f.ids + from[d], len[d], 512, alone[d]);
        must(cache_open(&c[d], r.on, &rules[d], &e), &e);
    }
    struct span *sp = NULL;
    must(span_open(&sp, r.on, 97, &e), &e);
    for (int step = 0, left = DOCS; left > 0; step++) {
        int64_t rows[DOCS], n[DOCS];
        left = 0;
        for (int d = 0; d < DOCS; d++) {
            n[d] = len[d] - 1 - pos[d];
            const int64_t piece = (step * 5 + d * 3) % 23 + 1;
            if (n[d] > piece) n[d] = piece;
            if (n[d] > span_room(sp)) n[d] = span_room(sp);
            left += len[d] - 1 - pos[d] > n[d];
            if (n[d] == 0) continue;
            const int32_t *ids = f.ids + from[d] + pos[d];
            must(span_add(sp, c[d], ids, ids + 1, n[d], pos[d] + n[d] < len[d] - 1, &rows[d], &e),
                 &e);
        }
        must(span_run(sp, NULL, &e), &e);
        for (int d = 0; d < DOCS; d++) {
            for (int64_t i = 0; i < n[d]; i++) packed[d][pos[d] + i] = -span_logp(sp)[rows[d] + i];
            pos[d] += n[d];
        }
        span_clear(sp);
    }
    for (int d = 0; d < DOCS; d++) {
        assert_memory_equal(alone[d], packed[d], (size_t)(len[d] - 1) * sizeof(double));
        cache_close(c[d]);
    }
    span_close(sp);
    rig_close(&r);
    json_close(f.ref);
}

static void test_packing_same_bytes(void **state) {
    (void)state;
    struct vis_rule rules[6];
    rules_for_laws(rules);
    packing(FIXTURES "llama", rules);
    packing(FIXTURES "qwen_logn", rules); // queries of each document have a scale of their own
    rules[1].n_win = 20;
    rules[2] = (struct vis_rule){.n_sink = 1, .n_win = 40, .n_chunk = 1};
    rules[3].n_prefill = 0;
    rules[4].n_win = 12;
    packing(FIXTURES "phi3_long", rules); // and here each its angles: 0, 2 and 3 are past 32 tokens
}

static void rows_equal_dense(const char *device, double budget) {
    struct fixture f;
    struct rig r;
    double dense[4096], sink[4096], far = 0;
    fixture_open(&f, "llama");
    rig_open(&r, FIXTURES "llama", device, cpu_isa_best(), 2, DT_F32);
    const struct vis_rule a = {.dense = true, .n_chunk = 1},
                          b = {.n_sink = 4, .n_win = 28, .n_chunk = 1};
    const struct vis_rule wide = {.n_sink = 4, .n_win = 1020, .n_chunk = 1};
    score(&r, &a, f.ids, f.n, 128, dense);
    score(&r, &b, f.ids, f.n, 128, sink);
    for (int t = 0; t <= 32; t++) far = fmax(far, fabs(dense[t] - sink[t]));
    assert_true(fabs(dense[33] - sink[33]) > 1e-3); // the first row that may differ does
    score(&r, &wide, f.ids, f.n, 128, sink);
    for (int t = 0; t < f.n - 1; t++) far = fmax(far, fabs(dense[t] - sink[t]));
    print_message("%s, dense and a window that holds all: %.1e apart\n", device, far);
    assert_true(far <= budget);
    rig_close(&r);
    json_close(f.ref);
}

// Sinks are met in a tile of their own, so that sums round otherwise.
static void test_rows_to_C_equal_dense(void **state) {
    (void)state;
    rows_equal_dense("ref", 1e-12);
    rows_equal_dense("cpu", 3e-5);
}

/* ---- the cache as bytes ---- */

static void test_save_and_restore(void **state) {
    (void)state;
    struct fixture f;
    struct rig r;
    struct err e = {0};
    struct vis_rule rules[6];
    rules_for_laws(rules);
    fixture_open(&f, "llama");
    rig_open(&r, FIXTURES "llama", "cpu", cpu_isa_best(), 2, DT_BF16);
    for (int k = 0; k < 6; k++) {
        for (int64_t cut = 1; cut < 300; cut += 37) {
            double whole[4096];
            score(&r, &rules[k], f.ids, f.n, 512, whole);
            struct span *sp = NULL;
            struct cache *a = NULL, *b = NULL;
            struct sbuf bytes;
            int64_t row = 0;
            size_t used = 0;
            sbuf_init(&bytes);
            must(span_open(&sp, r.on, 512, &e), &e);
            must(cache_open(&a, r.on, &rules[k], &e), &e);
            must(cache_open(&b, r.on, &rules[k], &e), &e);
            must(span_add(sp, a, f.ids, f.ids + 1, cut, true, &row, &e), &e);
            must(span_run(sp, NULL, &e), &e);
            span_clear(sp);
            must(cache_save(a, &bytes, &e), &e);
            assert_int_equal(cache_restore(b, bytes.s, bytes.n / 2, &used, NULL), E_FORMAT);
            cache_close(b);
            must(cache_open(&b, r.on, &rules[k], &e), &e);
            must(cache_restore(b, bytes.s, bytes.n, &used, &e), &e);
            assert_int_equal(used, bytes.n);
            must(span_add(sp, b, f.ids + cut, f.ids + cut + 1, f.n - 1 - cut, false, &row, &e), &e);
            must(span_run(sp, NULL, &e), &e);
            for (int64_t t = cut; t < f.n - 1; t++)
                assert_true(whole[t] == -span_logp(sp)[row + t - cut]);
            cache_close(a);
            cache_close(b);
            span_close(sp);
            sbuf_fini(&bytes);
        }
    }
    rig_close(&r);
    json_close(f.ref);
}

struct countdown {
    int left;
};

static bool asked(void *ctx) {
    struct countdown *c = ctx;
    return c->left-- <= 0;
}

/* A span given up after any layer leaves the cache as it was. */
static void test_given_up_span(void **state) {
    (void)state;
    struct fixture f;
    struct rig r;
    struct err e = {0};
    struct vis_rule rules[6];
    rules_for_laws(rules);
    fixture_open(&f, "llama");
    rig_open(&r, FIXTURES "llama", "cpu", cpu_isa_best(), 2, DT_F32);
    for (int k = 0; k < 6; k++) {
        double whole[4096];
        struct span *sp = NULL;
        struct cache *c = NULL;
        int64_t row = 0;
        score(&r, &rules[k], f.ids, f.n, 512, whole);
        must(span_open(&sp, r.on, 64, &e), &e);
        must(cache_open(&c, r.on, &rules[k], &e), &e);
        for (int64_t t = 0; t + 64 < f.n; t += 64) {
            for (int layer = 0; layer < 2; layer++) {
                struct countdown stop_after = {layer};
                const struct span_stop stop = {asked, &stop_after};
                must(span_add(sp, c, f.ids + t, f.ids + t + 1, 64, true, &row, &e), &e);
                assert_int_equal(span_run(sp, &stop, NULL), E_CANCEL);
                assert_int_equal(cache_pos(c), t);
                span_clear(sp);
            }
            must(span_add(sp, c, f.ids + t, f.ids + t + 1, 64, true, &row, &e), &e);
            must(span_run(sp, NULL, &e), &e);
            for (int64_t i = 0; i < 64; i++) assert_true(whole[t + i] == -span_logp(sp)[row + i]);
            span_clear(sp);
        }
        cache_close(c);
        span_close(sp);
    }
    rig_close(&r);
    json_close(f.ref);
}

/* What a model has no positions for is refused before anything is added. */
static void test_positions_end(void **state) {
    (void)state;
    static const char *const which[] = {"gpt2", "opt"};
    static int32_t ids[500];
    for (size_t i = 0; i < COUNTOF(which); i++) {
        char dir[256];
        struct rig r;
        struct err e = {0};
        struct span *sp = NULL;
        struct cache *c = NULL;
        int64_t row = 0;
        const struct vis_rule dense = {.dense = true, .n_chunk = 1},
                              sink = {.n_sink = 4, .n_win = 28, .n_chunk = 1};
        snprintf(dir, sizeof dir, FIXTURES "%s", which[i]);
        rig_open(&r, dir, "cpu", cpu_isa_best(), 1, DT_F32);
        must(span_open(&sp, r.on, 500, &e), &e);
        must(cache_open(&c, r.on, &dense, &e), &e);
        assert_int_equal(span_add(sp, c, ids, ids, 449, false, &row, &e), E_ARG);
        assert_non_null(strstr(e.msg, "past token 448"));
        must(span_add(sp, c, ids, ids, 448, false, &row, NULL), &e);
        must(span_run(sp, NULL, NULL), &e);
        span_clear(sp);
        cache_close(c);
        e = (struct err){0};
        must(cache_open(&c, r.on, &sink, &e), &e);
        assert_int_equal(span_add(sp, c, ids, ids, 34, false, &row, &e), E_ARG);
        assert_non_null(strstr(e.msg, "token 33 leaves the cache"));
        must(span_add(sp, c, ids, ids, 33, false, &row, NULL), &e);
        must(span_run(sp, NULL, NULL), &e);
        cache_close(c);
        span_close(sp);
        rig_close(&r);
    }
}

/* longrope turns by the size of the cache, chosen once: short factors end at the original context. */
static void test_longrope_ends(void **state) {
    (void)state;
    static int32_t ids[60];
    struct rig r;
    struct err e = {0};
    struct span *sp = NULL;
    const struct vis_rule dense = {.dense = true, .n_chunk = 1},
                          within = {.n_sink = 4, .n_win = 27, .n_chunk = 1},
                          chunks = {.n_sink = 4, .n_win = 26, .n_chunk = 3},
                          past = {.n_sink = 4, .n_win = 28, .n_chunk = 1};
    const struct {
        const struct vis_rule *rule;
        int64_t most;
    } cases[] = {{&dense, 32}, {&within, 60}, {&chunks, 32}, {&past, 60}};
    rig_open(&r, FIXTURES "phi3_long", "cpu", cpu_isa_best(), 1, DT_F32);
    must(span_open(&sp, r.on, 60, &e), &e);
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        struct cache *c = NULL;
        int64_t row = 0;
        must(cache_open(&c, r.on, cases[i].rule, &e), &e);
        if (cases[i].most < 60) {
            struct err why = {0};
            assert_int_equal(span_add(sp, c, ids, ids, cases[i].most + 1, false, &row, &why),
                             E_ARG);
            assert_non_null(strstr(why.msg, "sees more than 32 tokens"));
        }
        must(span_add(sp, c, ids, ids, cases[i].most, false, &row, &e), &e);
        must(span_run(sp, NULL, &e), &e);
        span_clear(sp);
        cache_close(c);
    }
    span_close(sp);
    rig_close(&r);
}

static void test_ids_outside_the_vocabulary(void **state) {
    (void)state;
    struct rig r;
    struct err e = {0};
    struct span *sp = NULL;
    struct cache *c = NULL;
    const struct vis_rule rule = {.n_sink = 4, .n_win = 28, .n_chunk = 1};
    int64_t row = 0;
    rig_open(&r, FIXTURES "llama", "cpu", cpu_isa_best(), 1, DT_F32);
    must(span_open(&sp, r.on, 8, &e), &e);
    must(cache_open(&c, r.on, &rule, &e), &e);
    assert_int_equal(span_add(sp, c, (int32_t[]){256}, (int32_t[]){1}, 1, false, &row, &e), E_ARG);
    assert_non_null(strstr(e.msg, "256"));
    assert_int_equal(span_add(sp, c, (int32_t[]){-1}, (int32_t[]){1}, 1, false, &row, NULL), E_ARG);
    assert_int_equal(span_add(sp, c, (int32_t[]){1}, (int32_t[]){999}, 1, false, &row, NULL),
                     E_ARG);
    assert_int_equal(span_rows(sp), 0);
    cache_close(c);
    span_close(sp);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_span_sizes_same_bytes),
        cmocka_unit_test(test_families_same_bytes),
        cmocka_unit_test(test_threads_same_bytes),
        cmocka_unit_test(test_packing_same_bytes),
        cmocka_unit_test(test_rows_to_C_equal_dense),
        cmocka_unit_test(test_save_and_restore),
        cmocka_unit_test(test_given_up_span),
        cmocka_unit_test(test_positions_end),
        cmocka_unit_test(test_longrope_ends),
        cmocka_unit_test(test_ids_outside_the_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
