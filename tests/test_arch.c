/* What config.json may say: every field of every family with values that it must not have, unknown fields and
 * tensors, older names. */
#include "base/mem.h"
#include "core/arch.h"
#include "core/model.h"
#include "io/json.h"
#include "tests/support_score.h"
#include "tests/support_tree.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FIXTURES "tests/data/fixtures/"

static void must(enum status st, const struct err *e) {
    if (st != OK) fail_msg("%s: %s", err_name(st), e->msg);
}

/* config.json of a fixture with the value at `key` ("a" or "group.a") replaced by `value`, or put in. */
static void with(struct sbuf *out, const char *fixture, const char *key, const char *value) {
    char path[160], dir[160];
    size_t begin = 0, end = 0;
    struct json *j = NULL;
    struct err e = {0};
    struct sbuf text;
    sbuf_init(&text);
    snprintf(dir, sizeof dir, FIXTURES "%s", fixture);
    assert_true(tree_read(dir, "config.json", &text));
    must(json_open_text(&j, "config.json", text.s, text.n, &e), &e);
    snprintf(path, sizeof path, "$.%s", key);
    const bool there = json_span(j, path, &begin, &end);
    sbuf_clear(out);
    sbuf_add(out, text.s, there ? begin : begin + 1); // else: of the object that would hold it
    const char *name = strrchr(key, '.') != NULL ? strrchr(key, '.') + 1 : key;
    if (!there) sbuf_printf(out, "\"%s\": ", name);
    sbuf_puts(out, value);
    if (!there) sbuf_puts(out, ",\n");
    sbuf_puts(out, text.s + (there ? end : begin + 1));
    json_close(j);
    sbuf_fini(&text);
}

static enum status read_text(const struct sbuf *text, struct arch *a, struct err *e) {
    struct json *j = NULL;
    enum status st = json_open_text(&j, "config.json", text->s, text->n, e);
    if (st == OK) st = arch_read(a, j, e);
    json_close(j);
    return st;
}

static void refused(const char *fixture, const char *key, const char *value, enum status want) {
    struct arch *a = NULL;
    struct sbuf text;
    struct err e = {0};
    char path[160];
    sbuf_init(&text);
    with(&text, fixture, key, value);
    must(mem_zalloc(&a, 1, sizeof *a, &e), &e);
    const enum status st = read_text(&text, a, &e);
    snprintf(path, sizeof path, "$.%s", key);
    if (st != want || strstr(e.msg, path) == NULL)
        fail_msg("%s, %s: %s: %s \"%s\", not %s", fixture, key, value, err_name(st), e.msg,
                 err_name(want));
    mem_free(a);
    sbuf_fini(&text);
}

/* What a field of each kind must not be. */
static const struct wrong {
    enum arch_field_kind kind;
    const char *value;
    enum status status;
} wrongs[] = {
    {FIELD_INT, "\"7\"", E_FORMAT},
    {FIELD_INT, "1.5", E_FORMAT},
    {FIELD_INT, "0", E_FORMAT},
    {FIELD_INT, "-1", E_FORMAT},
    {FIELD_INT, "1125899906842624", E_FORMAT},
    {FIELD_INT, "[]", E_FORMAT},
    {FIELD_NUM, "\"1\"", E_FORMAT},
    {FIELD_NUM, "true", E_FORMAT},
    {FIELD_NUM, "0", E_FORMAT},
    {FIELD_NUM, "-0.5", E_FORMAT},
    {FIELD_NUM, "1e300", E_FORMAT},
    {FIELD_BOOL, "1", E_FORMAT},
    {FIELD_BOOL, "\"true\"", E_FORMAT},
    {FIELD_BOOL, "{}", E_FORMAT},
    {FIELD_ACT, "3", E_FORMAT},
    {FIELD_ACT, "\"mish\"", E_UNSUPPORTED},
    {FIELD_ACT, "\"\"", E_UNSUPPORTED},
    {FIELD_FALSE, "true", E_UNSUPPORTED},
    {FIELD_FALSE, "1", E_UNSUPPORTED},
    {FIELD_FALSE, "{\"a\": 1}", E_UNSUPPORTED},
    {FIELD_TRUE, "false", E_UNSUPPORTED},
    {FIELD_TRUE, "0", E_UNSUPPORTED},
    {FIELD_WORD, "\"another\"", E_UNSUPPORTED},
    {FIELD_WORD, "5", E_UNSUPPORTED},
    {FIELD_LOCAL, "7", E_FORMAT},
    {FIELD_LOCAL, "[]", E_FORMAT},
    {FIELD_LOCAL, "[\"full_attention\"]", E_FORMAT}, // of a model with more layers
    {FIELD_LOCAL, "[\"linear_attention\"]", E_UNSUPPORTED},
    {FIELD_LOCAL, "[3]", E_UNSUPPORTED},
    {FIELD_GROUP, "3", E_FORMAT},
    {FIELD_GROUP, "{\"no_such_field\": 1}", E_UNSUPPORTED},
    {FIELD_ROPE, "3", E_FORMAT},
    {FIELD_ROPE, "{}", E_FORMAT},
    {FIELD_ROPE, "{\"rope_type\": 3}", E_FORMAT},
    {FIELD_ROPE, "{\"rope_type\": \"dynamic\", \"factor\": 2.0}", E_UNSUPPORTED},
    {FIELD_ROPE, "{\"rope_type\": \"linear\"}", E_FORMAT},
    {FIELD_ROPE, "{\"rope_type\": \"linear\", \"factor\": 0}", E_FORMAT},
    {FIELD_ROPE, "{\"rope_type\": \"linear\", \"factor\": -2}", E_FORMAT},
    {FIELD_ROPE, "{\"rope_type\": \"linear\", \"factor\": 1e200}", E_FORMAT},
    {FIELD_ROPE, "{\"rope_type\": \"linear\", \"factor\": \"2\"}", E_FORMAT},
    {FIELD_ROPE, "{\"rope_type\": \"yarn\", \"factor\": 2.0, \"no_such_field\": 1}", E_UNSUPPORTED},
    {FIELD_ROPE, "{\"rope_type\": \"longrope\"}", E_FORMAT},
    {FIELD_ROPE, "{\"rope_type\": \"longrope\", \"short_factor\": 1, \"long_factor\": [1]}",
     E_FORMAT},
    {FIELD_ROPE, "{\"rope_type\": \"longrope\", \"short_factor\": [1], \"long_factor\": [\"1\"]}",
     E_FORMAT},
    {FIELD_ROPE, "{\"rope_type\": \"longrope\", \"short_factor\": [0], \"long_factor\": [1]}",
     E_FORMAT},
    {FIELD_ROPE, "{\"rope_type\": \"longrope\", \"short_factor\": [1, -1], \"long_factor\": [1]}",
     E_FORMAT},
};

/* The first fixture of each family. */
struct tried {
    const struct arch_family *family[64];
    int n_family, n_field, n_case;
};

static const struct arch_family *first_of_family(struct tried *t, const char *dir) {
    struct model *m = NULL;
    struct err e = {0};
    must(model_open(&m, dir, &e), &e);
    const struct arch_family *f = model_arch(m)->family;
    model_close(m);
    for (int i = 0; i < t->n_family; i++) {
        if (t->family[i] == f) return NULL;
    }
    assert_true(t->n_family < 64);
    t->family[t->n_family++] = f;
    return f;
}

static void assert_all_families(const struct tried *t) {
    int n = 0;
    while (arch_family_at(n) != NULL) n++;
    assert_int_equal(t->n_family, n);
}

static void try_fields(const char *dir, void *ctx) {
    struct tried *t = ctx;
    const struct arch_family *f = first_of_family(t, dir);
    const char *fixture = dir + strlen(FIXTURES);
    for (int k = 0; f != NULL && k < f->n_field; k++, t->n_field++) {
        int tried = 0;
        for (size_t w = 0; w < COUNTOF(wrongs); w++) {
            if (wrongs[w].kind != f->fields[k].kind) continue;
            refused(fixture, f->fields[k].key, wrongs[w].value, wrongs[w].status);
            tried++;
        }
        assert_true(tried > 0 || f->fields[k].kind == FIELD_IGNORED);
        t->n_case += tried;
    }
    if (f != NULL) refused(fixture, "no_such_field", "1", E_UNSUPPORTED);
}

static void test_every_field(void **state) {
    (void)state;
    struct tried t = {{NULL}, 0, 0, 0};
    support_fixtures(try_fields, &t);
    assert_all_families(&t);
    print_message("%d fields, %d cases\n", t.n_field, t.n_case);
    assert_true(t.n_case > 1200);
}

/* Numbers that are right by themselves and cannot be together. */
static void test_settled(void **state) {
    (void)state;
    refused("qwen", "rotary_pct", "0.2", E_FORMAT); // 3 dimensions
    refused("qwen_logn", "rotary_pct", "0.5", E_UNSUPPORTED);
    refused("qwen_logn", "seq_length", "1", E_FORMAT);
    refused("phi3", "partial_rotary_factor", "0.01", E_FORMAT);
    refused("gptj", "rotary_dim", "64", E_FORMAT);
    refused("gptj", "rotary_dim", "7", E_FORMAT);
    refused("opt", "word_embed_proj_dim", "32", E_UNSUPPORTED);
    refused("falcon_new", "num_kv_heads", "3", E_FORMAT);
    refused("falcon_new", "n_layer", "3", E_FORMAT); // num_hidden_layers says otherwise
    refused("gpt_neox_hd24", "rotary_emb_base", "30000", E_FORMAT);
    refused("btlm", "n_embd", "128", E_FORMAT);
    refused("phi3_long", "rope_scaling",
            "{\"type\": \"longrope\", \"short_factor\": [1, 1], \"long_factor\": [1, 1]}",
            E_FORMAT);
    refused("phi3_long", "rope_scaling",
            "{\"type\": \"longrope\", \"short_factor\": [1,1,1,1,1,1,1,1], \"long_factor\": [1]}",
            E_FORMAT);
    refused("llama", "rope_scaling", // nothing says where the original context ends
            "{\"type\": \"longrope\", \"short_factor\": [1,1,1,1,1,1,1,1],"
            " \"long_factor\": [1,1,1,1,1,1,1,1]}",
            E_UNSUPPORTED);
}

/* A tensor more than the family has a place for is refused by name. */
static void try_tensor(const char *from, void *ctx) {
    static const char head[] =
        ",\"model.layers.0.surprise.weight\":{\"dtype\":\"F32\",\"shape\":[1],"
        "\"data_offsets\":[%zu,%zu]}}";
    char dir[TREE_PATH], more[200];
    struct sbuf b, out;
    struct model *m = NULL;
    struct err e = {0};
    uint64_t n = 0;
    if (first_of_family(ctx, from) == NULL) return;
    sbuf_init(&b);
    sbuf_init(&out);
    tree_make(dir);
    assert_true(tree_read(from, "config.json", &b));
    tree_write(dir, "config.json", b.s, b.n);
    assert_true(tree_read(from, "model.safetensors", &b));
    memcpy(&n, b.s, sizeof n);
    const size_t body = 8 + (size_t)n, bytes = b.n - body;
    size_t end = body;
    while (b.s[end - 1] != '}') end--;
    snprintf(more, sizeof more, head, bytes, bytes + 4);
    n = (uint64_t)(end - 1 - 8 + strlen(more));
    sbuf_add(&out, (const char *)&n, sizeof n);
    sbuf_add(&out, b.s + 8, end - 1 - 8);
    sbuf_puts(&out, more);
    sbuf_add(&out, b.s + body, bytes);
    sbuf_add(&out, "\0\0\0\0", 4);
    tree_write(dir, "model.safetensors", out.s, out.n);
    const enum status st = model_open(&m, dir, &e);
    if (st != E_UNSUPPORTED || strstr(e.msg, "model.layers.0.surprise.weight") == NULL)
        fail_msg("%s: %s: %s", from, err_name(st), e.msg);
    tree_remove(dir);
    sbuf_fini(&b);
    sbuf_fini(&out);
}

static void test_unknown_tensor(void **state) {
    (void)state;
    struct tried t = {{NULL}, 0, 0, 0};
    support_fixtures(try_tensor, &t);
    assert_all_families(&t);
}

static void replace(struct sbuf *text, const char *from, const char *to) {
    struct sbuf out;
    sbuf_init(&out);
    const char *at = strstr(text->s, from);
    assert_non_null(at);
    sbuf_add(&out, text->s, (size_t)(at - text->s));
    sbuf_puts(&out, to);
    sbuf_puts(&out, at + strlen(from));
    sbuf_clear(text);
    sbuf_add(text, out.s, out.n);
    sbuf_fini(&out);
}

/* Falcon before it was called that: other names of fields, the same model. */
static void test_refined_web(void **state) {
    (void)state;
    static const struct {
        const char *fixture, *type;
        bool groups;
    } old[] = {{"falcon_new", "RefinedWeb", true},
               {"falcon_mq", "RefinedWebModel", false},
               {"falcon_alibi", "RefinedWebModel", false}};
    const struct vis_rule rule = {.n_sink = 4, .n_win = 28, .n_chunk = 1};
    const struct score_on on = {"cpu", cpu_isa_best(), DT_F32, DEV_BLOCKS, false};
    int32_t ids[100];
    double want[99], got[99];
    for (int i = 0; i < 100; i++) ids[i] = (i * 37 + 11) % 256;
    for (size_t i = 0; i < COUNTOF(old); i++) {
        char from[160], dir[TREE_PATH];
        struct sbuf b;
        sbuf_init(&b);
        tree_make(dir);
        snprintf(from, sizeof from, FIXTURES "%s", old[i].fixture);
        assert_true(tree_read(from, "model.safetensors", &b));
        tree_write(dir, "model.safetensors", b.s, b.n);
        assert_true(tree_read(from, "config.json", &b));
        replace(&b, "\"falcon\"",
                old[i].type[10] == 'M' ? "\"RefinedWebModel\"" : "\"RefinedWeb\"");
        replace(&b, "num_attention_heads", "n_head");
        replace(&b, "num_hidden_layers", "n_layer");
        if (old[i].groups) {
            replace(&b, "num_kv_heads", "n_head_kv");
            replace(&b, "\"new_decoder_architecture\": true,", "");
        }
        tree_write(dir, "config.json", b.s, b.n);
        support_score(from, &on, &rule, ids, 100, 100, want);
        support_score(dir, &on, &rule, ids, 100, 100, got);
        assert_memory_equal(want, got, sizeof want);
        tree_remove(dir);
        sbuf_fini(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_field),
        cmocka_unit_test(test_settled),
        cmocka_unit_test(test_unknown_tensor),
        cmocka_unit_test(test_refined_web),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
