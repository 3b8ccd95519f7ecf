/* Kills, damage, full disks: whatever happens, the published files are those of a run that nothing
 * happened to. Attempts that meet are in test_ledger_shared.c. */
#include "jobs/ledger_impl.h"
#include "tests/alloc_fail.h"
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
    for (long k = 0;; k += k < 300 ? 1 : 7) {
        struct job j = {.dir = out, .attempt = "b", .commit_every = 2, .state_every = 4};
        struct err e = {.code = OK};
        if (resuming) tree_copy(kept, out);
        g_fail_at = k;
        const enum status st = job_run(&j, &e);
        const bool reached = g_fail_at < 0;
        g_fail_at = -1;
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
        cmocka_unit_test_setup(test_large_documents_spill, clear),
    };
    return cmocka_run_group_tests(tests, make_base, remove_base);
}
