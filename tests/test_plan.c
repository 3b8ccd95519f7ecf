#include "base/mem.h"
#include "io/json.h"
#include "jobs/plan.h"
#include "tests/alloc_fail.h"
#include "tests/support_tree.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

static char dir[TREE_PATH];

static int make_dir(void **state) {
    char sub[TREE_PATH];
    (void)state;
    tree_make(dir);
    snprintf(sub, sizeof sub, "%.400s/sub", dir);
    return mkdir(sub, 0777);
}

static int remove_dir(void **state) {
    (void)state;
    tree_remove(dir);
    return 0;
}

static void put(const char *name, size_t n) {
    char *bytes = calloc(1, n + 1);
    assert_non_null(bytes);
    tree_write(dir, name, bytes, n);
    free(bytes);
}

static struct manifest *manifest(const char *input) {
    struct manifest *m = NULL;
    struct json *j = NULL;
    struct sbuf text;
    struct err e = {.code = OK};
    sbuf_init(&text);
    sbuf_printf(&text,
                "{\"version\":1,\"job\":\"score\",\"model\":\"m\",\"input\":%s,\"output\":"
                "{\"path\":\"o\",\"part_bytes\":1024}}",
                input);
    assert_int_equal(json_open_text(&j, "job", text.s, text.n, NULL), OK);
    if (man_parse(&m, j, dir, 0, NULL, &e) != OK) fail_msg("%s", e.msg);
    json_close(j);
    sbuf_fini(&text);
    return m;
}

static struct plan *plan_of(const char *input, struct manifest **m) {
    struct plan *p = NULL;
    struct err e = {.code = OK};
    *m = manifest(input);
    if (plan_make(&p, *m, &e) != OK) fail_msg("%s", e.msg);
    return p;
}

static void assert_refused(const char *input, enum status want, const char *words) {
    struct plan *p = NULL;
    struct err e = {.code = OK};
    struct manifest *m = manifest(input);
    assert_int_equal(plan_make(&p, m, &e), want);
    assert_null(p);
    if (strstr(e.msg, words) == NULL) fail_msg("%s", e.msg);
    man_close(m);
}

static void assert_printed(const struct plan *p, const char *want) {
    struct sbuf text;
    sbuf_init(&text);
    plan_print(p, &text);
    assert_string_equal(sbuf_str(&text), want);
    sbuf_fini(&text);
}

static void test_gathering_and_cutting(void **state) {
    (void)state;
    struct manifest *m = NULL;
    put("a.txt", 500);
    put("b.txt", 523);
    put("c.txt", 1);
    put("d.jsonl", 2049);
    put("e.txt", 0);
    put("sub/f.txt", 3000);
    put("sub/g.jsonl", 0);
    put("sub/h.txt", 7);
    put("sub/i.jsonl", 1024);
    struct plan *p = plan_of("[\"sub/*\",\"*.txt\",\"d.jsonl\"]", &m);
    assert_printed(
        p,
        "[{\"part\":0,\"bytes\":1024,\"slices\":[{\"source\":\"a.txt\",\"begin\":0,\"end\":500},"
        "{\"source\":\"b.txt\",\"begin\":0,\"end\":523},{\"source\":\"c.txt\",\"begin\":0,\"end\":"
        "1}"
        "]},"
        "{\"part\":1,\"bytes\":1024,\"slices\":[{\"source\":\"d.jsonl\",\"begin\":0,\"end\":1024}]}"
        ","
        "{\"part\":2,\"bytes\":1024,\"slices\":[{\"source\":\"d.jsonl\",\"begin\":1024,\"end\":"
        "2048}"
        "]},"
        "{\"part\":3,\"bytes\":1,\"slices\":[{\"source\":\"d.jsonl\",\"begin\":2048,\"end\":2049}]}"
        ","
        "{\"part\":4,\"bytes\":3000,\"slices\":[{\"source\":\"e.txt\",\"begin\":0,\"end\":0},"
        "{\"source\":\"sub/f.txt\",\"begin\":0,\"end\":3000}]},"
        "{\"part\":5,\"bytes\":0,\"slices\":[{\"source\":\"sub/g.jsonl\",\"begin\":0,\"end\":0}]},"
        "{\"part\":6,\"bytes\":7,\"slices\":[{\"source\":\"sub/h.txt\",\"begin\":0,\"end\":7}]},"
        "{\"part\":7,\"bytes\":1024,\"slices\":[{\"source\":\"sub/"
        "i.jsonl\",\"begin\":0,\"end\":1024"
        "}]}]");
    assert_int_equal(p->bytes, 500 + 523 + 1 + 2049 + 3000 + 7 + 1024);
    // Every byte of every file is in exactly one slice, in order.
    for (int i = 0, last = -1; i < p->n_slice; i++) {
        const struct corpus_file *f = &p->slices[i].file;
        const bool same = last >= 0 && strcmp(p->slices[last].file.source, f->source) == 0;
        assert_int_equal(f->begin, same ? p->slices[last].file.end : 0);
        if (last >= 0 && !same) {
            assert_int_equal(p->slices[last].file.end, p->slices[last].bytes);
            assert_true(strcmp(p->slices[last].file.source, f->source) < 0);
        }
        assert_int_equal(f->size, p->slices[i].bytes);
        last = i;
    }
    plan_free(p);
    man_close(m);
}

// A compressed file is a part of its own, of its compressed size, and ends the gathering.
static void test_compressed(void **state) {
    (void)state;
    struct manifest *m = NULL;
    put("p.txt", 5);
    put("q.txt.gz", 7);
    put("r.txt", 5);
    put("s.jsonl.zst", 5000);
    put("t.txt.lz4", 0);
    struct plan *p = plan_of("[\"[p-t].*\"]", &m);
    assert_printed(
        p, "[{\"part\":0,\"bytes\":5,\"slices\":[{\"source\":\"p.txt\",\"begin\":0,\"end\":5}]},"
           "{\"part\":1,\"bytes\":7,\"slices\":[{\"source\":\"q.txt.gz\",\"begin\":0,\"end\":-1}]},"
           "{\"part\":2,\"bytes\":5,\"slices\":[{\"source\":\"r.txt\",\"begin\":0,\"end\":5}]},"
           "{\"part\":3,\"bytes\":5000,\"slices\":[{\"source\":\"s.jsonl.zst\",\"begin\":0,"
           "\"end\":-1}]},"
           "{\"part\":4,\"bytes\":0,\"slices\":[{\"source\":\"t.txt.lz4\",\"begin\":0,"
           "\"end\":-1}]}]");
    assert_int_equal(p->bytes, 5 + 7 + 5 + 5000);
    const enum unpack_kind kinds[] = {UNPACK_NONE, UNPACK_GZIP, UNPACK_NONE, UNPACK_ZSTD,
                                      UNPACK_LZ4};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(p->slices[i].file.packing, kinds[i]);
        assert_int_equal(plan_slice_bytes(&p->slices[i]), p->parts[i].bytes);
    }
    assert_null(p->slices[1].file.text_key);
    assert_string_equal(p->slices[3].file.text_key, "text");
    plan_free(p);
    man_close(m);
}

static void test_keys(void **state) {
    (void)state;
    struct manifest *m = NULL;
    put("x.log", 10);
    put("y.jsonl", 10);
    put("z.txt", 10);
    struct plan *p = plan_of("[{\"path\":\"[x-z].*\",\"ids_key\":\"t\",\"id_key\":\"n\","
                             "\"invalid_utf8\":\"replace\"}, \"-\"]",
                             &m);
    assert_int_equal(p->n_slice, 4);
    const struct corpus_file *stdin_file = &p->slices[0].file;
    assert_string_equal(stdin_file->source, "-");
    assert_int_equal(stdin_file->kind, CORPUS_TXT);
    assert_null(stdin_file->id_key);
    assert_int_equal(stdin_file->size, -1);
    assert_int_equal(p->parts[0].bytes, -1);
    assert_int_equal(p->slices[0].bytes, -1);
    for (int i = 1; i < 3; i++) {
        const struct corpus_file *f = &p->slices[i].file;
        assert_int_equal(f->kind, CORPUS_JSONL);
        assert_string_equal(f->ids_key, "t");
        assert_string_equal(f->id_key, "n");
        assert_null(f->text_key);
        assert_int_equal(f->invalid_utf8, CORPUS_UTF8_REPLACE);
    }
    assert_int_equal(p->slices[3].file.kind, CORPUS_TXT);
    assert_null(p->slices[3].file.ids_key);
    assert_null(p->slices[3].file.id_key);
    plan_free(p);
    man_close(m);
    p = plan_of("[{\"path\":\"-\",\"text_key\":\"t\"}, \"y.jsonl\"]", &m);
    assert_int_equal(p->slices[0].file.kind, CORPUS_JSONL);
    assert_string_equal(p->slices[0].file.text_key, "t");
    assert_string_equal(p->slices[1].file.text_key, "text");
    assert_string_equal(p->slices[1].file.id_key, "id");
    plan_free(p);
    man_close(m);
}

static void test_refused(void **state) {
    (void)state;
    char input[TREE_PATH * 2];
    put("k.txt", 1);
    put("k.log", 1);
    put("y.jsonl", 1);
    put("k.txt.xz", 1);
    assert_refused("[\"k.txt\",\"*.txt\"]", E_ARG,
                   "k.txt is matched by $.input[0] and by $.input[1]");
    assert_refused("[\"sub/../k.txt\",\"./k.txt\"]", E_ARG, "by $.input[0] and by $.input[1]");
    snprintf(input, sizeof input, "[\"k.t?t\",\"k.log\",\"%s/k.txt\"]", dir);
    assert_refused(input, E_ARG, "$.input[1]: ");
    snprintf(input, sizeof input, "[\"k.t?t\",\"y.jsonl\",\"%s/k.txt\"]", dir);
    assert_refused(input, E_ARG, "by $.input[0] and by $.input[2]");
    assert_refused("\"k.log\"", E_ARG, "$.input[0]: ");
    assert_refused("\"k.txt.xz\"", E_UNSUPPORTED, ".xz");
    assert_refused("[\"k.txt\",\"gone.txt\"]", E_NOINPUT, "$.input[1]: ");
}

static void test_no_memory(void **state) {
    (void)state;
    put("a.txt", 10);
    put("b.jsonl", 9000);
    struct manifest *m = manifest("[\"*.txt\",\"*.jsonl\",\"-\"]");
    for (long k = 0;; k++) {
        struct plan *p = NULL;
        int rank_of[32];
        g_fail_at = k;
        enum status st = plan_make(&p, m, NULL);
        if (st == OK) st = plan_deal(p, 3, rank_of, NULL);
        const bool reached = g_fail_at < 0;
        g_fail_at = -1;
        plan_free(p);
        assert_int_equal(st, reached ? E_NOMEM : OK);
        if (!reached) break;
    }
    man_close(m);
}

static uint32_t next(uint32_t *x) {
    *x = *x * 1664525u + 1013904223u;
    return *x >> 8;
}

// No rank has more than the average and one largest part; the largest parts are dealt first.
static void test_deal(void **state) {
    (void)state;
    uint32_t x = 1;
    for (int round = 0; round < 200; round++) {
        struct plan_part parts[64];
        int rank_of[64], again[64];
        int64_t load[9] = {0}, largest = 0, total = 0;
        const int n_part = (int)(next(&x) % 64) + 1, n_rank = (int)(next(&x) % 9) + 1;
        for (int i = 0; i < n_part; i++) {
            const int64_t bytes = round % 3 == 0 ? 5 : (int64_t)(next(&x) % 1000);
            parts[i] = (struct plan_part){.bytes = bytes};
            if (bytes > largest) largest = bytes;
            total += bytes;
        }
        const struct plan p = {.parts = parts, .n_part = n_part};
        assert_int_equal(plan_deal(&p, n_rank, rank_of, NULL), OK);
        assert_int_equal(plan_deal(&p, n_rank, again, NULL), OK);
        assert_memory_equal(rank_of, again, (size_t)n_part * sizeof *again);
        for (int i = 0; i < n_part; i++) {
            assert_in_range(rank_of[i], 0, n_rank - 1);
            load[rank_of[i]] += parts[i].bytes;
        }
        for (int i = 0; i < n_rank; i++) assert_true(load[i] <= total / n_rank + largest);
    }
    struct plan_part parts[] = {
        {.bytes = 3}, {.bytes = 9}, {.bytes = -1}, {.bytes = 4}, {.bytes = 9}};
    const struct plan p = {.parts = parts, .n_part = 5};
    int rank_of[5];
    assert_int_equal(plan_deal(&p, 3, rank_of, NULL), OK);
    const int want[] = {2, 0, 2, 2, 1};
    assert_memory_equal(rank_of, want, sizeof want);
    assert_int_equal(plan_deal(&p, 0, rank_of, NULL), E_ARG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_gathering_and_cutting, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_compressed, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_keys, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_refused, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_no_memory, make_dir, remove_dir),
        cmocka_unit_test(test_deal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
