/* What status, cat, stats and verify say: of finished parts, of unfinished ones, and of parts that
 * are published while they are being read. */
#include "base/mem.h"
#include "jobs/ledger_impl.h"
#include "jobs/report.h"
#include "tests/support_job.h"
#include "tests/support_tree.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

static char base[TREE_PATH], want[TREE_PATH], out[TREE_PATH], kept[TREE_PATH];

static int make_base(void **state) {
    (void)state;
    tree_make(base);
    snprintf(want, sizeof want, "%.400s/want", base);
    snprintf(out, sizeof out, "%.400s/out", base);
    snprintf(kept, sizeof kept, "%.400s/kept", base);
    struct job j = {.dir = want, .attempt = "a"};
    return job_run(&j, NULL) == OK ? 0 : -1;
}

static int remove_base(void **state) {
    (void)state;
    tree_remove(base);
    return 0;
}

static int clear(void **state) {
    (void)state;
    tree_remove(out);
    tree_remove(kept);
    return 0;
}

static enum status collect(void *ctx, const char *bytes, size_t n, struct err *e) {
    sbuf_add(ctx, bytes, n);
    return sbuf_status(ctx, e);
}

static void cat(const char *dir, const struct report_query *q, struct sbuf *rows) {
    struct err e = {.code = OK};
    sbuf_clear(rows);
    if (report_cat(dir, q, collect, rows, &e) != OK) fail_msg("%s", e.msg);
}

static int count_lines(const char *s) {
    int n = 0;
    for (; *s != '\0'; s++) n += *s == '\n';
    return n;
}

// Stops in part 1, after so many token lines.
static void stop_in(const char *dir, int stop_at) {
    struct job j = {.dir = dir,
                    .attempt = "k",
                    .commit_every = 1,
                    .state_every = 2,
                    .stop_at = stop_at,
                    .copy_to = kept};
    assert_int_equal(job_run(&j, NULL), E_CANCEL);
}

static void test_status(void **state) {
    (void)state;
    struct report_status s;
    struct sbuf rows;
    struct err e = {.code = OK};
    sbuf_init(&rows);
    assert_int_equal(report_status(out, &s, NULL, &e), E_NOINPUT);
    assert_int_equal(report_status(want, &s, &rows, NULL), OK);
    assert_int_equal(s.n_part, 2);
    assert_int_equal(s.published, 2);
    assert_int_equal(s.in_progress + s.held, 0);
    assert_int_equal(s.documents, 16);
    assert_int_equal(s.failed, 4);
    assert_int_equal(s.tokens, 2 * (0 + 10 + 30 + 40 + 60 + 70));
    assert_true(s.success);
    assert_int_equal(count_lines(sbuf_str(&rows)), 4);
    stop_in(out, 27 + 1 + 2 + 5); // in the fourth document of part 1
    sbuf_clear(&rows);
    assert_int_equal(report_status(kept, &s, &rows, NULL), OK);
    assert_int_equal(s.published, 1);
    assert_int_equal(s.in_progress, 1);
    assert_int_equal(s.held, 0);
    assert_int_equal(s.documents, 8 + 3);
    assert_int_equal(s.failed, 2 + 1);
    assert_false(s.success);
    assert_int_equal(count_lines(sbuf_str(&rows)), 3);
    sbuf_fini(&rows);
}

static void test_held(void **state) {
    (void)state;
    struct ledger *l = NULL;
    struct ledger_part *p = NULL;
    struct ledger_mark m;
    struct report_status s;
    struct sbuf none;
    bool held = false, no_locks = false;
    sbuf_init(&none);
    const struct ledger_config c = {
        .dir = out, .job_json = job_json, .n_part = JOB_PARTS, .attempt = "a"};
    assert_int_equal(ledger_open(&l, &c, NULL), OK);
    assert_int_equal(ledger_part_open(&p, l, 1, false, &held, &no_locks, &m, &none, NULL), OK);
    assert_int_equal(report_status(out, &s, NULL, NULL), OK);
    assert_int_equal(s.held, 1);
    assert_int_equal(s.in_progress, 1);
    ledger_part_close(p);
    ledger_close(l);
    sbuf_fini(&none);
}

static void test_cat(void **state) {
    (void)state;
    struct sbuf rows, all;
    sbuf_init(&rows);
    sbuf_init(&all);
    struct report_query q = {.stream = LEDGER_RESULTS};
    cat(want, &q, &all);
    assert_int_equal(count_lines(sbuf_str(&all)), 12);
    q.id = "p1d3";
    cat(want, &q, &rows);
    assert_string_equal(sbuf_str(&rows),
                        "{\"id\":\"p1d3\",\"source\":\"p1\",\"offset\":3,\"setting\":\"sink\","
                        "\"num_tokens\":30,\"num_scored\":30,\"num_bytes\":120,\"num_words\":21,"
                        "\"sum_logprob\":-3.5}\n");
    static const char *const fields[] = {"sum_logprob", "id", "none"};
    q.fields = fields;
    q.n_field = 3;
    cat(want, &q, &rows);
    assert_string_equal(sbuf_str(&rows), "{\"sum_logprob\":-3.5,\"id\":\"p1d3\",\"none\":null}\n");
    q.tsv = true;
    cat(want, &q, &rows);
    assert_string_equal(sbuf_str(&rows), "sum_logprob\tid\tnone\n-3.5\tp1d3\t\n");
    q.n_field = 0;
    cat(want, &q, &rows);
    assert_non_null(strstr(sbuf_str(&rows), "id\tsource\toffset\t"));
    q = (struct report_query){.stream = LEDGER_RESULTS, .setting = "other"};
    cat(want, &q, &rows);
    assert_int_equal(rows.n, 0);
    struct err e = {.code = OK};
    q = (struct report_query){.stream = LEDGER_RESULTS, .id = "p9"};
    assert_int_equal(report_cat(want, &q, collect, &rows, &e), E_NOINPUT);
    assert_non_null(strstr(e.msg, "no row of a document \"p9\""));
    q = (struct report_query){.stream = LEDGER_TOKENS};
    cat(want, &q, &rows);
    assert_int_equal(count_lines(sbuf_str(&rows)), 2 * (0 + 1 + 11 + 1 + 0 + 1));
    sbuf_fini(&rows);
    sbuf_fini(&all);
}

static void test_cells(void **state) {
    (void)state;
    struct ledger *l = NULL;
    struct ledger_part *p = NULL;
    struct ledger_mark m;
    struct sbuf none, rows;
    bool held = false, no_locks = false;
    sbuf_init(&none);
    sbuf_init(&rows);
    const struct ledger_config c = {
        .dir = out, .job_json = job_json, .n_part = JOB_PARTS, .attempt = "a"};
    assert_int_equal(ledger_open(&l, &c, NULL), OK);
    assert_int_equal(ledger_part_open(&p, l, 0, false, &held, &no_locks, &m, &none, NULL), OK);
    static const char row[] =
        "{\"id\":\"a\\tb\\nc\\\\d\",\"v\":[1,-2.5,null,true,{\"k\":\"\\\"\",\"l\":[]}],"
        "\"n\":null,\"x\":0.1}\n";
    assert_int_equal(ledger_add(p, LEDGER_RESULTS, row, sizeof row - 1, NULL), OK);
    assert_int_equal(ledger_commit(p, &m, NULL, 0, NULL), OK);
    struct report_query q = {.stream = LEDGER_RESULTS, .tsv = true};
    cat(out, &q, &rows);
    assert_string_equal(
        sbuf_str(&rows),
        "id\tv\tn\tx\na\\tb\\nc\\\\d\t[1,-2.5,null,true,{\"k\":\"\\\"\",\"l\":[]}]\t\t"
        "0.1\n");
    ledger_part_close(p);
    ledger_close(l);
    sbuf_fini(&none);
    sbuf_fini(&rows);
}

// Whatever is committed is a beginning of what will be published, and torn ends do no harm.
static void test_cat_unfinished(void **state) {
    (void)state;
    struct sbuf rows, all;
    sbuf_init(&rows);
    sbuf_init(&all);
    for (int stream = LEDGER_RESULTS; stream <= LEDGER_TOKENS; stream++) {
        const struct report_query q = {.stream = (enum ledger_stream)stream};
        size_t before = 0;
        cat(want, &q, &all);
        for (int stop = 1; stop < 54; stop += 3) {
            stop_in(out, stop);
            cat(kept, &q, &rows);
            assert_true(rows.n >= before && rows.n <= all.n);
            if (rows.n > 0) assert_memory_equal(rows.s, all.s, rows.n);
            before = rows.n;
            tree_remove(kept);
            tree_remove(out);
        }
        assert_true(before > all.n / 2);
    }
    sbuf_fini(&rows);
    sbuf_fini(&all);
}

static void *run_slowly(void *arg) {
    const char *attempts[] = {"a", "b", "c", "d"};
    (void)arg;
    for (int i = 0; i < 4; i++) {
        struct job j = {.dir = out,
                        .attempt = attempts[i],
                        .commit_every = 1,
                        .state_every = 1,
                        .stop_at = i < 3 ? 18 : 0};
        const enum status st = job_run(&j, NULL);
        if (st != (i < 3 ? E_CANCEL : OK)) return out;
        const struct timespec pause = {.tv_nsec = 300 * 1000 * 1000};
        nanosleep(&pause, NULL);
    }
    return NULL;
}

static void test_follow(void **state) {
    (void)state;
    struct sbuf rows, all;
    pthread_t thread;
    void *failed = NULL;
    sbuf_init(&rows);
    sbuf_init(&all);
    struct report_query q = {.stream = LEDGER_TOKENS};
    cat(want, &q, &all);
    stop_in(out, 2); // so that the job is there
    assert_int_equal(pthread_create(&thread, NULL, run_slowly, NULL), 0);
    q.follow = true;
    cat(out, &q, &rows);
    assert_int_equal(pthread_join(thread, &failed), 0);
    assert_null(failed);
    assert_int_equal(rows.n, all.n); // parts in order here: one run does one after the other
    assert_memory_equal(rows.s, all.s, all.n);
    sbuf_fini(&rows);
    sbuf_fini(&all);
}

static bool stop_now(void *ctx) {
    return ++*(int *)ctx > 20;
}

static void test_follow_stops(void **state) {
    (void)state;
    struct sbuf rows;
    int asked = 0;
    sbuf_init(&rows);
    stop_in(out, 20);
    const struct report_query q = {
        .stream = LEDGER_RESULTS, .follow = true, .stop = stop_now, .ctx = &asked};
    cat(kept, &q, &rows);
    assert_true(asked > 20);
    sbuf_fini(&rows);
}

static enum status refuse(void *ctx, const char *bytes, size_t n, struct err *e) {
    (void)ctx, (void)bytes, (void)n;
    return err_fail(e, E_IO, "pipe");
}

static void test_write_fails(void **state) {
    (void)state;
    struct err e = {.code = OK};
    const struct report_query q = {.stream = LEDGER_RESULTS};
    assert_int_equal(report_cat(want, &q, refuse, NULL, &e), E_IO);
    assert_non_null(strstr(e.msg, "pipe"));
}

static void test_stats(void **state) {
    (void)state;
    struct report_total *t = NULL;
    int n = 0;
    assert_int_equal(report_stats(want, &t, &n, NULL), OK);
    assert_int_equal(n, 1);
    assert_string_equal(t[0].setting, "sink");
    assert_int_equal(t[0].documents, 12);
    assert_int_equal(t[0].num_tokens, 420);
    assert_int_equal(t[0].num_scored, 420);
    assert_int_equal(t[0].num_bytes, 1680);
    assert_int_equal(t[0].num_words, 294);
    assert_true(t[0].has_text);
    assert_true(t[0].sum_logprob == -2 * (0.5 + 1.5 + 3.5 + 4.5 + 6.5 + 7.5));
    mem_free(t);
}

static void assert_verified(const char *dir, bool want_ok, const char *words) {
    struct sbuf findings;
    struct err e = {.code = OK};
    bool ok = false;
    sbuf_init(&findings);
    if (report_verify(dir, &findings, &ok, &e) != OK) fail_msg("%s", e.msg);
    if (ok != want_ok || strstr(sbuf_str(&findings), words) == NULL) {
        fail_msg("%s: %s", words, sbuf_str(&findings));
    }
    sbuf_fini(&findings);
}

static void flip(const char *name, long at) {
    struct sbuf bytes;
    sbuf_init(&bytes);
    assert_true(tree_read(out, name, &bytes));
    bytes.s[at < 0 ? (long)bytes.n + at : at] ^= 1;
    tree_write(out, name, bytes.s, bytes.n);
    sbuf_fini(&bytes);
}

static void test_verify(void **state) {
    (void)state;
    char path[TREE_PATH * 2];
    static const char *const names[] = {"results-00000-of-00002.jsonl.lz4",
                                        "tokens-00001-of-00002.jsonl.lz4",
                                        "errors-00001-of-00002.jsonl"};
    assert_verified(want, true, "");
    for (size_t i = 0; i < COUNTOF(names); i++) {
        for (int back = 0; back < 2; back++) {
            tree_copy(want, out);
            flip(names[i], back == 1 ? -1 : 20);
            assert_verified(out, false, names[i]);
            tree_remove(out);
        }
        if (i == 0) continue;
        tree_copy(want, out);
        snprintf(path, sizeof path, "%s/%s", out, names[i]);
        assert_int_equal(unlink(path), 0);
        assert_verified(out, false, "missing");
        tree_remove(out);
    }
    tree_copy(want, out);
    tree_write(out, "_SUCCESS", "{\"parts\":2,\"documents\":17}", 26);
    assert_verified(out, false, "\"documents\" is not 16");
    snprintf(path, sizeof path, "%s/%s", out, names[0]);
    assert_int_equal(unlink(path), 0);
    assert_verified(out, false, "not every part is published");
    tree_remove(out);
    tree_copy(want, out);
    snprintf(path, sizeof path, "%s/.basin/done/00000.json", out);
    assert_int_equal(unlink(path), 0);
    assert_verified(out, true, ""); // there is less to compare with, and nothing wrong
    tree_remove(out);
    stop_in(out, 50);
    tree_remove(out);
    assert_verified(kept, true, "");
    assert_int_equal(rename(kept, out), 0);
    flip(".basin/work/00001/k/tokens", 40);
    assert_verified(out, false, "work/00001/k/tokens");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_status, clear),
        cmocka_unit_test_setup(test_held, clear),
        cmocka_unit_test_setup(test_cat, clear),
        cmocka_unit_test_setup(test_cells, clear),
        cmocka_unit_test_setup(test_cat_unfinished, clear),
        cmocka_unit_test_setup(test_follow, clear),
        cmocka_unit_test_setup(test_follow_stops, clear),
        cmocka_unit_test_setup(test_write_fails, clear),
        cmocka_unit_test_setup(test_stats, clear),
        cmocka_unit_test_setup(test_verify, clear),
    };
    return cmocka_run_group_tests(tests, make_base, remove_base);
}
