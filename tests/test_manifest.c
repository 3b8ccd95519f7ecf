#include "io/manifest.h"

#include "io/json.h"
#include "tests/alloc_fail.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define INVALID "tests/data/invalid/manifest"
#define VALID "tests/data/valid/manifest"
#define HEAD "{\"version\":1,\"job\":\"score\",\"model\":\"m\","

static enum status parse(struct manifest **out, const char *text, unsigned flags,
                         struct man_problems *p, struct err *e) {
    struct json *doc = NULL;
    *out = NULL;
    enum status st = json_open_text(&doc, "t.json", text, strlen(text), e);
    if (st == OK) st = man_parse(out, doc, "dir", flags, p, e);
    json_close(doc);
    return st;
}

static struct manifest *parse_good(const char *text) {
    struct manifest *m = NULL;
    struct err e = {.code = OK};
    if (parse(&m, text, 0, NULL, &e) != OK) print_error("%s\n", e.msg);
    assert_non_null(m);
    return m;
}

/* ---- what is read ---- */

static void test_defaults(void **state) {
    (void)state;
    struct manifest *m = parse_good(HEAD "\"input\":\"a.jsonl\",\"output\":{\"path\":\"o\"}}");
    assert_int_equal(m->version, 1);
    assert_int_equal(m->job, MAN_SCORE);
    assert_string_equal(m->dir, "dir");
    assert_string_equal(m->model_path, "m");
    assert_int_equal(m->n_inputs, 1);
    assert_string_equal(m->inputs[0].path, "a.jsonl");
    assert_string_equal(m->inputs[0].text_key, "text");
    assert_string_equal(m->inputs[0].id_key, "id");
    assert_null(m->inputs[0].ids_key);
    assert_int_equal(m->inputs[0].invalid_utf8, MAN_UTF8_FAIL);
    assert_int_equal(m->n_settings, 1);
    const struct man_setting *s = &m->settings[0];
    assert_string_equal(s->name, "sink");
    assert_int_equal(s->mode, MAN_SINK);
    assert_int_equal(s->sink_tokens, 4);
    assert_int_equal(s->window_tokens, 1020);
    assert_int_equal(s->prefill, MAN_PREFILL_STREAM);
    assert_int_equal(s->prefill_tokens, 0);
    assert_int_equal(s->chunk_tokens, 1);
    assert_false(s->strict_window);
    assert_false(m->score.tokens);
    assert_int_equal(m->score.limit_tokens, 0);
    assert_int_equal(m->score.add_bos, MAN_BOS_AUTO);
    assert_string_equal(m->output.path, "o");
    assert_int_equal(m->output.part_bytes, 67108864);
    assert_int_equal(m->compute.dtype, MAN_DTYPE_AUTO);
    assert_int_equal(m->compute.span_tokens, 0);
    man_close(m);
    man_close(NULL);
}

static void test_settings(void **state) {
    (void)state;
    struct manifest *m = NULL;
    struct err e = {.code = OK};
    struct man_problems p;
    man_problems_init(&p);
    assert_int_equal(man_load(&m, VALID "/settings.json", NULL, 0, &p, &e), OK);
    assert_int_equal(p.n_errors, 0);
    assert_int_equal(p.n_warnings, 0);
    assert_int_equal(m->n_settings, 7);
    assert_int_equal(m->settings[0].mode, MAN_DENSE);
    assert_int_equal(m->settings[0].sink_tokens, 0);
    assert_int_equal(m->settings[0].window_tokens, 0);
    assert_int_equal(m->settings[1].mode, MAN_WINDOW);
    assert_int_equal(m->settings[1].sink_tokens, 0);
    assert_int_equal(m->settings[2].sink_tokens, 0);
    assert_int_equal(m->settings[2].window_tokens, 1);
    assert_int_equal(m->settings[3].sink_tokens, 65536); // by their aliases
    assert_int_equal(m->settings[3].window_tokens, 2048);
    assert_int_equal(m->settings[4].prefill, MAN_PREFILL_DENSE);
    assert_int_equal(m->settings[4].prefill_tokens, 16777216);
    assert_int_equal(m->settings[5].chunk_tokens, 1048576);
    assert_true(m->settings[5].strict_window);
    assert_string_equal(m->settings[6].name, "w\xc3\xa4hlbar \"q\"");
    man_close(m);
    assert_int_equal(man_load(&m, VALID "/ids.json", NULL, 0, &p, &e), OK);
    assert_string_equal(m->dir, VALID);
    assert_string_equal(m->inputs[0].ids_key, "token_ids");
    assert_string_equal(m->inputs[0].id_key, "doc");
    assert_null(m->inputs[0].text_key);
    assert_string_equal(m->settings[0].name, "mine");
    man_close(m);
    assert_int_equal(man_load(&m, VALID "/limits_high.json", NULL, 0, &p, &e), OK);
    assert_int_equal(m->score.add_bos, MAN_BOS_TRUE);
    assert_int_equal(m->compute.dtype, MAN_DTYPE_F32);
    assert_null(m->inputs[0].text_key); // a .txt file has no keys
    assert_null(m->inputs[0].id_key);
    man_close(m);
    assert_int_equal(man_load(&m, VALID "/single_input_object.json", NULL, 0, &p, &e), OK);
    assert_string_equal(m->inputs[0].path, "-");
    assert_string_equal(m->inputs[0].text_key, "body");
    assert_int_equal(m->inputs[0].invalid_utf8, MAN_UTF8_REPLACE);
    man_close(m);
    man_problems_fini(&p);
}

static void test_generate(void **state) {
    (void)state;
    struct manifest *m = NULL;
    struct err e = {.code = OK};
    struct man_problems p;
    man_problems_init(&p);
    assert_int_equal(man_load(&m, VALID "/generate.json", NULL, 0, &p, &e), OK);
    assert_int_equal(p.n_warnings, 0);
    const struct man_generate *g = &m->generate;
    assert_int_equal(m->job, MAN_GENERATE);
    assert_int_equal(g->max_new_tokens, 200);
    assert_int_equal(g->min_new_tokens, 2);
    assert_true(g->temperature == 0.8 && g->top_p == 0.95 && g->min_p == 0.05);
    assert_int_equal(g->top_k, 40);
    assert_true(g->repetition_penalty == 1.1 && g->presence_penalty == -2);
    assert_true(g->frequency_penalty == 2);
    assert_int_equal(g->n_stop, 2);
    assert_string_equal(g->stop[1], "</s>");
    assert_int_equal(g->n_stop_ids, 2);
    assert_int_equal(g->stop_ids[1], 7);
    assert_true(g->ignore_eos && g->token_ids && !g->tokens);
    assert_int_equal(g->logprobs, 5);
    assert_int_equal(g->streams, 4096);
    assert_int_equal(g->n_bias, 2);
    assert_true(g->bias[0].id == 5 && g->bias[0].bias == 1.5 && g->bias[1].bias == -100);
    assert_int_equal(g->n_bad_words, 1);
    assert_int_equal(g->turn, MAN_TURN_ROOM);
    assert_string_equal(g->template, "chatml");
    assert_int_equal(man_add_bos(m), MAN_BOS_FALSE);
    assert_string_equal(m->inputs[1].messages_key, "turns");
    assert_string_equal(m->inputs[1].text_key, "text");
    assert_null(m->inputs[2].messages_key);
    assert_int_equal(m->settings[0].prefill_tokens, 0);
    man_close(m);
    assert_int_equal(man_load(&m, VALID "/generate_minimal.json", NULL, 0, NULL, &e), OK);
    assert_true(m->generate.temperature == 0 && m->generate.top_p == 1);
    assert_true(m->generate.repetition_penalty == 1);
    assert_int_equal(m->generate.logprobs, -1);
    assert_int_equal(m->generate.contrastive_window, MAN_CONTRASTIVE_WINDOW);
    assert_string_equal(m->generate.template, "auto");
    assert_string_equal(m->inputs[0].messages_key, "messages");
    assert_false(man_wants_tokens(m));
    man_close(m);
    assert_int_equal(man_load(&m, VALID "/generate_endless.json", NULL, 0, NULL, &e), OK);
    assert_true(m->generate.temperature == 1);
    assert_true(man_wants_tokens(m));
    man_close(m);
    man_problems_fini(&p);
}

// The largest list and the longest name that are read.
static void test_full_list(void **state) {
    (void)state;
    struct sbuf b;
    sbuf_init(&b);
    sbuf_puts(&b, HEAD "\"output\":{\"path\":\"o\"},\"input\":\"a\",\"cache\":[");
    for (int i = 1; i <= 64; i++) {
        sbuf_printf(&b, "%s{\"name\":\"%064d\",\"window_tokens\":%d}", i > 1 ? "," : "", i, i);
    }
    sbuf_puts(&b, "]}");
    struct manifest *m = parse_good(sbuf_str(&b));
    assert_int_equal(m->n_settings, 64);
    assert_int_equal(m->settings[63].window_tokens, 64);
    man_close(m);
    sbuf_fini(&b);
}

static void test_output_optional(void **state) {
    (void)state;
    struct manifest *m = NULL;
    assert_int_equal(parse(&m, HEAD "\"input\":\"a.txt\"}", 0, NULL, NULL), E_FORMAT);
    assert_null(m);
    assert_int_equal(parse(&m, HEAD "\"input\":\"a.txt\"}", MAN_NO_OUTPUT, NULL, NULL), OK);
    assert_null(m->output.path);
    struct sbuf b;
    sbuf_init(&b);
    man_canonical(m, &b);
    assert_null(strstr(sbuf_str(&b), "output"));
    sbuf_fini(&b);
    man_close(m);
    const char *no_path = HEAD "\"input\":\"a.txt\",\"output\":{\"part_bytes\":2048}}";
    assert_int_equal(parse(&m, no_path, MAN_NO_OUTPUT, NULL, NULL), OK);
    man_close(m);
}

static void test_paths(void **state) {
    (void)state;
    static const struct {
        const char *dir, *path, *want;
    } rows[] = {{"a/b", "c.txt", "a/b/c.txt"}, {"a", "/c", "/c"}, {"a", "-", "-"},
                {".", "c/*.txt", "c/*.txt"},   {"/", "c", "/c"},  {"a/", "c", "a/c"},
                {"a", "../c", "a/../c"},       {".", "-x", "-x"}};
    for (size_t i = 0; i < COUNTOF(rows); i++) {
        char dir[8];
        snprintf(dir, sizeof dir, "%s", rows[i].dir);
        const struct manifest m = {.dir = dir};
        struct sbuf b;
        sbuf_init(&b);
        man_path(&m, rows[i].path, &b);
        assert_string_equal(sbuf_str(&b), rows[i].want);
        sbuf_fini(&b);
    }
}

/* ---- findings ---- */

static void test_every_error_at_once(void **state) {
    (void)state;
    static const char text[] = "{ \"version\": 1,\n"
                               "  \"compute\": {\"dtype\": \"int4\"},\n"
                               "  \"job\": \"probe\", \"model\": \"m\",\n"
                               "  \"cache\": [\n"
                               "    {\"name\": \"a\", \"sink_token\": 1},\n"
                               "    {\"name\": \"a\", \"window_tokens\": 0}\n"
                               "  ],\n"
                               "  \"score\": {\"tokens\": 0},\n"
                               "  \"input\": [\"x.txt\",\n"
                               "            {}]\n"
                               "}";
    static const struct {
        int line;
        const char *path;
        enum status code;
    } want[] = {{1, "$.output", E_FORMAT},
                {2, "$.compute.dtype", E_FORMAT},
                {3, "$.job", E_UNSUPPORTED},
                {5, "$.cache[0].sink_token", E_FORMAT},
                {6, "$.cache[1].window_tokens", E_FORMAT},
                {6, "$.cache[1].name", E_FORMAT},
                {8, "$.score.tokens", E_FORMAT},
                {10, "$.input[1].path", E_FORMAT}};
    struct manifest *m = NULL;
    struct err e = {.code = OK};
    struct man_problems p;
    man_problems_init(&p);
    assert_int_equal(parse(&m, text, 0, &p, &e), E_FORMAT);
    assert_null(m);
    assert_int_equal(p.n_errors, COUNTOF(want));
    for (size_t i = 0; i < COUNTOF(want); i++) {
        assert_string_equal(p.errors[i].path, want[i].path);
        assert_int_equal(p.errors[i].line, want[i].line);
        assert_int_equal(p.errors[i].code, want[i].code);
    }
    assert_string_equal(e.msg, "t.json:1: $.output: is missing");
    man_problems_fini(&p);
    assert_null(p.errors);
}

// The sinks that another program's window_length includes may be named as that program names them.
static void test_foreign_names_together(void **state) {
    (void)state;
    static const char text[] = HEAD "\"input\":\"a\",\"output\":{\"path\":\"o\"},\"cache\":"
                                    "{\"window_length\":256,\"num_sink_tokens\":6}}";
    struct manifest *m = NULL;
    struct man_problems p;
    man_problems_init(&p);
    assert_int_equal(parse(&m, text, 0, &p, NULL), E_FORMAT);
    assert_int_equal(p.n_errors, 2);
    assert_non_null(strstr(p.errors[0].message, "write \"window_tokens\": 250 (without the 6"));
    assert_non_null(strstr(p.errors[1].message, "write \"sink_tokens\": 6"));
    man_problems_fini(&p);
}

static void test_warnings(void **state) {
    (void)state;
    static const char text[] =
        HEAD "\"output\":{\"path\":\"o\"},\n"
             "\"input\":[{\"path\":\"a.txt\",\"text_key\":\"t\"},\n"
             "{\"path\":\"b.txt.zst\",\"id_key\":\"t\"},\n"
             "{\"path\":\"c.jsonl\",\"ids_key\":\"i\",\"invalid_utf8\":\"replace\"}],\n"
             "\"cache\":[{\"name\":\"a\",\"prefill\":\"dense\",\"prefill_tokens\":1024},\n"
             "{\"name\":\"b\",\"prefill\":\"dense\",\"prefill_tokens\":1025},\n"
             "{\"name\":\"c\",\"prefill\":\"dense\",\"prefill_tokens\":1025}]}";
    static const char *const places[] = {"$.input[0].text_key", "$.input[1].id_key",
                                         "$.input[2].invalid_utf8", "$.cache[0].prefill_tokens",
                                         "$.cache[2]"};
    struct manifest *m = NULL;
    struct man_problems p;
    man_problems_init(&p);
    assert_int_equal(parse(&m, text, 0, &p, NULL), OK);
    assert_int_equal(p.n_errors, 0);
    assert_int_equal(p.n_warnings, COUNTOF(places));
    for (size_t i = 0; i < COUNTOF(places); i++) {
        assert_string_equal(p.warnings[i].path, places[i]);
        assert_int_equal(p.warnings[i].line, i + (i < 4 ? 2 : 3));
        assert_int_equal(p.warnings[i].code, OK);
    }
    man_close(m);
    man_problems_fini(&p);
}

static void test_many_findings(void **state) {
    (void)state;
    struct manifest *m = NULL;
    struct man_problems p;
    man_problems_init(&p);
    struct sbuf b;
    sbuf_init(&b);
    sbuf_puts(&b, HEAD "\"output\":{\"path\":\"o\"},\"input\":[1");
    for (int i = 1; i < 1200; i++) sbuf_puts(&b, ",1");
    sbuf_puts(&b, "]}");
    assert_int_equal(parse(&m, sbuf_str(&b), 0, &p, NULL), E_FORMAT);
    assert_int_equal(p.n_errors, 1000);
    man_problems_fini(&p);
    sbuf_clear(&b);
    sbuf_puts(&b, HEAD "\"output\":{\"path\":\"o\"},\"input\":[\"a\"");
    for (int i = 0; i < 65536; i++) sbuf_puts(&b, ",\"a\"");
    sbuf_puts(&b, "]}");
    struct err e = {.code = OK};
    assert_int_equal(parse(&m, sbuf_str(&b), 0, NULL, &e), E_FORMAT);
    assert_string_equal(e.msg, "t.json:1: $.input: 65537 elements; at most 65536 are read");
    sbuf_fini(&b);
}

/* ---- --set ---- */

static void test_set(void **state) {
    (void)state;
    static const struct {
        const char *text, *set, *want;
    } rows[] = {
        {"{\"a\": 1}", "a=2", "{\"a\": 2}"},
        {"{\"a\": 1}", "a=x", "{\"a\": \"x\"}"},
        {"{\"a\": 1}", "a=", "{\"a\": \"\"}"},
        {"{\"a\": 1}", "a=\"8\"", "{\"a\": \"8\"}"},
        {"{\"a\": 1}", "a=NaN", "{\"a\": \"NaN\"}"},
        {"{\"a\": 1}", "a=b=c", "{\"a\": \"b=c\"}"},
        {"{\"a\": 1}", "a={\"b\":\n[1]}", "{\"a\": {\"b\": [1]}}"},
        {"{\"a\": 1}", "a={\"b\":", "{\"a\": \"{\\\"b\\\":\"}"},
        {"{\"a\":\n {\"b\": [1,{ \"c\" : true } ]}}\n", "a.b.1.c=null",
         "{\"a\":\n {\"b\": [1,{ \"c\" : null } ]}}\n"},
        {"{}", "a=1", "{\"a\":1}"},
        {"{ \"a\": {} }", "b=1", "{\"b\":1, \"a\": {} }"},
        {"{ \"a\": {} }", "a.b.c=1", "{ \"a\": {\"b\":{\"c\":1}} }"},
        {"{\"a\": {\"b\": 2}}", "a.c=d", "{\"a\": {\"c\":\"d\",\"b\": 2}}"},
    };
    for (size_t i = 0; i < COUNTOF(rows); i++) {
        struct sbuf b;
        sbuf_init(&b);
        sbuf_puts(&b, rows[i].text);
        struct err e = {.code = OK};
        assert_int_equal(man_set(&b, "t.json", rows[i].set, &e), OK);
        assert_string_equal(sbuf_str(&b), rows[i].want);
        sbuf_fini(&b);
    }
}

static void test_set_wrong(void **state) {
    (void)state;
    static const struct {
        const char *text, *set;
        enum status code;
        const char *message;
    } rows[] = {
        {"{\"a\": 1}", "a", E_ARG, "\"a\" is not of the form key=value"},
        {"{\"a\": 1}", "=1", E_ARG, "an empty name in the key \"\""},
        {"{\"a\": 1}", "a..b=1", E_ARG, "an empty name in the key \"a..b\""},
        {"{\"a\": {}}", "a.=1", E_ARG, "an empty name in the key \"a.\""},
        {"{\"a\": {}}", "a.b..c=1", E_ARG, "an empty name in the key \"a.b..c\""},
        {"{\"a\": 1}", "a.b=1", E_ARG, "cannot set a.b: $.a has no element \"b\""},
        {"{\"a\": [1]}", "a.1=1", E_ARG, "cannot set a.1: $.a has no element \"1\""},
        {"{\"a\": [1]}", "a.x=1", E_ARG, "cannot set a.x: $.a has no element \"x\""},
        {"{\"a\": [1]}", "a.-1=1", E_ARG, "cannot set a.-1: $.a has no element \"-1\""},
        {"{\"a\": 1}", "a=\xff", E_ARG, "the value set for a is not UTF-8"},
        {"{\"a\": 1}", "\xff=1", E_ARG, "is not UTF-8"},
        {"{\"\\u0061\": 1}", "a=1", E_ARG, "cannot set a: a name with brackets or escapes"},
        {"{\"a[0]\": 1}", "a[0]=1", E_ARG, "cannot set a[0]: a name with brackets or escapes"},
        {"[1]", "0=1", E_FORMAT, "t.json:1: $: must be an object, found array"},
        {"{", "a=1", E_FORMAT, "t.json:1:"},
    };
    for (size_t i = 0; i < COUNTOF(rows); i++) {
        struct sbuf b;
        sbuf_init(&b);
        sbuf_puts(&b, rows[i].text);
        struct err e = {.code = OK};
        const enum status st = man_set(&b, "t.json", rows[i].set, &e);
        if (st != rows[i].code || strstr(e.msg, rows[i].message) == NULL) {
            fail_msg("%s: got %s: %s", rows[i].set, err_name(st), e.msg);
        }
        assert_string_equal(sbuf_str(&b), rows[i].text);
        sbuf_fini(&b);
    }
}

static void test_load_with_sets(void **state) {
    (void)state;
    static const char *const good[] = {"cache.sink_tokens=8", "output.path=elsewhere",
                                       "input.0.path=x.txt", "compute.dtype=f32"};
    static const char *const bad[] = {"cache.sink_tokens=8", "compute.dtype=f23"};
    static const char *const ugly[] = {"cache"};
    struct manifest *m = NULL;
    struct err e = {.code = OK};
    assert_int_equal(man_load(&m, VALID "/full.json", good, 4, NULL, &e), OK);
    assert_int_equal(m->settings[0].sink_tokens, 8);
    assert_string_equal(m->output.path, "elsewhere");
    assert_string_equal(m->inputs[0].path, "x.txt");
    assert_int_equal(m->compute.dtype, MAN_DTYPE_F32);
    man_close(m);
    assert_int_equal(man_load(&m, VALID "/full.json", bad, 2, NULL, &e), E_FORMAT);
    assert_null(m);
    assert_string_equal(e.msg,
                        VALID "/full.json:13: $.compute.dtype: \"f23\" is not one of "
                              "\"auto\", \"f32\", \"bf16\", \"int8\"; did you mean \"f32\"?");
    struct err e2 = {.code = OK};
    assert_int_equal(man_load(&m, VALID "/full.json", ugly, 1, NULL, &e2), E_ARG);
    struct err e3 = {.code = OK};
    assert_int_equal(man_load(&m, VALID "/no-such.json", NULL, 0, NULL, &e3), E_NOINPUT);
}

/* ---- canonical form ---- */

static void test_canonical_text(void **state) {
    (void)state;
    static const char want[] =
        "{\"cache\":[{\"chunk_tokens\":1,\"mode\":\"sink\",\"name\":\"sink\","
        "\"prefill\":\"stream\",\"sink_tokens\":4,\"strict_window\":false,"
        "\"window_tokens\":1020}],"
        "\"compute\":{\"dtype\":\"auto\",\"span_tokens\":0},"
        "\"input\":[{\"invalid_utf8\":\"fail\",\"path\":\"corpus/**/*.txt\"},"
        "{\"id_key\":\"id\",\"invalid_utf8\":\"fail\",\"path\":\"docs.jsonl.zst\","
        "\"text_key\":\"text\"},"
        "{\"id_key\":\"id\",\"ids_key\":\"token_ids\",\"invalid_utf8\":\"fail\","
        "\"path\":\"ids.jsonl\"}],"
        "\"job\":\"score\",\"model\":{\"path\":\"m.gguf\"},"
        "\"output\":{\"part_bytes\":67108864,\"path\":\"out/books\"},"
        "\"score\":{\"add_bos\":\"auto\",\"limit_tokens\":0,\"tokens\":true},\"version\":1}";
    struct manifest *m = NULL;
    struct sbuf b;
    sbuf_init(&b);
    assert_int_equal(man_load(&m, VALID "/full.json", NULL, 0, NULL, NULL), OK);
    man_canonical(m, &b);
    assert_string_equal(sbuf_str(&b), want);
    sbuf_fini(&b);
    man_close(m);
}

static void test_round_trip(void **state) {
    (void)state;
    DIR *d = opendir(VALID);
    assert_non_null(d);
    int n = 0;
    for (struct dirent *de = readdir(d); de != NULL; de = readdir(d)) {
        if (de->d_name[0] == '.') continue;
        char path[400];
        snprintf(path, sizeof path, "%s/%s", VALID, de->d_name);
        struct manifest *m = NULL, *again = NULL;
        struct err e = {.code = OK};
        struct sbuf a, b;
        struct man_problems p;
        sbuf_init(&a);
        sbuf_init(&b);
        man_problems_init(&p);
        if (man_load(&m, path, NULL, 0, NULL, &e) != OK) fail_msg("%s", e.msg);
        man_canonical(m, &a);
        if (parse(&again, sbuf_str(&a), 0, &p, &e) != OK) fail_msg("%s: %s", path, e.msg);
        assert_int_equal(p.n_warnings, 0);
        man_canonical(again, &b);
        assert_string_equal(sbuf_str(&a), sbuf_str(&b));
        sbuf_fini(&a);
        sbuf_fini(&b);
        man_close(m);
        man_close(again);
        n++;
    }
    closedir(d);
    assert_true(n >= 8);
}

/* ---- memory that runs out ---- */

// Fails each allocation in turn until man_load ends as it does with enough memory.
static long fail_each(const char *path, const char *const *sets, int n_set, enum status want) {
    long k = 0;
    for (enum status st = E_NOMEM; st != want; k++) {
        struct manifest *m = NULL;
        struct man_problems p;
        struct err e = {.code = OK};
        man_problems_init(&p);
        g_fail_at = k;
        st = man_load(&m, path, sets, n_set, &p, &e);
        const bool reached = g_fail_at < 0;
        g_fail_at = -1;
        assert_int_equal(e.code, st);
        assert_true(st == want || st == E_NOMEM);
        assert_int_equal(st == E_NOMEM, reached); // no failed allocation goes unnoticed
        man_close(m);
        man_problems_fini(&p);
        assert_true(k < 5000);
    }
    return k;
}

static void test_no_memory(void **state) {
    (void)state;
    static const char *const sets[] = {"cache.sink_tokens=8", "output.path=x", "a.b.c=d"};
    assert_true(fail_each(VALID "/settings.json", NULL, 0, OK) > 20);
    assert_true(fail_each(VALID "/full.json", sets, 2, OK) > 40);
    assert_true(fail_each(VALID "/full.json", sets, 3, E_FORMAT) > 40);
    assert_true(fail_each(VALID "/generate.json", NULL, 0, OK) > 20);
    assert_true(fail_each(INVALID "/list_same_name/manifest.json", NULL, 0, E_FORMAT) > 10);
}

/* ---- the schema ---- */

static void test_schema(void **state) {
    (void)state;
    struct sbuf b;
    struct json *doc = NULL;
    struct err e = {.code = OK};
    sbuf_init(&b);
    man_schema(&b);
    assert_int_equal(sbuf_status(&b, &e), OK);
    assert_int_equal(json_open_text(&doc, "schema", b.s, b.n, &e), OK);
    const struct jnode *keys = json_get(json_root(doc), "properties");
    assert_int_equal(json_len(keys), 9);
    assert_non_null(json_get(keys, "cache"));
    json_close(doc);
    sbuf_fini(&b);
    long k = 0;
    for (bool failed = true; failed; k++) { // the k-th allocation fails, and that is not lost
        g_fail_at = k;
        man_schema(&b);
        failed = g_fail_at < 0;
        g_fail_at = -1;
        assert_int_equal(sbuf_status(&b, NULL), failed ? E_NOMEM : OK);
        sbuf_fini(&b);
        sbuf_init(&b);
    }
    assert_true(k > 3);
}

/* ---- tests/data/invalid ---- */

static void test_invalid(void **state) {
    (void)state;
    DIR *d = opendir(INVALID);
    assert_non_null(d);
    int n = 0, failed = 0;
    for (struct dirent *de = readdir(d); de != NULL; de = readdir(d)) {
        if (de->d_name[0] == '.') continue;
        char path[400], status[300], message[300];
        snprintf(path, sizeof path, "%s/%s/error", INVALID, de->d_name);
        FILE *f = fopen(path, "r");
        assert_non_null(f);
        assert_non_null(fgets(status, sizeof status, f));
        assert_non_null(fgets(message, sizeof message, f));
        status[strcspn(status, "\n")] = message[strcspn(message, "\n")] = '\0';
        fclose(f);
        snprintf(path, sizeof path, "%s/%s/manifest.json", INVALID, de->d_name);
        struct manifest *m = NULL;
        struct err e = {.code = OK};
        struct man_problems p;
        man_problems_init(&p);
        const enum status st = man_load(&m, path, NULL, 0, &p, &e);
        // One mistake is one finding: what follows from it is not reported on top.
        const bool good = strcmp(err_name(st), status) == 0 && st == e.code && m == NULL &&
                          strlen(message) > 0 && strstr(e.msg, message) != NULL && p.n_errors <= 1;
        if (!good) print_error("%s (%zu): got %s: %s\n", path, p.n_errors, err_name(st), e.msg);
        failed += !good;
        man_close(m);
        man_problems_fini(&p);
        n++;
    }
    closedir(d);
    assert_int_equal(failed, 0);
    assert_true(n >= 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_generate),
        cmocka_unit_test(test_full_list),
        cmocka_unit_test(test_output_optional),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_every_error_at_once),
        cmocka_unit_test(test_foreign_names_together),
        cmocka_unit_test(test_warnings),
        cmocka_unit_test(test_many_findings),
        cmocka_unit_test(test_set),
        cmocka_unit_test(test_set_wrong),
        cmocka_unit_test(test_load_with_sets),
        cmocka_unit_test(test_canonical_text),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_schema),
        cmocka_unit_test(test_invalid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
