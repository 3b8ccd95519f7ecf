/* The span engine on whatever device this program is linked for: recorded results of the reference
 * implementation for one model of each kind, and bytes that do not depend on how the rows were cut. */
#include "base/mem.h"
#include "core/span.h"
#include "io/json.h"
#include "tests/support_ops.h"
#include "tests/support_span.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

// One for each thing that families differ in.
static const char *const names[] = {"llama",        "gemma3", "qwen3",   "gptj",
                                    "falcon_alibi", "gpt2",   "mpt_clip"};
enum { RECORDED_LEAST = 26 };

static const char *const modes[] = {"dense",         "sink_s4_w28",       "sink_s1_w15",
                                    "window_s0_w32", "prefill100_s4_w28", "chunk16_s4_w28"};

static void rig_open(struct rig *r, const char *dir, struct ops_dev on, int threads) {
    rig_on(r, dir, ops_open(&on, threads));
}

/* The last device of the list that computes in `dtype`. */
static struct ops_dev best(enum dtype dtype) {
    struct ops_dev list[8];
    int i = ops_list(list) - 1;
    while (list[i].compute != dtype) i--;
    return list[i];
}

static int64_t member(const struct jnode *m, const char *key, int64_t otherwise) {
    const struct jnode *v = json_get(m, key);
    return v != NULL ? json_int(v) : otherwise;
}

static bool mode_rule(const struct fixture *f, const char *mode, struct vis_rule *rule,
                      const struct jnode **nll) {
    const struct jnode *m = json_get(json_root(f->ref), mode);
    if (m == NULL) return false;
    *rule = (struct vis_rule){.dense = strcmp(mode, "dense") == 0,
                              .n_sink = member(m, "S", 0),
                              .n_win = member(m, "W", 0),
                              .n_chunk = strncmp(mode, "chunk16", 7) == 0 ? 16 : 1,
                              .n_prefill = strncmp(mode, "prefill100", 10) == 0 ? 100 : 0};
    *nll = json_get(m, "nll");
    return true;
}

static double worst(const double *a, const struct jnode *b, int n) {
    double d = 0;
    for (int i = 0; i < n; i++) {
        const double x = fabs(a[i] - json_num(json_at(b, (size_t)i)));
        d = !(x <= d) ? x : d; // NaN counts as worst
    }
    return d;
}

// All recorded modes of the models.
static int compare_all(const struct ops_dev *on, double budget) {
    int compared = 0;
    for (size_t k = 0; k < COUNTOF(names); k++) {
        struct fixture f;
        struct rig r;
        fixture_open(&f, names[k]);
        char dir[256];
        snprintf(dir, sizeof dir, FIXTURES "%s", names[k]);
        rig_open(&r, dir, *on, 2);
        for (size_t i = 0; i < COUNTOF(modes); i++) {
            struct vis_rule rule;
            const struct jnode *want = NULL;
            double nll[4096];
            if (!mode_rule(&f, modes[i], &rule, &want)) continue;
            score(&r, &rule, f.ids, f.n, 150, nll);
            const double d = worst(nll, want, f.n - 1);
            print_message("%s %s %s: %.1e\n", dev_describe(r.dev), names[k], modes[i], d);
            if (!(d <= budget))
                fail_msg("%s %s %s: off by %g, budget %g", dev_describe(r.dev), names[k], modes[i],
                         d, budget);
            compared++;
        }
        rig_close(&r);
        json_close(f.ref);
    }
    return compared;
}

static void test_dev_equals_reference(void **state) {
    (void)state;
    struct ops_dev list[8];
    const int n = ops_list(list);
    for (int i = 0; i < n; i++)
        if (list[i].compute == DT_F32) assert_true(compare_all(&list[i], 1e-4) >= RECORDED_LEAST);
}

/* ---- laws ---- */

static void test_span_sizes_same_bytes(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 7, 64, 256};
    struct fixture f;
    struct vis_rule rules[6];
    rules_for_laws(rules);
    fixture_open(&f, "llama");
    struct ops_dev list[8];
    const int n = ops_list(list), n_tok = ops_slow() ? 130 : f.n;
    for (int d = 0; d < n; d++) {
        struct rig r;
        rig_open(&r, FIXTURES "llama", list[d], 2);
        for (int k = 0; k < 6; k++) {
            double whole[4096], cut[4096];
            score(&r, &rules[k], f.ids, n_tok, n_tok, whole);
            for (size_t i = 0; i < COUNTOF(sizes); i++) {
                if (ops_slow() && k > 0 && (sizes[i] < 64 || d > 1)) continue;
                if (ops_slow() && sizes[i] == 1 && d != 1) continue;
                score(&r, &rules[k], f.ids, n_tok, sizes[i], cut);
                if (memcmp(whole, cut, (size_t)(n_tok - 1) * sizeof whole[0]) != 0) {
                    fail_msg("%s, rule %d: spans of %d rows differ", dev_describe(r.dev), k,
                             (int)sizes[i]);
                }
            }
        }
        rig_close(&r);
    }
    json_close(f.ref);
}

/* Every family, streaming and dense, cut small and not at all. */
static void test_families_same_bytes(void **state) {
    (void)state;
    static const int64_t sizes[] = {7, 64};
    for (size_t k = 0; k < COUNTOF(names); k++) {
        struct fixture f;
        struct rig r;
        char dir[256];
        double whole[4096], cut[4096];
        fixture_open(&f, names[k]);
        snprintf(dir, sizeof dir, FIXTURES "%s", names[k]);
        rig_open(&r, dir, best(DT_BF16), 1);
        struct vis_rule rules[6];
        rules_for_laws(rules);
        for (int i = 0; i < 3; i += 2) {
            if (model_arch(r.model)->positions == POS_LEARNED && !rules[i].dense) continue;
            score(&r, &rules[i], f.ids, f.n, f.n, whole);
            for (size_t s = ops_slow() ? 1 : 0; s < COUNTOF(sizes); s++) {
                score(&r, &rules[i], f.ids, f.n, sizes[s], cut);
                if (memcmp(whole, cut, (size_t)(f.n - 1) * sizeof whole[0]) != 0)
                    fail_msg("%s rule %d: spans of %d rows differ", names[k], i, (int)sizes[s]);
            }
        }
        rig_close(&r);
        json_close(f.ref);
    }
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
        rig_open(&r, FIXTURES "llama_tied", best(DT_BF16), threads);
        score(&r, &rules[0], f.ids, f.n, 100, threads == 1 ? one : more);
        if (threads > 1) assert_memory_equal(one, more, (size_t)(f.n - 1) * sizeof one[0]);
        rig_close(&r);
    }
    json_close(f.ref);
}

/* Several documents under several rules in one span, in pieces of uneven size, against each one
 * alone. */
static void test_packing_same_bytes(void **state) {
    (void)state;
    enum { DOCS = 6 };
    struct fixture f;
    struct rig r;
    struct err e = {0};
    struct vis_rule rules[6];
    rules_for_laws(rules);
    fixture_open(&f, "llama");
    rig_open(&r, FIXTURES "llama", best(DT_F32), 2);
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
    rig_open(&r, FIXTURES "llama", best(DT_F32), 2);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dev_equals_reference), cmocka_unit_test(test_span_sizes_same_bytes),
        cmocka_unit_test(test_families_same_bytes),  cmocka_unit_test(test_threads_same_bytes),
        cmocka_unit_test(test_packing_same_bytes),   cmocka_unit_test(test_given_up_span),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
