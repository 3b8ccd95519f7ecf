/* Kills, damage, full disks, two attempts at once: whatever happens, the published files are those
 * of a run that nothing happened to. */
#include "jobs/ledger_impl.h"
#include "tests/support_alloc.h"
#include "tests/support_job.h"
#include "tests/support_tree.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

/* ---- a disk that can be full ---- */

static struct {
    long calls;    /* of write and fsync since it was armed */
    long fail_at;  /* 0: never */
    bool for_good; /* every later call fails as well */
} disk;

static bool disk_fails(void) {
    if (disk.fail_at == 0) return false;
    disk.calls++;
    return disk.calls == disk.fail_at || (disk.for_good && disk.calls > disk.fail_at);
}

ssize_t __real_write(int fd, const void *bytes, size_t n);
ssize_t __wrap_write(int fd, const void *bytes, size_t n);
int __wrap_fsync(int fd);
ssize_t __wrap_copy_file_range(int a, off64_t *i, int b, off64_t *o, size_t n, unsigned flags);

ssize_t __wrap_write(int fd, const void *bytes, size_t n) {
    if (fd > 2 && disk_fails()) {
        if (n > 1) return __real_write(fd, bytes, n / 2); // some of it still fits
        errno = ENOSPC;
        return -1;
    }
    return __real_write(fd, bytes, n);
}

int __wrap_fsync(int fd) {
    (void)fd; // nothing here survives a power cut anyway
    if (!disk_fails()) return 0;
    errno = ENOSPC;
    return -1;
}

ssize_t __wrap_copy_file_range(int a, off64_t *i, int b, off64_t *o, size_t n, unsigned flags) {
    (void)a, (void)i, (void)b, (void)o, (void)n, (void)flags;
    errno = ENOSYS; // copies go through write(), which can fail
    return -1;
}

/* ---- the run that nothing happens to ---- */

static char base[TREE_PATH], want[TREE_PATH], out[TREE_PATH], kept[TREE_PATH];

static int make_base(void **state) {
    (void)state;
    tree_make(base);
    snprintf(want, sizeof want, "%.400s/want", base);
    snprintf(out, sizeof out, "%.400s/out", base);
    snprintf(kept, sizeof kept, "%.400s/kept", base);
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
    tree_remove(kept);
    return 0;
}

static void must_finish(const char *dir, const char *attempt) {
    struct job j = {.dir = dir, .attempt = attempt, .commit_every = 2, .state_every = 3};
    struct err e = {.code = OK};
    const enum status st = job_run(&j, &e);
    if (st != OK) fail_msg("%s", e.msg);
    job_assert_same(dir, want);
}

static void test_commit_pattern_leaves_no_trace(void **state) {
    (void)state;
    for (int commits = 0; commits <= 3; commits++) {
        for (int states = 0; states <= 4; states++) {
            struct job j = {
                .dir = out, .attempt = "a", .commit_every = commits, .state_every = states};
            struct err e = {.code = OK};
            assert_int_equal(job_run(&j, &e), OK);
            job_assert_same(out, want);
            tree_remove(out);
        }
    }
}

static void test_stop_and_go_on(void **state) {
    (void)state;
    for (int stop = 1;; stop++) {
        struct job j = {.dir = out,
                        .attempt = "a",
                        .commit_every = 2,
                        .state_every = 2,
                        .stop_at = stop,
                        .copy_to = kept};
        struct err e = {.code = OK};
        const enum status st = job_run(&j, &e);
        must_finish(out, "b"); // stopped in good order
        tree_remove(out);
        if (st == OK) break;
        assert_int_equal(st, E_CANCEL);
        must_finish(kept, "c"); // killed
        tree_remove(kept);
    }
}

// A chain of kills: every attempt does a little more than the one before.
static void test_many_kills(void **state) {
    (void)state;
    int documents = 0;
    for (int i = 0; i < 60; i++) {
        char name[16];
        snprintf(name, sizeof name, "try-%d", i);
        struct job j = {
            .dir = out, .attempt = name, .commit_every = 1, .state_every = 1, .stop_at = 3};
        struct err e = {.code = OK};
        const enum status st = job_run(&j, &e);
        documents += j.documents;
        if (st == OK) break;
        assert_int_equal(st, E_CANCEL);
    }
    assert_int_equal(documents, JOB_PARTS * JOB_DOCUMENTS); // nothing was done twice
    job_assert_same(out, want);
    tree_remove(out);
}

/* ---- damage ---- */

static void work_path(char path[TREE_PATH], const char *dir, const char *file) {
    snprintf(path, TREE_PATH, "%.400s/.basin/work/00000/a/%s", dir, file);
}

// What a kill in the middle of part 0's second long document leaves.
static void make_killed(void) {
    struct job j = {.dir = out,
                    .attempt = "a",
                    .commit_every = 1,
                    .state_every = 2,
                    .stop_at = 25,
                    .copy_to = kept};
    struct err e = {.code = OK};
    assert_int_equal(job_run(&j, &e), E_CANCEL);
    tree_remove(out);
}

static const char *const work_files[] = {"results", "tokens",  "errors", "commits",
                                         "state-0", "state-1", "alive"};

static void test_truncated_anywhere(void **state) {
    (void)state;
    make_killed();
    for (size_t f = 0; f < COUNTOF(work_files); f++) {
        char path[TREE_PATH];
        struct stat sb;
        work_path(path, kept, work_files[f]);
        assert_int_equal(stat(path, &sb), 0);
        const long step = sb.st_size < 40 ? 1 : (long)sb.st_size / 40;
        for (long n = 0; n < (long)sb.st_size; n += step) {
            tree_copy(kept, out);
            work_path(path, out, work_files[f]);
            assert_int_equal(truncate(path, n), 0);
            must_finish(out, "b");
            tree_remove(out);
        }
        tree_copy(kept, out);
        work_path(path, out, work_files[f]);
        assert_int_equal(unlink(path), 0);
        must_finish(out, "b");
        tree_remove(out);
    }
    tree_remove(kept);
}

static void test_flipped_anywhere(void **state) {
    (void)state;
    struct sbuf bytes;
    sbuf_init(&bytes);
    make_killed();
    for (size_t f = 0; f + 1 < COUNTOF(work_files); f++) {
        char path[TREE_PATH], name[64];
        snprintf(name, sizeof name, ".basin/work/00000/a/%s", work_files[f]);
        assert_true(tree_read(kept, name, &bytes));
        const size_t step = bytes.n < 60 ? 1 : bytes.n / 60;
        for (size_t i = 0; i < bytes.n; i += step) {
            tree_copy(kept, out);
            bytes.s[i] ^= 0x10;
            work_path(path, out, work_files[f]);
            tree_write(out, name, bytes.s, bytes.n);
            bytes.s[i] ^= 0x10;
            must_finish(out, "b");
            tree_remove(out);
        }
    }
    tree_remove(kept);
    sbuf_fini(&bytes);
}

// Damage costs no more than it must: a bad state only the middle of its document.
static void test_bad_state_costs_one_document(void **state) {
    (void)state;
    make_killed();
    for (int both = 0; both < 2; both++) {
        char path[TREE_PATH];
        tree_copy(kept, out);
        for (int i = 0; i < 2; i++) {
            work_path(path, out, ledger_state_names[i]);
            if (i == 0 || both == 1) assert_int_equal(truncate(path, 60), 0);
        }
        struct job j = {.dir = out, .attempt = "b", .commit_every = 1};
        struct err e = {.code = OK};
        assert_int_equal(job_run(&j, &e), OK);
        job_assert_same(out, want);
        assert_int_equal(j.documents, JOB_DOCUMENTS - 5 + JOB_DOCUMENTS);
        tree_remove(out);
    }
    tree_remove(kept);
}

/* ---- a full disk ---- */

static void full_disk(bool for_good, bool resuming) {
    for (long k = 1;; k++) {
        struct job j = {.dir = out, .attempt = "a", .commit_every = 2, .state_every = 4};
        struct err e = {.code = OK};
        if (resuming) tree_copy(kept, out);
        if (resuming) j.attempt = "b";
        disk.calls = 0;
        disk.fail_at = k;
        disk.for_good = for_good;
        const enum status st = job_run(&j, &e);
        const bool reached = disk.calls >= k;
        disk.fail_at = 0;
        if (st != OK) {
            assert_int_equal(st, E_IO);
            assert_non_null(strstr(e.msg, "No space left on device"));
        }
        must_finish(out, "c");
        tree_remove(out);
        if (!reached) {
            assert_int_equal(st, OK);
            break;
        }
    }
}

static void test_full_disk(void **state) {
    (void)state;
    full_disk(false, false);
    full_disk(true, false);
    make_killed();
    full_disk(false, true);
    full_disk(true, true);
    tree_remove(kept);
}

static void no_memory(bool resuming) {
    for (long k = 1;; k += k < 300 ? 1 : 7) {
        struct job j = {.dir = out, .attempt = "b", .commit_every = 2, .state_every = 4};
        struct err e = {.code = OK};
        if (resuming) tree_copy(kept, out);
        alloc.calls = 0;
        alloc.fail_at = k;
        const enum status st = job_run(&j, &e);
        const bool reached = alloc.calls >= k;
        alloc.fail_at = 0;
        if (st != OK && st != E_NOMEM) fail_msg("allocation %ld: %d %s", k, st, e.msg);
        must_finish(out, "c");
        tree_remove(out);
        if (!reached) break;
    }
}

static void test_no_memory(void **state) {
    (void)state;
    no_memory(false);
    make_killed();
    no_memory(true);
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

static void test_large_documents_spill(void **state) {
    (void)state;
    struct err e = {.code = OK};
    char big[TREE_PATH];
    snprintf(big, sizeof big, "%.400s/big", base);
    struct job j = {.dir = big, .attempt = "a", .line_bytes = 400000};
    assert_int_equal(job_run(&j, &e), OK);
    for (int stop = 5; stop < 30; stop += 4) {
        for (int states = 0; states <= 3; states += 3) {
            struct job a = {.dir = out,
                            .attempt = "a",
                            .line_bytes = 400000,
                            .commit_every = 2,
                            .state_every = states,
                            .stop_at = stop,
                            .copy_to = kept};
            assert_int_equal(job_run(&a, &e), E_CANCEL);
            struct job b = {.dir = kept, .attempt = "b", .line_bytes = 400000};
            assert_int_equal(job_run(&b, &e), OK);
            job_assert_same(kept, big);
            tree_remove(out);
            tree_remove(kept);
        }
    }
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
        cmocka_unit_test_setup(test_commit_pattern_leaves_no_trace, clear),
        cmocka_unit_test_setup(test_stop_and_go_on, clear),
        cmocka_unit_test_setup(test_many_kills, clear),
        cmocka_unit_test_setup(test_truncated_anywhere, clear),
        cmocka_unit_test_setup(test_flipped_anywhere, clear),
        cmocka_unit_test_setup(test_bad_state_costs_one_document, clear),
        cmocka_unit_test_setup(test_full_disk, clear),
        cmocka_unit_test_setup(test_no_memory, clear),
        cmocka_unit_test_setup(test_two_attempts, clear),
        cmocka_unit_test_setup(test_held, clear),
        cmocka_unit_test_setup(test_other_job, clear),
        cmocka_unit_test_setup(test_foreign_directory, clear),
        cmocka_unit_test_setup(test_overwrite_while_running, clear),
        cmocka_unit_test_setup(test_retry_failed, clear),
        cmocka_unit_test_setup(test_large_documents_spill, clear),
        cmocka_unit_test_setup(test_run_records, clear),
        cmocka_unit_test_setup(test_counts_without_record, clear),
    };
    return cmocka_run_group_tests(tests, make_base, remove_base);
}
