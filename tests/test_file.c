/* Atomic files, locks and logs, also on a disk that is full or writes a few bytes at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "io/file.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

// How the wrapped system calls behave. Tests are the one place where this may be global.
static struct {
    size_t most;    // bytes one write() takes; 0: no limit
    long left;      // bytes until the disk is full; -1: never
    int error;      // what a full disk says
    int interrupts; // EINTR before each successful write
    int pending;
    int link_error, flock_error;
    bool no_copy;
} g_fault;

ssize_t __real_write(int fd, const void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n) {
    if (g_fault.pending > 0) {
        g_fault.pending--;
        errno = EINTR;
        return -1;
    }
    g_fault.pending = g_fault.interrupts;
    if (g_fault.most > 0 && n > g_fault.most) n = g_fault.most;
    if (g_fault.left >= 0) {
        if (g_fault.left == 0) {
            errno = g_fault.error;
            return -1;
        }
        if ((long)n > g_fault.left) n = (size_t)g_fault.left;
        g_fault.left -= (long)n;
    }
    return __real_write(fd, p, n);
}

int __real_link(const char *a, const char *b);
int __wrap_link(const char *a, const char *b);
int __wrap_link(const char *a, const char *b) {
    if (g_fault.link_error == 0) return __real_link(a, b);
    errno = g_fault.link_error;
    return -1;
}

int __real_flock(int fd, int op);
int __wrap_flock(int fd, int op);
int __wrap_flock(int fd, int op) {
    if (g_fault.flock_error == 0) return __real_flock(fd, op);
    errno = g_fault.flock_error;
    return -1;
}

ssize_t __real_copy_file_range(int a, off_t *pa, int b, off_t *pb, size_t n, unsigned flags);
ssize_t __wrap_copy_file_range(int a, off_t *pa, int b, off_t *pb, size_t n, unsigned flags);
ssize_t __wrap_copy_file_range(int a, off_t *pa, int b, off_t *pb, size_t n, unsigned flags) {
    if (!g_fault.no_copy) return __real_copy_file_range(a, pa, b, pb, n, flags);
    errno = EXDEV;
    return -1;
}

struct fixture {
    char dir[64];
    char path[96]; // DIR/file
};

static void no_faults(void) {
    memset(&g_fault, 0, sizeof g_fault);
    g_fault.left = -1;
}

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    snprintf(f->dir, sizeof f->dir, "/tmp/basin-file-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof f->path, "%s/file", f->dir);
    no_faults();
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    no_faults();
    struct err e = {.code = OK};
    assert_int_equal(file_remove_tree(f->dir, &e), OK);
    assert_int_equal(access(f->dir, F_OK), -1);
    free(f);
    return 0;
}

static int entries(const char *dir) {
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (const struct dirent *x; (x = readdir(d)) != NULL;) {
        n += strcmp(x->d_name, ".") != 0 && strcmp(x->d_name, "..") != 0;
    }
    closedir(d);
    return n;
}

static void assert_holds(const char *path, const void *bytes, size_t n) {
    struct sbuf b;
    struct err e = {.code = OK};
    sbuf_init(&b);
    assert_int_equal(file_read_all(path, 1 << 20, &b, &e), OK);
    assert_int_equal(b.n, n);
    if (n > 0) assert_memory_equal(b.s, bytes, n);
    sbuf_fini(&b);
}

static void test_replace(void **state) {
    const struct fixture *f = *state;
    struct err e = {.code = OK};
    assert_int_equal(file_write_atomic(f->path, "one", 3, FILE_REPLACE, NULL, &e), OK);
    assert_holds(f->path, "one", 3);
    assert_int_equal(file_write_atomic(f->path, "", 0, FILE_REPLACE, NULL, &e), OK);
    assert_holds(f->path, "", 0);
    assert_int_equal(entries(f->dir), 1);
}

static void test_create_only(void **state) {
    const struct fixture *f = *state;
    const int link_errors[] = {0, EPERM}; // the second: a file system without hard links
    for (size_t i = 0; i < COUNTOF(link_errors); i++) {
        struct err e = {.code = OK};
        bool existed = true;
        g_fault.link_error = link_errors[i];
        unlink(f->path);
        assert_int_equal(file_write_atomic(f->path, "one", 3, FILE_CREATE_ONLY, &existed, &e), OK);
        assert_false(existed);
        assert_int_equal(file_write_atomic(f->path, "two", 3, FILE_CREATE_ONLY, &existed, &e),
                         E_OUTPUT);
        assert_true(existed);
        assert_non_null(strstr(e.msg, f->path));
        assert_holds(f->path, "one", 3);
        assert_int_equal(entries(f->dir), 1);
    }
}

static void test_cannot_create(void **state) {
    const struct fixture *f = *state;
    struct err e = {.code = OK};
    bool existed = true;
    char path[160];
    snprintf(path, sizeof path, "%s/none/file", f->dir);
    assert_int_equal(file_write_atomic(path, "x", 1, FILE_CREATE_ONLY, &existed, &e), E_OUTPUT);
    assert_false(existed);
    assert_non_null(strstr(e.msg, path));
}

static void test_short_writes(void **state) {
    const struct fixture *f = *state;
    struct err e = {.code = OK};
    g_fault.most = 1;
    g_fault.interrupts = 2;
    assert_int_equal(file_write_atomic(f->path, "patience", 8, FILE_REPLACE, NULL, &e), OK);
    assert_holds(f->path, "patience", 8);
}

// A disk that is full after k bytes, for every k: the old file stays, nothing else is left.
static void test_disk_full(void **state) {
    const struct fixture *f = *state;
    const int errors[] = {ENOSPC, EDQUOT};
    struct err none = {.code = OK};
    assert_int_equal(file_write_atomic(f->path, "old", 3, FILE_REPLACE, NULL, &none), OK);
    for (size_t i = 0; i < COUNTOF(errors); i++) {
        for (long k = 0; k < 8; k++) {
            struct err e = {.code = OK};
            g_fault.left = k;
            g_fault.error = errors[i];
            assert_int_equal(file_write_atomic(f->path, "new text", 8, FILE_REPLACE, NULL, &e),
                             E_IO);
            assert_non_null(strstr(e.msg, "no space left"));
            assert_non_null(strstr(e.msg, f->path));
            assert_int_equal(entries(f->dir), 1);
            assert_holds(f->path, "old", 3);
        }
    }
}

static void test_read_all(void **state) {
    const struct fixture *f = *state;
    struct err e = {.code = OK}, e2 = {.code = OK}, e3 = {.code = OK};
    struct sbuf b;
    sbuf_init(&b);
    assert_int_equal(file_read_all(f->path, 10, &b, &e), E_NOINPUT);
    assert_int_equal(file_read_all(f->dir, 10, &b, &e2), E_NOINPUT);
    assert_int_equal(file_write_atomic(f->path, "12345", 5, FILE_REPLACE, NULL, NULL), OK);
    assert_int_equal(file_read_all(f->path, 4, &b, &e3), E_FORMAT);
    assert_non_null(strstr(e3.msg, "longer than 4 bytes"));
    sbuf_fini(&b);
}

static void test_mkdirs(void **state) {
    const struct fixture *f = *state;
    struct err e = {.code = OK};
    char path[160], below[192];
    snprintf(path, sizeof path, "%s/a//b/c/", f->dir);
    assert_int_equal(file_mkdirs(path, &e), OK);
    assert_int_equal(file_mkdirs(path, &e), OK);
    struct stat sb;
    assert_int_equal(stat(path, &sb), 0);
    assert_int_equal(file_write_atomic(f->path, "", 0, FILE_REPLACE, NULL, &e), OK);
    assert_int_equal(file_mkdirs(f->path, &e), E_OUTPUT);
    e.code = OK;
    snprintf(below, sizeof below, "%s/x", f->path);
    assert_int_equal(file_mkdirs(below, &e), E_OUTPUT);
    assert_int_equal(file_mkdirs("", NULL), E_OUTPUT);
}

static void test_lock(void **state) {
    const struct fixture *f = *state;
    struct err e = {.code = OK};
    struct file_lock *a = NULL, *b = NULL;
    bool held = true, unsupported = true;
    assert_int_equal(file_lock_try(&a, f->path, &held, &unsupported, &e), OK);
    assert_non_null(a);
    assert_false(held || unsupported);
    assert_int_equal(file_lock_try(&b, f->path, &held, &unsupported, &e), OK);
    assert_null(b);
    assert_true(held && !unsupported);
    const pid_t child = fork(); // another process is refused too, and its death releases nothing
    if (child == 0) {
        struct file_lock *c = NULL;
        const enum status st = file_lock_try(&c, f->path, &held, &unsupported, NULL);
        _exit(st == OK && held && c == NULL ? 0 : 1);
    }
    int how = 1;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_int_equal(how, 0);
    file_unlock(a);
    assert_int_equal(file_lock_try(&b, f->path, &held, &unsupported, &e), OK);
    assert_non_null(b);
    file_unlock(b);
    const int unknown[] = {ENOLCK, ENOTSUP, ENOSYS, EINVAL};
    for (size_t i = 0; i < COUNTOF(unknown); i++) {
        g_fault.flock_error = unknown[i];
        assert_int_equal(file_lock_try(&b, f->path, &held, &unsupported, &e), OK);
        assert_null(b);
        assert_true(unsupported && !held);
    }
    g_fault.flock_error = EIO;
    assert_int_equal(file_lock_try(&b, f->path, &held, &unsupported, &e), E_IO);
    file_unlock(NULL);
}

static void test_append(void **state) {
    const struct fixture *f = *state;
    struct err e = {.code = OK};
    struct file_append *a = NULL;
    assert_int_equal(file_append_open(&a, f->path, &e), OK);
    assert_int_equal(file_append_write(a, "hello", 5, &e), OK);
    for (long k = 0; k < 6; k++) { // a full disk leaves what was there before
        struct err full = {.code = OK};
        g_fault.left = k;
        g_fault.error = ENOSPC;
        assert_int_equal(file_append_write(a, " world", 6, &full), E_IO);
        assert_non_null(strstr(full.msg, "no space left"));
        assert_int_equal(file_append_bytes(a), 5);
        assert_holds(f->path, "hello", 5);
    }
    no_faults();
    assert_int_equal(file_append_write(a, " world", 6, &e), OK);
    assert_int_equal(file_append_sync(a, &e), OK);
    file_append_close(a);
    assert_int_equal(file_append_open(&a, f->path, &e), OK);
    assert_int_equal(file_append_bytes(a), 11);
    assert_string_equal(file_append_borrow_path(a), f->path);
    assert_int_equal(file_append_truncate(a, 12, NULL), E_ARG);
    assert_int_equal(file_append_truncate(a, 4, &e), OK);
    assert_int_equal(file_append_write(a, "!", 1, &e), OK);
    file_append_close(a);
    assert_holds(f->path, "hell!", 5);
    file_append_close(NULL);
}

static void test_copy_prefix(void **state) {
    const struct fixture *f = *state;
    enum { N = 600000 };
    char *bytes = malloc(N), to[160];
    assert_non_null(bytes);
    for (size_t i = 0; i < N; i++) bytes[i] = (char)(i * 7 + i / 251);
    snprintf(to, sizeof to, "%s/copy", f->dir);
    assert_int_equal(file_write_atomic(f->path, bytes, N, FILE_REPLACE, NULL, NULL), OK);
    for (int by_hand = 0; by_hand < 2; by_hand++) {
        const int64_t lengths[] = {0, 1, 262144, 262145, N};
        g_fault.no_copy = by_hand == 1;
        for (size_t i = 0; i < COUNTOF(lengths); i++) {
            struct err e = {.code = OK};
            assert_int_equal(file_copy_prefix(f->path, to, lengths[i], &e), OK);
            assert_holds(to, bytes, (size_t)lengths[i]);
        }
        struct err e = {.code = OK};
        assert_int_equal(file_copy_prefix(f->path, to, N + 1, &e), E_IO);
        assert_non_null(strstr(e.msg, "ends 1 bytes too early"));
    }
    assert_int_equal(file_copy_prefix("/none", to, 1, NULL), E_NOINPUT);
    free(bytes);
}

// A symbolic link inside the tree is removed; what it points at stays.
static void test_remove_tree(void **state) {
    const struct fixture *f = *state;
    struct err e = {.code = OK};
    char tree[160], deep[192], file[224], at_link[192];
    snprintf(tree, sizeof tree, "%s/tree", f->dir);
    snprintf(deep, sizeof deep, "%s/a/b", tree);
    snprintf(at_link, sizeof at_link, "%s/a/link", tree);
    assert_int_equal(file_mkdirs(deep, &e), OK);
    for (int i = 0; i < 200; i++) {
        snprintf(file, sizeof file, "%s/%d", deep, i);
        fclose(fopen(file, "w"));
    }
    char outside[160];
    snprintf(outside, sizeof outside, "%s/outside", f->dir);
    assert_int_equal(file_mkdirs(outside, &e), OK);
    snprintf(file, sizeof file, "%s/kept", outside);
    assert_int_equal(file_write_atomic(file, "kept", 4, FILE_REPLACE, NULL, &e), OK);
    assert_int_equal(symlink(outside, at_link), 0);
    assert_int_equal(file_remove_tree(tree, &e), OK);
    assert_int_equal(access(tree, F_OK), -1);
    assert_holds(file, "kept", 4);
    assert_int_equal(file_remove_tree(tree, &e), OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_replace, setup, teardown),
        cmocka_unit_test_setup_teardown(test_create_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cannot_create, setup, teardown),
        cmocka_unit_test_setup_teardown(test_short_writes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disk_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_all, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mkdirs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock, setup, teardown),
        cmocka_unit_test_setup_teardown(test_append, setup, teardown),
        cmocka_unit_test_setup_teardown(test_copy_prefix, setup, teardown),
        cmocka_unit_test_setup_teardown(test_remove_tree, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
