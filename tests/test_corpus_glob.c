/* Patterns for input files, in a small tree with hidden names, links and a loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "io/corpus.h"
#include "io/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static long g_allocations_left = -1; // the one after these fails; -1: none does

static bool fails(void) {
    if (g_allocations_left < 0) return false;
    return g_allocations_left-- == 0;
}

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_malloc(size_t n) {
    return fails() ? NULL : __real_malloc(n);
}
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size) {
    return fails() ? NULL : __real_calloc(n, size);
}
void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n) {
    return fails() ? NULL : __real_realloc(p, n);
}

static char g_dir[64];

static void make(const char *name, const char *bytes) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", g_dir, name);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    assert_int_equal(file_mkdirs(path, NULL), OK);
    *slash = '/';
    assert_int_equal(file_write_atomic(path, bytes, strlen(bytes), FILE_REPLACE, NULL, NULL), OK);
}

static void make_link(const char *name, const char *to) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", g_dir, name);
    assert_int_equal(symlink(to, path), 0);
}

static int setup(void **state) {
    (void)state;
    snprintf(g_dir, sizeof g_dir, "/tmp/basin-glob-XXXXXX");
    assert_non_null(mkdtemp(g_dir));
    make("b.txt", "22");
    make("a.txt", "1");
    make("B.txt", "333");
    make("c.jsonl", "");
    make(".hidden.txt", "");
    make("x[1].txt", "");
    make("x1.txt", "");
    make("\xc3\xa9.txt", "");
    make("d/a.txt", "");
    make("d/e/f/deep.txt", "");
    make("d/e/deep.txt", "");
    make("d/.git/no.txt", "");
    make("d.txt/inside.txt", "");
    make_link("d/e/loop", "../..");
    make_link("d/link.txt", "../b.txt");
    make_link("linked", "d");
    make("bad/good.txt", "");
    make_link("bad/dangling.txt", "nowhere");
    return 0;
}

static int teardown(void **state) {
    (void)state;
    return file_remove_tree(g_dir, NULL) == OK ? 0 : -1;
}

// The sources found, a blank behind each; or the error's name.
static void assert_glob(const char *pattern, const char *want) {
    struct corpus_list list = {0};
    struct err e = {.code = OK};
    struct sbuf got;
    sbuf_init(&got);
    const enum status st = corpus_glob(pattern, g_dir, &list, &e);
    if (st != OK) sbuf_puts(&got, err_name(st));
    for (size_t i = 0; i < list.n; i++) {
        struct stat sb;
        sbuf_printf(&got, "%s ", list.v[i].source);
        assert_int_equal(stat(list.v[i].path, &sb), 0);
        assert_int_equal(sb.st_size, list.v[i].bytes);
    }
    if (strcmp(sbuf_str(&got), want) != 0) {
        fail_msg("%s: wanted \"%s\", got \"%s\" %s", pattern, want, sbuf_str(&got), e.msg);
    }
    sbuf_fini(&got);
    corpus_list_fini(&list);
}

static void test_patterns(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"a.txt", "a.txt "},
        {"./a.txt", "./a.txt "},
        {"d/../a.txt", "d/../a.txt "},
        {"*.txt", "B.txt a.txt b.txt x1.txt x[1].txt \xc3\xa9.txt "},
        {"./*.jsonl", "./c.jsonl "},
        {"?.txt", "B.txt a.txt b.txt \xc3\xa9.txt "},
        {"[a-c].txt", "a.txt b.txt "},
        {"[!a-z].txt", "B.txt \xc3\xa9.txt "},
        {"[^a-zA-Z].txt", "\xc3\xa9.txt "},
        {"[\xc3\xa0-\xc3\xaf].txt", "\xc3\xa9.txt "},
        {"x[1].txt", "x[1].txt "}, // there under exactly this name
        {"x[12].txt", "x1.txt "},
        {"x[[]1].txt", "x[1].txt "},
        {"x[1]*.txt", "x1.txt "},
        {"x[1*.txt", "x[1].txt "}, // never closed: itself
        {"[]x]1.txt", "x1.txt "},
        {".*.txt", ".hidden.txt "},
        {"**/deep.txt", "d/e/deep.txt d/e/f/deep.txt "},
        {"d/**/*.txt", "d/a.txt d/e/deep.txt d/e/f/deep.txt d/link.txt "},
        {"d/**/**/*.txt", "d/a.txt d/e/deep.txt d/e/f/deep.txt d/link.txt "},
        {"d/**/e/**/*.txt", "d/e/deep.txt d/e/f/deep.txt "},
        {"d/e/**", "d/e/deep.txt d/e/f/deep.txt "},
        {"d//e///*.txt", "d/e/deep.txt "},
        {"linked/*.txt", "linked/a.txt linked/link.txt "},
        {"l*/a.txt", "linked/a.txt "},
        {"*/a.txt", "d/a.txt linked/a.txt "},
        {"d/*/no.txt", "input"},
        {"d/.*/no.txt", "d/.git/no.txt "},
        {"a*b*c*.txt", "input"},
        {"none.txt", "input"},
        {"none/**/x", "input"},
        {"a.txt/*", "input"},
        {"bad/dangling.txt", "input"},
        {"bad/*.txt", "input"}, // a link that leads nowhere is not left out without a word
        {"bad/g*.txt", "bad/good.txt "},
        {"d", "input"},
        {"", "input"},
    };
    for (size_t i = 0; i < COUNTOF(cases); i++) assert_glob(cases[i][0], cases[i][1]);
}

static void test_absolute(void **state) {
    (void)state;
    char pattern[128], want[256];
    snprintf(pattern, sizeof pattern, "%s/[ab].txt", g_dir);
    snprintf(want, sizeof want, "%s/a.txt %s/b.txt ", g_dir, g_dir);
    assert_glob(pattern, want);
    snprintf(pattern, sizeof pattern, "%s/a.txt", g_dir);
    snprintf(want, sizeof want, "%s/a.txt ", g_dir);
    assert_glob(pattern, want);
}

static void test_messages(void **state) {
    (void)state;
    struct corpus_list list = {0};
    struct err dir = {.code = OK}, none = {.code = OK}, empty = {.code = OK};
    assert_int_equal(corpus_glob("d/e", g_dir, &list, &dir), E_NOINPUT);
    assert_non_null(strstr(dir.msg, "write d/e/**/*.txt"));
    assert_int_equal(corpus_glob("z*.txt", g_dir, &list, &none), E_NOINPUT);
    assert_string_equal(none.msg, "z*.txt: no file matches");
    assert_int_equal(corpus_glob("none", g_dir, &list, &empty), E_NOINPUT);
    assert_non_null(strstr(empty.msg, "No such file"));
    assert_int_equal(list.n, 0);
    corpus_list_fini(&list);
    corpus_list_fini(NULL);
}

// Patterns append; a failing one leaves the list as it was. The working directory needs no base.
static void test_append_and_here(void **state) {
    (void)state;
    struct corpus_list list = {0};
    struct err e = {.code = OK};
    assert_int_equal(chdir(g_dir), 0);
    assert_int_equal(corpus_glob("b.txt", NULL, &list, &e), OK);
    assert_int_equal(corpus_glob("?.txt", ".", &list, &e), OK);
    assert_int_equal(corpus_glob("none*", "", &list, NULL), E_NOINPUT);
    assert_int_equal(list.n, 5);
    assert_string_equal(list.v[0].source, "b.txt");
    assert_string_equal(list.v[1].path, "B.txt");
    corpus_list_fini(&list);
    assert_int_equal(chdir("/"), 0);
}

// Stars that could match in many ways do not take exponential time.
static void test_many_stars(void **state) {
    (void)state;
    make("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "");
    assert_glob("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", "input");
}

static void test_allocations_fail(void **state) {
    (void)state;
    bool done = false;
    int k = 0;
    for (; !done; k++) {
        struct err e = {.code = OK};
        struct corpus_list list = {0};
        g_allocations_left = k;
        const enum status st = corpus_glob("d/**/*.txt", g_dir, &list, &e);
        done = g_allocations_left >= 0;
        g_allocations_left = -1;
        assert_int_equal(st, done ? OK : E_NOMEM);
        assert_int_equal(list.n, done ? 4 : 0);
        corpus_list_fini(&list);
    }
    assert_true(k > 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns),   cmocka_unit_test(test_absolute),
        cmocka_unit_test(test_messages),   cmocka_unit_test(test_append_and_here),
        cmocka_unit_test(test_many_stars), cmocka_unit_test(test_allocations_fail),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
