/* The stream engine on whatever device this program is linked for, as jobs use it: prompts through a handle for
 * blocks, steps on a handle for steps. The reference's recorded continuations; bits that do not depend on who else
 * is there; saves. */
#include "io/json.h"
#include "tests/support_ops.h"
#include "tests/support_stream.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define FIXTURES "tests/data/fixtures/"

static void rig_on(struct gen_rig *r, const char *name, struct ops_dev on) {
    char dir[256];
    snprintf(dir, sizeof dir, FIXTURES "%s", name);
    struct ops_dev steps = on;
    steps.purpose = DEV_STEPS;
    gen_rig_on(r, dir, ops_open(&on, 1), ops_open(&steps, 1));
}

/* The last device of the list that computes in `dtype`. */
static struct ops_dev best(enum dtype dtype) {
    struct ops_dev list[8];
    int i = ops_list(list) - 1;
    while (list[i].compute != dtype) i--;
    return list[i];
}

/* ---- what the reference generated */

enum { RECORDED = 14, RECORDED_OF_5 = 8 }; // continuations of the models below

static int ids_of(const struct jnode *from, const char *key, int32_t *ids, int most) {
    const struct jnode *list = json_get(from, key);
    const int n = list != NULL ? (int)json_len(list) : 0;
    assert_true(n <= most);
    for (int i = 0; i < n; i++) ids[i] = (int32_t)json_int(json_at(list, (size_t)i));
    return n;
}

static void same_ids(const char *what, const struct gen_doc *d, const int32_t *want, int n) {
    if (d->n != n) fail_msg("%s: %d ids, not %d (%s)", what, (int)d->n, n, d->why);
    for (int i = 0; i < n; i++)
        if (d->ids[i] != want[i])
            fail_msg("%s: id %d is %d, recorded %d", what, i, d->ids[i], want[i]);
}

// A model's two continuations, both in one engine. Returns how many there are.
static int continue_one(const char *name) {
    static struct gen_doc docs[2];
    static int32_t ids[2][256];
    struct gen_doc *all[2] = {&docs[0], &docs[1]};
    int32_t prompt[64];
    struct gen_rig r;
    struct err e = {0};
    struct json *ref = NULL;
    char path[256];
    snprintf(path, sizeof path, FIXTURES "%s/ref.json", name);
    gen_must(json_open(&ref, path, 1 << 22, &e), &e);
    const struct jnode *g = json_get(json_root(ref), "generate");
    const int n_prompt = ids_of(g, "prompt", prompt, COUNTOF(prompt));
    const bool dense = json_get(g, "dense") != NULL;
    struct vis_rule rule = {.dense = dense, .n_chunk = 1, .n_prefill = dense ? 0 : n_prompt};
    if (!dense) {
        rule.n_sink = json_int(json_get(g, "S"));
        rule.n_win = json_int(json_get(g, "W"));
    }
    const int n[2] = {ids_of(g, "greedy", ids[0], COUNTOF(ids[0])),
                      ids_of(g, "contrastive", ids[1], COUNTOF(ids[1]))};
    rig_on(&r, name, best(DT_F32));
    struct stream *st = gen_engine(&r, 2, 4);
    for (int i = 0; i < 2; i++) {
        gen_doc_init(&docs[i], &rule, prompt, n_prompt, n[i]);
        if (i == 1) docs[i].how.penalty_alpha = 0.6, docs[i].how.samp.top_k = 4;
        if (n[i] > 0) gen_enter(&r, st, &docs[i]);
    }
    while (stream_live(st) > 0) gen_step(st, all, 2);
    stream_close(st);
    for (int i = 0; i < 2; i++)
        if (n[i] > 0) same_ids(name, &docs[i], ids[i], n[i]);
    gen_rig_close(&r);
    json_close(ref);
    return (n[0] > 0) + (n[1] > 0);
}

static void test_continues_as_recorded(void **state) {
    (void)state;
    static const char *const names[] = {"llama", "gemma3", "gptj", "falcon_alibi", "gpt2",
                                        "qwen3", "mpt",    "qwen", "phi3"};
    const size_t n_name = ops_slow() ? 5 : COUNTOF(names);
    int n = 0;
    for (size_t i = 0; i < n_name; i++) n += continue_one(names[i]);
    assert_int_equal(n, ops_slow() ? RECORDED_OF_5 : RECORDED);
}

/* ---- many streams */

enum { CROWD = 64 };
static struct gen_doc alone[CROWD], together[CROWD];
static int32_t text[400];

static int setup(void **state) {
    (void)state;
    struct err e = {0};
    struct json *ref = NULL;
    gen_must(json_open(&ref, FIXTURES "llama/ref.json", 1 << 22, &e), &e);
    ids_of(json_root(ref), "ids", text, COUNTOF(text));
    json_close(ref);
    return 0;
}

// Document i: prompts, rules and ways of choosing that differ.
static void crowd_doc(struct gen_doc *d, int i) {
    static const struct samp_bias bias[] = {{17, 2.5}, {3, -4}};
    static const int32_t words[] = {6, 6, 56};
    static const struct samp_word bad[] = {{words, 1}, {words + 1, 2}};
    static const struct vis_rule rules[] = {
        {.n_sink = 4, .n_win = 28, .n_chunk = 1},
        {.n_sink = 0, .n_win = 20, .n_chunk = 1},
        {.dense = true, .n_chunk = 1},
        {.n_sink = 4, .n_win = 12, .n_chunk = 1, .n_prefill = 50},
        {.n_sink = 2, .n_win = 9, .n_chunk = 4, .strict = true}};
    gen_doc_init(d, &rules[i % 5], text + 3 * i, 1 + (i * 37) % 23, 2 + i % 2);
    d->how.key = samp_key(11, "crowd", 5, i);
    if (i % 2 == 1) d->how.samp.temperature = 0.9;
    if (i % 3 == 1) d->how.samp.top_p = 0.9;
    if (i % 4 == 1) d->how.samp.top_k = 30;
    if (i % 6 == 5) d->how.samp.min_p = 0.05;
    if (i % 3 == 2) d->how.samp.repetition_penalty = 1.2;
    if (i % 7 == 3) d->how.samp.bias = bias, d->how.samp.n_bias = 2;
    if (i % 7 == 4) d->how.samp.bad = bad, d->how.samp.n_bad = 2;
    if (i % 8 == 6) {
        d->how.penalty_alpha = 0.4;
        d->how.samp.temperature = 0;
        d->how.samp.top_k = 4;
    }
    d->how.n_logprob = i % 3 == 0 ? 5 : 0;
}

/* All of them through n_slot slots; after `move` steps they are saved, and go on in a new engine. */
static void run_together(const struct gen_rig *r, int n, int n_slot, int move) {
    struct gen_doc *docs[CROWD];
    struct stream *st = gen_engine(r, n_slot, 4);
    int entered = 0;
    for (int i = 0; i < n; i++) {
        crowd_doc(&together[i], i);
        docs[i] = &together[i];
    }
    for (int steps = 0; entered < n || stream_live(st) > 0; steps++) {
        while (entered < n && stream_room(st) > 0) gen_enter(r, st, &together[entered++]);
        if (move > 0 && steps == move) st = gen_move(r, st, docs, n, n_slot);
        gen_step(st, docs, n);
    }
    stream_close(st);
}

static void compare(const char *what, int n) {
    char name[64];
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s, document %d", what, i);
        gen_same(name, &alone[i], &together[i]);
    }
}

static void crowd(enum dtype dtype, int n, int n_slot, int move) {
    struct gen_rig r;
    rig_on(&r, "llama", best(dtype));
    for (int i = 0; i < n; i++) {
        crowd_doc(&alone[i], i);
        gen_run(&r, &alone[i]);
        assert_int_equal(alone[i].end, STREAM_LENGTH);
    }
    run_together(&r, n, n, move);
    compare("all at once", n);
    if (n_slot > 0) run_together(&r, n, n_slot, 0);
    if (n_slot > 0) compare("a few slots", n);
    gen_rig_close(&r);
}

static void test_crowd_same_bits(void **state) {
    (void)state;
    crowd(DT_BF16, CROWD, 8, 0);
}

static void test_saved_same_bits(void **state) {
    (void)state;
    crowd(DT_F32, 10, 0, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_continues_as_recorded),
        cmocka_unit_test(test_crowd_same_bits),
        cmocka_unit_test(test_saved_same_bits),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
