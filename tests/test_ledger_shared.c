/* An output directory and those who meet in it: two attempts at one part, other jobs, other
 * people's files, a second try at what failed. */
#include "jobs/ledger_impl.h"
#include "tests/support_job.h"
#include "tests/support_tree.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

/* ---- the run that nothing happens to ---- */

static char base[TREE_PATH], want[TREE_PATH], out[TREE_PATH];

static int make_base(void **state) {
    (void)state;
    tree_make(base);
    snprintf(want, sizeof want, "%.400s/want", base);
    snprintf(out, sizeof out, "%.400s/out", base);
    struct job j = {.dir = want, .attempt = "a", .commit_every = 0};
    struct err e = {.code = OK};
    return job_run(&j, &e) == OK ? 0 : -1;
}

static int remove_base(void **state) {
    (void)state;
    tree_remove(base);
    return 0;
}

// What a test that failed has left is not to fail the next one.
static int clear(void **state) {
    (void)state;
    tree_remove(out);
    return 0;
}

static void must_finish(const char *dir, const char *attempt) {
    struct job j = {.dir = dir, .attempt = attempt, .commit_every = 2, .state_every = 3};
    struct err e = {.code = OK};
    const enum status st = job_run(&j, &e);
    if (st != OK) fail_msg("%s", e.msg);
    job_assert_same(dir, want);
}

/* ---- two attempts ---- */

static void open_two(struct ledger *l[2], struct ledger_part *p[2]) {
    for (int i = 0; i < 2; i++) {
        struct ledger_mark m;
        struct sbuf s;
        bool held = false, no_locks = false;
        const struct ledger_config c = {.dir = out,
                                        .job_json = job_json,
                                        .n_part = JOB_PARTS,
                                        .tokens = true,
                                        .attempt = i == 0 ? "x" : "y"};
        sbuf_init(&s);
        assert_int_equal(ledger_open(&l[i], &c, NULL), OK);
        assert_int_equal(ledger_part_open(&p[i], l[i], 0, i == 1, &held, &no_locks, &m, &s, NULL),
                         OK);
        assert_non_null(p[i]);
        sbuf_fini(&s);
    }
}

static void test_two_attempts(void **state) {
    (void)state;
    struct ledger *l[2];
    struct ledger_part *p[2];
    struct ledger_mark m = {.documents = 1, .rows = 1, .tokens = 5, .offset = 1};
    struct sbuf first[LEDGER_STREAMS], again;
    char name[LEDGER_NAME];
    static const char row[] = "{\"id\":\"a\",\"source\":\"a\",\"offset\":0,\"num_tokens\":5}\n";
    sbuf_init(&again);
    open_two(l, p);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ledger_add_open(p[i], row, sizeof row - 1, NULL), OK);
        if (i == 1)
            assert_int_equal(ledger_commit(p[i], &(struct ledger_mark){0}, "s", 1, NULL), OK);
        ledger_close_document(p[i]);
        assert_int_equal(ledger_add(p[i], LEDGER_RESULTS, row, sizeof row - 1, NULL), OK);
    }
    assert_int_equal(ledger_publish(p[0], &m, NULL), OK);
    ledger_part_close(p[0]);
    for (int s = 0; s < LEDGER_STREAMS; s++) {
        sbuf_init(&first[s]);
        ledger_name(name, (enum ledger_stream)s, 0, JOB_PARTS);
        assert_int_equal(tree_read(out, name, &first[s]), s != LEDGER_ERRORS);
    }
    // The other one still has its directory, and finds out that there is nothing left to do.
    assert_int_equal(ledger_commit(p[1], &m, NULL, 0, NULL), OK);
    assert_int_equal(ledger_publish(p[1], &m, NULL), OK);
    ledger_part_close(p[1]);
    for (int s = 0; s < LEDGER_STREAMS; s++) {
        ledger_name(name, (enum ledger_stream)s, 0, JOB_PARTS);
        assert_int_equal(tree_read(out, name, &again), s != LEDGER_ERRORS);
        assert_int_equal(again.n, first[s].n);
        if (again.n > 0) assert_memory_equal(again.s, first[s].s, again.n);
        sbuf_fini(&first[s]);
    }
    char work[TREE_PATH];
    snprintf(work, sizeof work, "%.400s/.basin/work/00000", out);
    assert_int_equal(access(work, F_OK), -1);
    for (int i = 0; i < 2; i++) ledger_close(l[i]);
    sbuf_fini(&again);
    tree_remove(out);
}

static void test_held(void **state) {
    (void)state;
    struct ledger *l[2] = {NULL, NULL};
    struct ledger_part *p[2] = {NULL, NULL};
    struct err e = {.code = OK};
    open_two(l, p);
    struct job j = {.dir = out, .attempt = "z"};
    assert_int_equal(job_run(&j, &e), E_BUSY);
    for (int i = 0; i < 2; i++) ledger_part_close(p[i]);
    for (int i = 0; i < 2; i++) ledger_close(l[i]);
    must_finish(out, "z");
    tree_remove(out);
}

/* ---- whose directory ---- */

static enum status open_as(const char *json, bool overwrite, int n_part, struct err *e) {
    struct ledger *l = NULL;
    const struct ledger_config c = {
        .dir = out, .job_json = json, .n_part = n_part, .overwrite = overwrite, .attempt = "q"};
    *e = (struct err){.code = OK};
    const enum status st = ledger_open(&l, &c, e);
    ledger_close(l);
    return st;
}

static void test_other_job(void **state) {
    (void)state;
    struct err e = {.code = OK};
    struct sbuf text;
    sbuf_init(&text);
    must_finish(out, "a");
    tree_write(out, "mine.txt", "x", 1);
    tree_write(out, "results-notes.txt", "x", 1);
    static const char other[] = "{\"parts\":[{\"bytes\":1},{\"bytes\":2}],"
                                "\"identity\":{\"cache\":{\"sink_tokens\":8}}}";
    assert_int_equal(open_as(other, false, 2, &e), E_OUTPUT);
    assert_non_null(strstr(e.msg, "holds another job: $.cache.sink_tokens is 4 there and 8 here; "
                                  "use --overwrite or another --out"));
    static const char grown[] = "{\"identity\":{\"cache\":{\"sink_tokens\":4}},"
                                "\"parts\":[{\"bytes\":1},{\"bytes\":3}]}";
    assert_int_equal(open_as(grown, false, 2, &e), E_OUTPUT);
    assert_non_null(strstr(e.msg, "$.parts[1].bytes is 2 there and 3 here"));
    // The same job written otherwise, and with other remarks.
    static const char same[] = "{ \"note\": 7, \"parts\": [{\"bytes\":1}, {\"bytes\":2}],\n"
                               "\"identity\": {\"cache\": {\"sink_tokens\":4}}}";
    assert_int_equal(open_as(same, false, 2, &e), OK);
    assert_int_equal(open_as(same, true, 2, &e), OK);
    job_assert_same(out, want); // overwrite leaves the same job alone
    assert_int_equal(open_as(other, true, 2, &e), OK);
    assert_true(tree_read(out, "mine.txt", &text));
    assert_true(tree_read(out, "results-notes.txt", &text));
    assert_false(tree_read(out, "_SUCCESS", &text));
    assert_false(tree_read(out, "results-00000-of-00002.jsonl.lz4", &text));
    assert_false(tree_read(out, "errors-00001-of-00002.jsonl", &text));
    assert_false(tree_read(out, ".basin/done/00000.json", &text));
    assert_true(tree_read(out, "job.json", &text));
    assert_non_null(strstr(sbuf_str(&text), "\"sink_tokens\":8"));
    tree_remove(out);
    sbuf_fini(&text);
}

static void test_what_makes_a_job(void **state) {
    (void)state;
    static const struct {
        const char *a, *b, *field; /* field NULL: the same job */
    } rows[] = {
        {"{\"a\":1,\"b\":[1,2]}", "{\"b\":[1,2],\"a\":1}", NULL},
        {"{\"manifest\":{\"output\":{\"path\":\"x\",\"part_bytes\":1}}}",
         "{\"manifest\":{\"output\":{\"path\":\"y\",\"part_bytes\":1}}}", NULL},
        {"{\"manifest\":{\"output\":{\"path\":\"x\",\"part_bytes\":1}}}",
         "{\"manifest\":{\"output\":{\"path\":\"x\",\"part_bytes\":2}}}",
         "$.manifest.output.part_bytes"},
        {"{\"manifest\":{\"compute\":{\"span_tokens\":0}}}",
         "{\"manifest\":{\"compute\":{\"span_tokens\":8}}}", NULL},
        {"{\"manifest\":{\"compute\":{\"span_tokens\":0}}}", "{\"manifest\":{\"compute\":{}}}",
         NULL},
        {"{\"manifest\":{\"compute\":{\"dtype\":\"f32\"}}}",
         "{\"manifest\":{\"compute\":{\"dtype\":\"bf16\"}}}", "$.manifest.compute.dtype"},
        {"{\"cache\":[{\"s\":1},{\"s\":2}]}", "{\"cache\":[{\"s\":1},{\"s\":3}]}", "$.cache[1].s"},
        {"{\"cache\":[{\"s\":1}]}", "{\"cache\":[{\"s\":1},{\"s\":3}]}", "$.cache[1]"},
        {"{\"cache\":[1,2]}", "{\"cache\":[1]}", "$.cache[1]"},
        {"{\"a\":1,\"b\":2}", "{\"a\":1}", "$.b"},
        {"{\"a\":1}", "{\"a\":1,\"b\":2}", "$.b"},
        {"{\"a\":\"x\"}", "{\"a\":1}", "$.a"},
        {"{\"a\":\"x\\u0000y\"}", "{\"a\":\"x\\u0000z\"}", "$.a"},
        {"{\"a\":true}", "{\"a\":false}", "$.a"},
        {"{\"a\":1.5}", "{\"a\":2.5}", "$.a"},
        {"{\"a\":1.5}", "{\"a\":1.5}", NULL},
        {"{\"a\":null}", "{\"a\":null}", NULL},
        {"{\"a\":\"x\"}", "{\"a\":\"xy\"}", "$.a"},
        {"1", "2", "$"},
    };
    for (size_t i = 0; i < COUNTOF(rows); i++) {
        struct err e;
        char job[256], says[128];
        snprintf(job, sizeof job, "{\"identity\":%s,\"parts\":[1]}", rows[i].a);
        assert_int_equal(open_as(job, false, 1, &e), OK);
        snprintf(job, sizeof job, "{\"identity\":%s,\"parts\":[1]}", rows[i].b);
        const bool same = rows[i].field == NULL;
        assert_int_equal(open_as(job, false, 1, &e), same ? OK : E_OUTPUT);
        snprintf(says, sizeof says, "another job: %s is ", same ? "" : rows[i].field);
        if (!same) assert_non_null(strstr(e.msg, says));
        tree_remove(out);
    }
}

static void test_foreign_directory(void **state) {
    (void)state;
    struct err e = {.code = OK};
    assert_int_equal(mkdir(out, 0777), 0);
    tree_write(out, "photo.jpg", "x", 1);
    for (int overwrite = 0; overwrite < 2; overwrite++) {
        assert_int_equal(open_as(job_json, overwrite == 1, JOB_PARTS, &e), E_OUTPUT);
        assert_non_null(strstr(e.msg, "photo.jpg"));
    }
    tree_write(out, "job.json", "{\"jobs\":[]}", 11);
    assert_int_equal(open_as(job_json, true, JOB_PARTS, &e), E_OUTPUT);
    tree_remove(out);
    assert_int_equal(mkdir(out, 0777), 0);
    tree_write(out, ".tmp-1-0123456789abcdef", "{", 1);
    assert_int_equal(open_as(job_json, false, JOB_PARTS, &e), OK);
    tree_remove(out);
    tree_write(base, "out", "x", 1);
    assert_int_equal(open_as(job_json, false, JOB_PARTS, &e), E_OUTPUT);
    tree_remove(out);
    assert_int_equal(open_as("{}", false, JOB_PARTS, &e), E_ARG);
    assert_int_equal(open_as(job_json, false, 3, &e), E_ARG);
}

static void test_overwrite_while_running(void **state) {
    (void)state;
    struct ledger *l[2];
    struct ledger_part *p[2];
    struct err e = {.code = OK};
    struct ledger_mark m = {.documents = 0};
    open_two(l, p);
    static const char other[] = "{\"identity\":1,\"parts\":[]}";
    assert_int_equal(open_as(other, true, 0, &e), E_BUSY);
    ledger_part_close(p[0]); // the other one ignores locks
    assert_int_equal(open_as(other, true, 0, &e), OK);
    assert_int_not_equal(ledger_publish(p[1], &m, NULL), OK);
    ledger_part_close(p[1]);
    struct sbuf s;
    bool held = false, no_locks = false;
    sbuf_init(&s);
    assert_int_equal(ledger_part_open(&p[0], l[0], 1, false, &held, &no_locks, &m, &s, &e),
                     E_OUTPUT);
    for (int i = 0; i < 2; i++) ledger_close(l[i]);
    sbuf_fini(&s);
    tree_remove(out);
}

/* ---- doing failed documents again ---- */

static void test_retry_failed(void **state) {
    (void)state;
    struct err e = {.code = OK};
    struct sbuf text;
    sbuf_init(&text);
    must_finish(out, "a");
    // Still failing: done once more, not for ever, and the files stay the same.
    struct job again = {.dir = out, .attempt = "b", .retry_failed = true};
    assert_int_equal(job_run(&again, &e), OK);
    assert_int_equal(again.documents, JOB_PARTS * JOB_DOCUMENTS);
    job_assert_same(out, want);
    // Killed on the way: what was published is still there.
    struct job killed = {.dir = out,
                         .attempt = "c",
                         .retry_failed = true,
                         .heal = true,
                         .commit_every = 1,
                         .stop_at = 20};
    assert_int_equal(job_run(&killed, &e), E_CANCEL);
    job_assert_same(out, want);
    struct job healed = {.dir = out, .attempt = "d", .retry_failed = true, .heal = true};
    assert_int_equal(job_run(&healed, &e), OK);
    assert_true(healed.documents < JOB_PARTS * JOB_DOCUMENTS); // it went on
    assert_false(tree_read(out, "errors-00000-of-00002.jsonl", &text));
    assert_true(tree_read(out, "_SUCCESS", &text));
    assert_string_equal(sbuf_str(&text), "{\"parts\":2,\"documents\":16,\"failed\":0,\"rows\":16,"
                                         "\"tokens\":560}\n");
    struct job idle = {.dir = out, .attempt = "e", .retry_failed = true};
    assert_int_equal(job_run(&idle, &e), OK);
    assert_int_equal(idle.documents, 0);
    tree_remove(out);
    sbuf_fini(&text);
}

/* ---- processes ---- */

// What child i of n processes that begin together does; all must end with 0.
static void together(int n, int (*body)(int i)) {
    pid_t children[16];
    int gate[2];
    char go = 0;
    assert_int_equal(pipe(gate), 0);
    for (int i = 0; i < n; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] != 0) continue;
        close(gate[1]);
        while (read(gate[0], &go, 1) > 0) {
        } // until the other end is closed
        _exit(body(i));
    }
    close(gate[0]);
    close(gate[1]);
    for (int i = 0; i < n; i++) {
        int status = -1;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_int_equal(status, 0);
    }
}

static int open_same(int i) {
    struct err e;
    (void)i;
    return (int)open_as(job_json, false, JOB_PARTS, &e);
}

static int open_overwriting(int i) {
    struct err e;
    (void)i;
    return (int)open_as(job_json, true, JOB_PARTS, &e);
}

static void test_ranks_start_together(void **state) {
    (void)state;
    struct err e;
    for (int round = 0; round < 10; round++) {
        together(8, open_same);
        tree_remove(out);
    }
    for (int round = 0; round < 10; round++) {
        assert_int_equal(open_as("{\"identity\":1,\"parts\":[]}", false, 0, &e), OK);
        together(8, open_overwriting);
        tree_remove(out);
    }
}

static int run_some(int i) {
    char name[16];
    struct err e = {.code = OK};
    snprintf(name, sizeof name, "rank-%d", i);
    struct job j = {.dir = out, .attempt = name, .commit_every = 1, .state_every = 1};
    j.ignore_lock = true; // all do everything: as where locks do not work
    const enum status st = job_run(&j, &e);
    if (st != OK) fprintf(stderr, "rank %d: %s\n", i, e.msg);
    return (int)st;
}

static void test_all_do_everything(void **state) {
    (void)state;
    for (int round = 0; round < 5; round++) {
        together(4, run_some);
        job_assert_same(out, want);
        tree_remove(out);
    }
}

static void test_kill(void **state) {
    (void)state;
    bool done = false;
    long pause_ns = 200 * 1000;
    for (int i = 0; !done; i++) {
        int status = -1;
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            char name[16];
            struct err e = {.code = OK};
            snprintf(name, sizeof name, "try-%d", i);
            struct job j = {.dir = out, .attempt = name, .commit_every = 1, .state_every = 1};
            _exit((int)job_run(&j, &e));
        }
        const struct timespec pause = {.tv_nsec = pause_ns};
        nanosleep(&pause, NULL);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, &status, 0), child);
        done = WIFEXITED(status);
        if (done) assert_int_equal(WEXITSTATUS(status), 0);
        if (pause_ns < 500 * 1000 * 1000)
            pause_ns += pause_ns / 8; // it comes to an end on any disk
    }
    job_assert_same(out, want);
}

static void test_run_records(void **state) {
    (void)state;
    struct ledger *l = NULL;
    struct sbuf text;
    sbuf_init(&text);
    const struct ledger_config c = {
        .dir = out, .job_json = job_json, .n_part = JOB_PARTS, .attempt = "h-1"};
    assert_int_equal(ledger_open(&l, &c, NULL), OK);
    assert_int_equal(ledger_write_run(l, "{}\n", NULL), OK);
    assert_int_equal(ledger_write_run(l, "{\"seconds\":1}\n", NULL), OK);
    assert_true(tree_read(out, "run/h-1.json", &text));
    assert_string_equal(sbuf_str(&text), "{\"seconds\":1}\n");
    ledger_close(l);
    struct ledger_config bad = c;
    bad.attempt = "../x";
    assert_int_equal(ledger_open(&l, &bad, NULL), E_ARG);
    tree_remove(out);
    sbuf_fini(&text);
}

static void test_counts_without_record(void **state) {
    (void)state;
    struct ledger_counts a, b;
    char path[TREE_PATH];
    must_finish(out, "a");
    for (int part = 0; part < JOB_PARTS; part++) {
        assert_int_equal(ledger_counts_of(out, part, JOB_PARTS, &a, NULL), OK);
        assert_int_equal(a.documents, JOB_DOCUMENTS);
        assert_int_equal(a.failed, 2);
        snprintf(path, sizeof path, "%.400s/.basin/done/%05d.json", out, part);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(ledger_counts_of(out, part, JOB_PARTS, &b, NULL), OK);
        assert_memory_equal(&a, &b, sizeof a);
    }
    tree_remove(out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_two_attempts, clear),
        cmocka_unit_test_setup(test_held, clear),
        cmocka_unit_test_setup(test_other_job, clear),
        cmocka_unit_test_setup(test_what_makes_a_job, clear),
        cmocka_unit_test_setup(test_foreign_directory, clear),
        cmocka_unit_test_setup(test_overwrite_while_running, clear),
        cmocka_unit_test_setup(test_retry_failed, clear),
        cmocka_unit_test_setup(test_ranks_start_together, clear),
        cmocka_unit_test_setup(test_all_do_everything, clear),
        cmocka_unit_test_setup(test_kill, clear),
        cmocka_unit_test_setup(test_run_records, clear),
        cmocka_unit_test_setup(test_counts_without_record, clear),
    };
    return cmocka_run_group_tests(tests, make_base, remove_base);
}
