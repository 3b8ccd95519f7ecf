/* Models that are not what they should be: tests/data/invalid/model/CASE/ holds what differs from the llama
 * fixture (config.json, or an edit of the weights by name) and `error`: status name, message substring. */
#include "base/cpu.h"
#include "base/sbuf.h"
#include "core/span.h"
#include "io/file.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define CASES "tests/data/invalid/model"
#define FIXTURE "tests/data/fixtures/llama"

static void read_text(const char *path, struct sbuf *out) {
    struct err e = {0};
    sbuf_clear(out);
    if (file_read_all(path, 1 << 24, out, &e) != OK) fail_msg("%s", e.msg);
}

/* A model directory made of a case's files, the fixture's standing in for those it lacks. */
static void lay_out(const char *from, const char *dir) {
    static const char *const files[] = {"config.json", "model.safetensors",
                                        "model.safetensors.index.json"};
    char src[512], dst[512];
    struct sbuf b;
    struct err e = {0};
    sbuf_init(&b);
    for (size_t i = 0; i < COUNTOF(files); i++) {
        snprintf(src, sizeof src, "%s/%s", from, files[i]);
        if (access(src, F_OK) != 0) snprintf(src, sizeof src, FIXTURE "/%s", files[i]);
        if (access(src, F_OK) != 0) continue;
        read_text(src, &b);
        snprintf(dst, sizeof dst, "%s/%s", dir, files[i]);
        if (file_write_atomic(dst, b.s, b.n, FILE_REPLACE, NULL, &e) != OK) fail_msg("%s", e.msg);
    }
    sbuf_fini(&b);
}

static void make_tmp(char dir[64]) {
    snprintf(dir, 64, "/tmp/basin-model-XXXXXX");
    assert_non_null(mkdtemp(dir));
}

/* Opens the model and, if that works, runs a few rows: NaN weights are found when they are packed. */
static enum status open_and_run(const char *dir, struct err *e) {
    enum status st = OK;
    struct model *m = NULL;
    struct dev *d = NULL;
    struct model_on *on = NULL;
    struct span *sp = NULL;
    struct cache *c = NULL;
    const struct dev_config cfg = {.n_thread = 1, .isa = cpu_isa_best(), .compute = DT_F32};
    const struct vis_rule rule = {.n_sink = 4, .n_win = 8, .n_chunk = 1};
    int64_t row = 0;
    TRY(model_open(&m, dir, e));
    TRY(dev_open_cpu(&d, &cfg, e));
    TRY(model_on_open(&on, m, d, e));
    TRY(span_open(&sp, on, 4, e));
    TRY(cache_open(&c, on, &rule, e));
    TRY(span_add(sp, c, (int32_t[]){1, 2, 3, 4}, (int32_t[]){2, 3, 4, 5}, 4, false, &row, e));
    TRY(span_run(sp, NULL, e));
done:
    cache_close(c);
    span_close(sp);
    model_on_close(on);
    dev_close(d);
    model_close(m);
    return st;
}

static void test_invalid(void **state) {
    (void)state;
    DIR *d = opendir(CASES);
    assert_non_null(d);
    int n = 0;
    struct sbuf want;
    sbuf_init(&want);
    for (struct dirent *ent; (ent = readdir(d)) != NULL;) {
        if (ent->d_name[0] == '.') continue;
        char from[512], path[600], dir[64];
        struct err e = {0};
        snprintf(from, sizeof from, CASES "/%s", ent->d_name);
        snprintf(path, sizeof path, "%s/error", from);
        read_text(path, &want);
        make_tmp(dir);
        lay_out(from, dir);
        const enum status st = open_and_run(dir, &e);
        char *line = strtok(want.s, "\n");
        char *text = strtok(NULL, "\n");
        if (strcmp(err_name(st), line) != 0)
            fail_msg("%s: %s (%s), not %s", ent->d_name, err_name(st), e.msg, line);
        if (strstr(e.msg, text) == NULL)
            fail_msg("%s: \"%s\" does not say \"%s\"", ent->d_name, e.msg, text);
        assert_int_equal(file_remove_tree(dir, &e), OK);
        n++;
    }
    closedir(d);
    sbuf_fini(&want);
    assert_true(n >= 25);
}

/* The weight file is cut short after the model was opened: no row comes out, the message names the file. */
static void test_cut_while_mapped(void **state) {
    (void)state;
    char dir[64], path[128];
    struct err e = {0};
    struct model *m = NULL;
    struct dev *d = NULL;
    struct model_on *on = NULL;
    struct span *sp = NULL;
    struct cache *c = NULL;
    const struct dev_config cfg = {.n_thread = 2, .isa = cpu_isa_best(), .compute = DT_F32};
    const struct vis_rule rule = {.n_sink = 4, .n_win = 8, .n_chunk = 1};
    int64_t row = 0;
    make_tmp(dir);
    lay_out(FIXTURE, dir);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(model_open(&m, dir, &e), OK);
    assert_int_equal(dev_open_cpu(&d, &cfg, &e), OK);
    assert_int_equal(model_on_open(&on, m, d, &e), OK);
    assert_int_equal(span_open(&sp, on, 4, &e), OK);
    assert_int_equal(cache_open(&c, on, &rule, &e), OK);
    assert_int_equal(truncate(path, 20000), 0);
    assert_int_equal(span_add(sp, c, (int32_t[]){1, 2}, (int32_t[]){2, 3}, 2, true, &row, &e), OK);
    assert_int_equal(span_run(sp, NULL, &e), E_IO);
    assert_non_null(strstr(e.msg, "cut short"));
    assert_non_null(strstr(e.msg, "model.safetensors"));
    assert_int_equal(cache_pos(c), 0);
    cache_close(c);
    span_close(sp);
    model_on_close(on);
    dev_close(d);
    model_close(m);
    assert_int_equal(file_remove_tree(dir, &e), OK);
}

/* A model is told apart by its weights, not by its place. */
static void test_identity_changes(void **state) {
    (void)state;
    char dir[64], path[128];
    struct err e = {0};
    struct model *a = NULL, *b = NULL, *c = NULL;
    make_tmp(dir);
    lay_out(FIXTURE, dir);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(model_open(&a, FIXTURE, &e), OK);
    assert_int_equal(model_open(&b, dir, &e), OK);
    assert_string_equal(model_identity(a), model_identity(b));
    model_close(b);
    FILE *f = fopen(path, "r+b"); // the last weight of the last tensor
    assert_non_null(f);
    assert_int_equal(fseek(f, -2, SEEK_END), 0);
    assert_int_equal(fputc('!', f), '!');
    fclose(f);
    assert_int_equal(model_open(&c, dir, &e), OK);
    assert_string_not_equal(model_identity(a), model_identity(c));
    model_close(a);
    model_close(c);
    assert_int_equal(file_remove_tree(dir, &e), OK);
}

/* What inspection walks: every tensor once, each with the use that the family's table gives it. */
static void test_entries(void **state) {
    (void)state;
    struct model *m = NULL;
    struct err e = {0};
    struct model_entry t;
    assert_int_equal(model_open(&m, FIXTURE, &e), OK);
    const struct arch *a = model_arch(m);
    int64_t n = 0, n_query = 0, bytes = 0;
    for (size_t i = 0; model_entry_at(m, i, &t); i++) {
        n++;
        bytes += t.bytes;
        assert_non_null(t.use);
        assert_null(t.ignored);
        assert_int_equal(t.dim[0], arch_place(a, t.use->role, t.use->part).n_stored_rows);
        assert_int_equal(t.n_dim, arch_use(t.use->role) == WT_VECTOR ? 1 : 2);
        assert_int_equal(t.layer >= 0, t.use->role >= ARCH_NORM_ATTN);
        n_query += t.use->role == ARCH_Q;
    }
    assert_int_equal(bytes, model_file_bytes(m));
    assert_int_equal(n_query, a->n_layer);
    assert_true(n > 2 + 9 * a->n_layer);
    assert_false(model_entry_at(m, (size_t)n, &t));
    assert_true(span_weights_bytes(m, 4) > span_weights_bytes(m, 2));
    model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_while_mapped), // first: cmocka takes SIGBUS back after each test
        cmocka_unit_test(test_invalid),
        cmocka_unit_test(test_identity_changes),
        cmocka_unit_test(test_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
