/* One document over several devices: the bytes of one device, for every kind of model and rule, however short the
 * cuts are; on `ref` and on whatever devices this program is linked for. */
#include "base/mem.h"
#include "tests/support_ops.h"
#include "tests/support_span.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST_DEVS = 4, MOST_TOKENS = 512 };

/* A model on several devices of one kind. */
struct team {
    struct model *model;
    struct dev *dev[MOST_DEVS];
    struct model_on *on[MOST_DEVS];
};

// list[i] of the devices under test; i < 0: ref.
static struct dev *open_kind(int i, int nth) {
    struct ops_dev list[8];
    if (i < 0) return ops_open_ref(DT_F32);
    ops_list(list);
    return ops_open_nth(&list[i], nth);
}

// name: of a fixture, or the text of a config.json. first: which of the devices comes first.
static void team_open(struct team *t, const char *name, int kind, int first) {
    struct err e = {0};
    char dir[256];
    snprintf(dir, sizeof dir, FIXTURES "%s", name);
    must(name[0] == '{' ? model_open_made(&t->model, "deep", name, 1, &e)
                        : model_open(&t->model, dir, &e),
         &e);
    for (int i = 0; i < MOST_DEVS; i++) {
        t->dev[i] = open_kind(kind, (first + i) % MOST_DEVS);
        must(model_on_open(&t->on[i], t->model, t->dev[i], &e), &e);
    }
}

static void team_close(struct team *t) {
    for (int i = 0; i < MOST_DEVS; i++) {
        model_on_close(t->on[i]);
        dev_close(t->dev[i]);
    }
    model_close(t->model);
}

static struct span *span_of(const struct team *t, int n_dev, int64_t n_row) {
    struct span *sp = NULL;
    struct err e = {0};
    const struct model_on *mo[MOST_DEVS];
    for (int i = 0; i < MOST_DEVS; i++) mo[i] = t->on[i];
    must(span_open_over(&sp, mo, n_dev, n_row, &e), &e);
    return sp;
}

/* What one document leaves: its log-probabilities and, after each of its spans but the last, the bytes of its cache. */
struct trace {
    double logp[MOST_TOKENS];
    struct sbuf caches;
};

static void run_document(struct trace *out, const struct team *t, int n_dev,
                         const struct vis_rule *rule, const int32_t *ids, int64_t n,
                         int64_t n_span) {
    struct err e = {0};
    struct cache *c = NULL;
    struct span *sp = span_of(t, n_dev, n_span);
    must(cache_open(&c, t->on[0], rule, &e), &e);
    sbuf_init(&out->caches);
    for (int64_t at = 0; at < n - 1; at += n_span) {
        const int64_t rows = n - 1 - at < n_span ? n - 1 - at : n_span;
        int64_t row = 0;
        const bool keep = at + rows < n - 1;
        must(span_add(sp, c, ids + at, ids + at + 1, rows, keep, &row, &e), &e);
        must(span_run(sp, NULL, &e), &e);
        memcpy(out->logp + at, span_logp(sp) + row, (size_t)rows * sizeof(double));
        if (keep) must(cache_save(c, &out->caches, &e), &e);
        span_clear(sp);
    }
    cache_close(c);
    span_close(sp);
}

static void same(const struct trace *a, const struct trace *b, int64_t n, const char *what) {
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(&a->logp[i], &b->logp[i], sizeof(double)) != 0)
            fail_msg("%s: token %d differs: %.17g and %.17g", what, (int)i, a->logp[i], b->logp[i]);
    }
    if (a->caches.n != b->caches.n || memcmp(a->caches.s, b->caches.s, a->caches.n) != 0)
        fail_msg("%s: the caches differ", what);
}

static void compare(const struct team *t, const char *name, int rule, int64_t n, int64_t n_span,
                    bool two) {
    struct fixture f; // what it says is as good as anything else
    struct vis_rule rules[6];
    static struct trace one, more;
    char what[128];
    rules_for_laws(rules);
    fixture_open(&f, "llama");
    if (n > f.n) n = f.n;
    run_document(&one, t, 1, &rules[rule], f.ids, n, n_span);
    for (int n_dev = two ? 2 : 4; n_dev <= MOST_DEVS; n_dev += 2) {
        run_document(&more, t, n_dev, &rules[rule], f.ids, n, n_span);
        snprintf(what, sizeof what, "%s, %.12s, rule %d, spans of %d over %d devices",
                 dev_describe(t->dev[0]), name, rule, (int)n_span, n_dev);
        same(&one, &more, n - 1, what);
        sbuf_fini(&more.caches);
    }
    sbuf_fini(&one.caches);
    json_close(f.ref);
}

/* Rotary, ALiBi, and layers with windows of their own; with sinks, without, dense, prefilled, in chunks; cuts that
 * are longer than the window of 28, shorter than it, and of two rows. */
static void test_same_bytes(void **state) {
    (void)state;
    static const char *const names[] = {"llama", "falcon_alibi", "gemma3"};
    struct ops_dev list[8];
    const int last = ops_list(list) - 1;
    for (size_t m = 0; m < COUNTOF(names); m++) {
        for (int kind = -1; kind <= last; kind++) {
            // One kind of each dtype, and ref.
            if (kind != 0 && kind != (ops_slow() ? 1 : last) && (kind >= 0 || m > 0)) continue;
            if (ops_slow() && kind != (m == 1 ? 0 : 1)) continue;
            struct team t;
            team_open(&t, names[m], kind, 0);
            for (int rule = 0; rule < 6; rule++) {
                if (ops_slow() && m > 0 && rule > 1) continue;
                if (!ops_slow() && kind > 0) compare(&t, names[m], rule, 300, 150, true);
                compare(&t, names[m], rule, 150, ops_slow() ? 70 : 61, !ops_slow() || rule == 0);
                if (!ops_slow() || (m == 0 && rule == 0)) compare(&t, names[m], rule, 40, 9, true);
            }
            team_close(&t);
        }
    }
}

/* Working buffers are used again two layers later: models of many layers, all alike and not, on devices that do
 * their work in different orders, whichever comes first. */
static void test_many_layers(void **state) {
    (void)state;
#define DEEP                                                                                       \
    "\"hidden_size\":32,\"intermediate_size\":40,\"num_hidden_layers\":7,"                         \
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"vocab_size\":256,"                      \
    "\"max_position_embeddings\":512,\"rms_norm_eps\":1e-5,\"head_dim\":16"
    static const char *const deep[] = {
        "{\"model_type\":\"llama\",\"hidden_act\":\"silu\"," DEEP "}",
        "{\"model_type\":\"gemma3_text\",\"hidden_activation\":\"gelu_pytorch_tanh\"," DEEP
        ",\"query_pre_attn_scalar\":16,\"rope_theta\":1000000,\"rope_local_base_freq\":10000,"
        "\"sliding_window\":9,\"sliding_window_pattern\":3}"};
    for (size_t m = 0; m < COUNTOF(deep); m++) {
        for (int first = 0; first < (ops_slow() ? MOST_DEVS : 1); first++) {
            struct team t;
            team_open(&t, deep[m], 0, first);
            compare(&t, deep[m], 0, 136, 45, true);
            team_close(&t);
        }
    }
}

// Documents with pieces in one span.
enum { DOCS = 5 };
struct pack {
    double logp[DOCS][MOST_TOKENS];
    struct sbuf caches;
};

/* Uneven pieces of several documents under several rules; some spans have fewer rows than devices. */
static void run_packed(struct pack *out, const struct team *t, int n_dev, const int32_t *ids) {
    static const int64_t from[DOCS] = {0, 30, 7, 111, 3}, len[DOCS] = {130, 60, 97, 70, 2};
    struct err e = {0};
    struct cache *c[DOCS];
    struct vis_rule rules[6];
    int64_t pos[DOCS] = {0};
    struct span *sp = span_of(t, n_dev, 61);
    rules_for_laws(rules);
    sbuf_init(&out->caches);
    for (int d = 0; d < DOCS; d++) must(cache_open(&c[d], t->on[0], &rules[d], &e), &e);
    for (int step = 0, left = DOCS; left > 0; step++) {
        int64_t row[DOCS], n[DOCS];
        left = 0;
        for (int d = 0; d < DOCS; d++) {
            n[d] = len[d] - 1 - pos[d];
            const int64_t piece = step == 0 ? d % 2 : (step * 5 + d * 3) % 37 + 1;
            if (n[d] > piece) n[d] = piece;
            if (n[d] > span_room(sp)) n[d] = span_room(sp);
            left += len[d] - 1 - pos[d] > n[d];
            if (n[d] == 0) continue;
            const int32_t *at = ids + from[d] + pos[d];
            must(span_add(sp, c[d], at, at + 1, n[d], pos[d] + n[d] < len[d] - 1, &row[d], &e), &e);
        }
        must(span_run(sp, NULL, &e), &e);
        for (int d = 0; d < DOCS; d++) {
            for (int64_t i = 0; i < n[d]; i++) out->logp[d][pos[d] + i] = span_logp(sp)[row[d] + i];
            pos[d] += n[d];
            if (step == 3) must(cache_save(c[d], &out->caches, &e), &e);
        }
        span_clear(sp);
    }
    for (int d = 0; d < DOCS; d++) cache_close(c[d]);
    span_close(sp);
}

static void test_packed_same_bytes(void **state) {
    (void)state;
    static struct pack one, more;
    struct fixture f;
    struct ops_dev list[8];
    const int last = ops_list(list) - 1;
    fixture_open(&f, "llama");
    for (int kind = ops_slow() ? last : -1; kind <= last; kind++) {
        if (kind > 0 && kind < last) continue;
        struct team t;
        team_open(&t, "llama", kind, 0);
        run_packed(&one, &t, 1, f.ids);
        for (int n_dev = 3; n_dev <= MOST_DEVS; n_dev++) {
            run_packed(&more, &t, n_dev, f.ids);
            assert_memory_equal(one.logp, more.logp, sizeof one.logp);
            assert_int_equal(one.caches.n, more.caches.n);
            assert_memory_equal(one.caches.s, more.caches.s, one.caches.n);
            sbuf_fini(&more.caches);
        }
        sbuf_fini(&one.caches);
        team_close(&t);
    }
    json_close(f.ref);
}

static bool asked(void *ctx) {
    int *left = ctx;
    return (*left)-- <= 0;
}

// The same cache, through an engine's buffers; copies may still be on their way.
static struct cache *hand_over(const struct team *t, const struct cache *c) {
    struct err e = {0};
    struct cache *next = NULL;
    const struct arch *a = model_arch(t->model);
    const int64_t sinks = cache_rule(c)->n_sink, rows = cache_rows(c, 0);
    must(cache_open(&next, t->on[0], cache_rule(c), &e), &e);
    must(cache_take_begin(next, cache_pos(c), &e), &e);
    for (int64_t l = 0; l < a->n_layer; l++) {
        struct cache_spot spot = {.dev = t->dev[0], .sink_row = 0, .low_row = sinks};
        must(buf_new(&spot.k, t->dev[0], BUF_KV, rows, a->n_kv * a->d_head, &e), &e);
        must(buf_new(&spot.v, t->dev[0], BUF_KV, rows, a->n_kv * a->d_head, &e), &e);
        cache_give(c, l, &spot);
        cache_take(next, l, &spot);
        buf_free(spot.k);
        buf_free(spot.v);
    }
    return next;
}

/* A span given up after any layer leaves the cache as it was, and a cache that was saved, or handed over, goes on
 * under any number of devices. */
static void test_given_up_and_restored(void **state) {
    (void)state;
    enum { ROWS = 40 };
    struct fixture f;
    struct team t;
    struct err e = {0};
    struct vis_rule rules[6];
    static struct trace whole;
    struct cache *c = NULL, *next = NULL;
    struct sbuf saved;
    rules_for_laws(rules);
    fixture_open(&f, "llama");
    team_open(&t, "llama", 0, 0);
    run_document(&whole, &t, 1, &rules[0], f.ids, 3 * ROWS + 1, 3 * ROWS);
    must(cache_open(&c, t.on[0], &rules[0], &e), &e);
    for (int64_t at = 0, n_dev = 4; n_dev >= 2; at += ROWS, n_dev--) {
        int64_t row = 0;
        size_t used = 0;
        struct span *sp = span_of(&t, (int)n_dev, ROWS);
        for (int layer = 0; layer <= 2; layer++) {
            int left = layer;
            const struct span_stop stop = {asked, &left};
            must(span_add(sp, c, f.ids + at, f.ids + at + 1, ROWS, true, &row, &e), &e);
            assert_int_equal(span_run(sp, &stop, &e), layer < 2 ? E_CANCEL : OK);
            assert_int_equal(cache_pos(c), layer < 2 ? at : at + ROWS);
            if (layer < 2) span_clear(sp);
        }
        assert_memory_equal(whole.logp + at, span_logp(sp) + row, ROWS * sizeof(double));
        span_close(sp);
        sbuf_init(&saved);
        must(cache_save(c, &saved, &e), &e);
        must(cache_open(&next, t.on[0], &rules[0], &e), &e);
        must(cache_restore(next, saved.s, saved.n, &used, &e), &e);
        cache_close(c);
        sbuf_fini(&saved);
        c = hand_over(&t, next);
        cache_close(next);
    }
    cache_close(c);
    sbuf_fini(&whole.caches);
    team_close(&t);
    json_close(f.ref);
}

/* Devices that do not compute the same bytes cannot share a document. */
static void test_mixed_kinds(void **state) {
    (void)state;
    struct ops_dev list[8];
    struct err e = {0};
    struct model *m = NULL;
    struct dev *d[3];
    struct model_on *on[3];
    struct span *sp = NULL;
    const int n = ops_list(list);
    int bf16 = 0;
    while (bf16 < n - 1 && list[bf16].compute != DT_BF16) bf16++;
    must(model_open(&m, FIXTURES "llama", &e), &e);
    for (int i = 0; i < 3; i++) {
        d[i] = open_kind(i == 0 ? -1 : i == 1 ? 0 : bf16, i);
        must(model_on_open(&on[i], m, d[i], &e), &e);
    }
    for (int i = 0; i < 2; i++) { // ref and another kind; f32 and bf16
        const struct model_on *mo[2] = {on[i], on[i + 1]};
        e = (struct err){0};
        assert_int_equal(span_open_over(&sp, mo, 2, 64, &e), E_ARG);
        assert_null(sp);
        assert_non_null(strstr(e.msg, "cannot share a document"));
    }
    for (int i = 0; i < 3; i++) {
        model_on_close(on[i]);
        dev_close(d[i]);
    }
    model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes),        cmocka_unit_test(test_many_layers),
        cmocka_unit_test(test_packed_same_bytes), cmocka_unit_test(test_given_up_and_restored),
        cmocka_unit_test(test_mixed_kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
