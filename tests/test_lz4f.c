/* Result frames: cut at every byte, fed in every way, read by another program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "io/lz4f.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    size_t most; // bytes one write() takes; 0: no limit
    long left;   // bytes until the disk is full; -1: never
} g_fault;

ssize_t __real_write(int fd, const void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n) {
    if (g_fault.most > 0 && n > g_fault.most) n = g_fault.most;
    if (g_fault.left == 0) {
        errno = ENOSPC;
        return -1;
    }
    if (g_fault.left > 0) {
        if ((long)n > g_fault.left) n = (size_t)g_fault.left;
        g_fault.left -= (long)n;
    }
    return __real_write(fd, p, n);
}

struct fixture {
    char dir[64];
    char path[96];
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    snprintf(f->dir, sizeof f->dir, "/tmp/basin-lz4f-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof f->path, "%s/file", f->dir);
    g_fault.most = 0;
    g_fault.left = -1;
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    g_fault.most = 0;
    g_fault.left = -1;
    assert_int_equal(file_remove_tree(f->dir, NULL), OK);
    free(f);
    return 0;
}

// Text that compresses a little, lines of all lengths.
static char *make_text(size_t n) {
    char *s = malloc(n + 1);
    assert_non_null(s);
    uint32_t x = 12345;
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        s[i] = x >> 28 == 0 ? '\n' : (char)('a' + (x >> 24) % 20);
    }
    s[n] = '\0';
    return s;
}

static void read_file(const char *path, struct sbuf *b) {
    struct err e = {.code = OK};
    sbuf_clear(b);
    assert_int_equal(file_read_all(path, (size_t)1 << 30, b, &e), OK);
}

static void write_file(const char *path, const void *bytes, size_t n) {
    assert_int_equal(file_write_atomic(path, bytes, n, FILE_REPLACE, NULL, NULL), OK);
}

// All content of a file, read `cap` bytes at a time.
static enum status contents(const char *path, enum lz4f_tail tail, size_t cap, struct sbuf *out,
                            struct err *e) {
    enum status st = OK;
    struct lz4f_reader *r = NULL;
    char *buf = malloc(cap);
    assert_non_null(buf);
    sbuf_clear(out);
    TRY(lz4f_open(&r, path, tail, e));
    for (size_t n = 1; n > 0;) {
        TRY(lz4f_read(r, buf, cap, &n, e));
        sbuf_add(out, buf, n);
    }
done:
    lz4f_close(r);
    free(buf);
    return st;
}

// Writes `text` as a published file, `step` bytes a call (0: pieces of changing size).
static enum status publish(const char *path, const char *text, size_t n, int64_t total, size_t step,
                           struct err *e) {
    enum status st = OK;
    struct lz4f_writer *w = NULL;
    unlink(path);
    TRY(lz4f_create(&w, path, total, e));
    for (size_t at = 0, i = 1; at < n; i++) {
        size_t k = step > 0 ? step : (i * 7919) % 100003;
        if (k > n - at) k = n - at;
        TRY(lz4f_write(w, text + at, k, e));
        at += k;
    }
    TRY(lz4f_finish(w, e));
done:
    lz4f_writer_close(w);
    return st;
}

static void test_feed_sizes(void **state) {
    const struct fixture *f = *state;
    enum { N = 2 * LZ4F_BLOCK_BYTES + 1234 };
    char *text = make_text(N);
    const size_t steps[] = {N, 0, LZ4F_BLOCK_BYTES, LZ4F_BLOCK_BYTES - 1, 4096};
    struct sbuf first, now, back;
    sbuf_init(&first);
    sbuf_init(&now);
    sbuf_init(&back);
    for (size_t i = 0; i < COUNTOF(steps); i++) {
        struct err e = {.code = OK};
        assert_int_equal(publish(f->path, text, N, N, steps[i], &e), OK);
        read_file(f->path, i == 0 ? &first : &now);
        if (i == 0) continue;
        assert_int_equal(now.n, first.n);
        assert_memory_equal(now.s, first.s, now.n);
    }
    const unsigned char *u = (const unsigned char *)first.s;
    assert_memory_equal(u, "\x04\x22\x4d\x18", 4);
    assert_int_equal(u[4], 0x7C); // version 1, independent, block checksums, size, checksum
    assert_int_equal(u[5], 0x70);
    assert_int_equal(u[6] | u[7] << 8 | u[8] << 16 | u[9] << 24, N);
    assert_int_equal(contents(f->path, LZ4F_WHOLE, 65537, &back, NULL), OK);
    assert_int_equal(back.n, N);
    assert_memory_equal(back.s, text, N);
    sbuf_fini(&first);
    sbuf_fini(&now);
    sbuf_fini(&back);
    free(text);
}

static void test_unknown_and_empty(void **state) {
    const struct fixture *f = *state;
    struct err e = {.code = OK};
    struct sbuf back;
    struct lz4f_counts c;
    sbuf_init(&back);
    assert_int_equal(publish(f->path, "ab\nc", 4, -1, 1, &e), OK);
    assert_int_equal(contents(f->path, LZ4F_WHOLE, 1, &back, &e), OK);
    assert_string_equal(back.s, "ab\nc");
    assert_int_equal(publish(f->path, "", 0, 0, 1, &e), OK);
    assert_int_equal(lz4f_scan(f->path, LZ4F_WHOLE, &c, &e), OK);
    assert_int_equal(c.frames, 1);
    assert_int_equal(c.bytes + c.lines, 0);
    sbuf_fini(&back);
}

static void test_total_is_kept(void **state) {
    const struct fixture *f = *state;
    struct err more = {.code = OK}, less = {.code = OK}, exists = {.code = OK};
    assert_int_equal(publish(f->path, "abc", 3, 2, 3, &more), E_ARG);
    assert_int_equal(access(f->path, F_OK), -1);
    assert_int_equal(publish(f->path, "abc", 3, 4, 3, &less), E_ARG);
    assert_int_equal(access(f->path, F_OK), -1);
    write_file(f->path, "x", 1);
    struct lz4f_writer *w = NULL;
    assert_int_equal(lz4f_create(&w, f->path, 1, &exists), E_OUTPUT);
    assert_null(w);
    assert_int_equal(access(f->path, F_OK), 0); // not ours, not removed
}

// The lz4 program reads what we publish, and we read what it writes.
static void test_other_program(void **state) {
    const struct fixture *f = *state;
    if (system("lz4 --version >/dev/null 2>&1") != 0) skip();
    enum { N = LZ4F_BLOCK_BYTES + 77 };
    char *text = make_text(N), command[400], plain[120];
    struct sbuf back;
    sbuf_init(&back);
    snprintf(plain, sizeof plain, "%s/plain", f->dir);
    assert_int_equal(publish(f->path, text, N, N, 0, NULL), OK);
    snprintf(command, sizeof command, "lz4 -dc <%s >%s 2>/dev/null", f->path, plain);
    assert_int_equal(system(command), 0);
    read_file(plain, &back);
    assert_int_equal(back.n, N);
    assert_memory_equal(back.s, text, N);
    const char *const options[] = {"-1", "-9 -B4 -BD", "-1 -BX --content-size"};
    for (size_t i = 0; i < COUNTOF(options); i++) {
        snprintf(command, sizeof command, "lz4 %s -c <%s >%s 2>/dev/null", options[i], plain,
                 f->path);
        assert_int_equal(system(command), 0);
        assert_int_equal(contents(f->path, LZ4F_WHOLE, 100000, &back, NULL), OK);
        assert_int_equal(back.n, N);
        assert_memory_equal(back.s, text, N);
    }
    sbuf_fini(&back);
    free(text);
}

enum { N_FRAMES = 3 };
static const char *const g_rows[N_FRAMES] = {"{\"a\":1}\n{\"b\":2}\n", "{\"c\":333333333333333}\n",
                                             "{\"d\":4}\n{\"e\":5}\n{\"f\":6}\n"};

// A segment of three frames; ends[i] is where frame i ends.
static void make_segment(const char *path, int64_t ends[N_FRAMES]) {
    struct err e = {.code = OK};
    struct file_append *a = NULL;
    assert_int_equal(file_append_open(&a, path, &e), OK);
    for (int i = 0; i < N_FRAMES; i++) {
        assert_int_equal(lz4f_append(a, g_rows[i], strlen(g_rows[i]), &e), OK);
        assert_int_equal(lz4f_append(a, "", 0, &e), OK); // nothing
        ends[i] = file_append_bytes(a);
    }
    file_append_close(a);
}

static int frames_within(const int64_t ends[N_FRAMES], int64_t bytes) {
    int n = 0;
    while (n < N_FRAMES && ends[n] <= bytes) n++;
    return n;
}

static void assert_prefix(const char *path, const int64_t ends[N_FRAMES], int frames, bool torn) {
    struct err e = {.code = OK};
    struct lz4f_counts c;
    struct sbuf back, want;
    sbuf_init(&back);
    sbuf_init(&want);
    for (int i = 0; i < frames; i++) sbuf_puts(&want, g_rows[i]);
    assert_int_equal(lz4f_scan(path, LZ4F_TORN_OK, &c, &e), OK);
    assert_int_equal(c.frames, frames);
    assert_int_equal(c.valid_bytes, frames > 0 ? ends[frames - 1] : 0);
    assert_int_equal(c.torn, torn);
    assert_int_equal(c.bytes, want.n);
    assert_int_equal(contents(path, LZ4F_TORN_OK, 5, &back, &e), OK);
    assert_string_equal(sbuf_str(&back), sbuf_str(&want));
    const enum status whole = lz4f_scan(path, LZ4F_WHOLE, &c, &e);
    assert_int_equal(whole, torn ? E_FORMAT : OK);
    if (torn) assert_non_null(strstr(e.msg, path));
    sbuf_fini(&back);
    sbuf_fini(&want);
}

// A kill leaves any prefix of the file behind: resume finds the whole frames, cuts, goes on.
static void test_torn_at_every_byte(void **state) {
    const struct fixture *f = *state;
    int64_t ends[N_FRAMES];
    struct sbuf all;
    sbuf_init(&all);
    make_segment(f->path, ends);
    read_file(f->path, &all);
    for (size_t k = 0; k <= all.n; k++) {
        const int frames = frames_within(ends, (int64_t)k);
        write_file(f->path, all.s, k);
        assert_prefix(f->path, ends, frames, frames == 0 ? k > 0 : ends[frames - 1] < (int64_t)k);
    }
    struct file_append *a = NULL;
    write_file(f->path, all.s, (size_t)ends[1] + 9);
    assert_int_equal(file_append_open(&a, f->path, NULL), OK);
    assert_int_equal(file_append_truncate(a, ends[1], NULL), OK);
    assert_int_equal(lz4f_append(a, g_rows[2], strlen(g_rows[2]), NULL), OK);
    file_append_close(a);
    struct sbuf now;
    sbuf_init(&now);
    read_file(f->path, &now);
    assert_int_equal(now.n, all.n);
    assert_memory_equal(now.s, all.s, all.n);
    sbuf_fini(&now);
    sbuf_fini(&all);
}

// Every flipped byte is noticed by the frame it lies in; nothing of that frame is handed out.
static void test_flipped_bytes(void **state) {
    const struct fixture *f = *state;
    int64_t ends[N_FRAMES];
    struct sbuf all;
    sbuf_init(&all);
    make_segment(f->path, ends);
    read_file(f->path, &all);
    for (size_t k = 0; k < all.n; k++) {
        all.s[k] = (char)(all.s[k] ^ 0x21);
        write_file(f->path, all.s, all.n);
        assert_prefix(f->path, ends, frames_within(ends, (int64_t)k), true);
        all.s[k] = (char)(all.s[k] ^ 0x21);
    }
    sbuf_fini(&all);
}

static void test_lines(void **state) {
    const struct fixture *f = *state;
    enum { LONG = 700000 }; // longer than the reader's buffers
    struct sbuf text;
    struct err e = {.code = OK};
    struct lz4f_reader *r = NULL;
    const char *line = NULL;
    size_t n = 0;
    bool end = false;
    sbuf_init(&text);
    sbuf_puts(&text, "first\n\nthird\r\n");
    for (int i = 0; i < LONG; i++) sbuf_putc(&text, (char)('a' + i % 26));
    sbuf_puts(&text, "\n");
    for (int i = 0; i < 100000; i++) sbuf_printf(&text, "%d\n", i);
    sbuf_puts(&text, "last");
    assert_int_equal(publish(f->path, text.s, text.n, (int64_t)text.n, 0, &e), OK);
    assert_int_equal(lz4f_open(&r, f->path, LZ4F_WHOLE, &e), OK);
    const char *at = text.s;
    int64_t lines = 0;
    for (;; lines++) {
        assert_int_equal(lz4f_line(r, &line, &n, &end, &e), OK);
        if (end) break;
        const size_t want = strcspn(at, "\n");
        assert_int_equal(n, want);
        assert_memory_equal(line, at, n);
        assert_int_equal(line[n], '\0');
        at += want + (at[want] == '\n');
    }
    assert_int_equal(at - text.s, text.n);
    assert_int_equal(lz4f_line(r, &line, &n, &end, &e), OK);
    assert_true(end);
    lz4f_close(r);
    struct lz4f_counts c;
    assert_int_equal(lz4f_scan(f->path, LZ4F_WHOLE, &c, &e), OK);
    assert_int_equal(c.lines, lines);
    assert_int_equal(c.bytes, text.n);
    assert_int_equal(c.frames, 1);
    sbuf_fini(&text);
}

static void test_short_writes_and_full_disk(void **state) {
    const struct fixture *f = *state;
    enum { N = 3000 };
    char *text = make_text(N);
    struct sbuf whole, back;
    sbuf_init(&whole);
    sbuf_init(&back);
    g_fault.most = 7;
    assert_int_equal(publish(f->path, text, N, N, 0, NULL), OK);
    assert_int_equal(contents(f->path, LZ4F_WHOLE, 64, &back, NULL), OK);
    assert_memory_equal(back.s, text, N);
    read_file(f->path, &whole);
    for (size_t k = 0; k < whole.n; k += 13) { // full after k bytes: no file is left
        struct err e = {.code = OK};
        g_fault.left = (long)k;
        assert_int_equal(publish(f->path, text, N, N, 0, &e), E_IO);
        assert_non_null(strstr(e.msg, "no space left"));
        assert_int_equal(access(f->path, F_OK), -1);
    }
    g_fault.left = -1;
    struct file_append *a = NULL;
    assert_int_equal(file_append_open(&a, f->path, NULL), OK);
    assert_int_equal(lz4f_append(a, text, N, NULL), OK);
    const int64_t good = file_append_bytes(a);
    for (long k = 0; k < good; k += 17) { // the segment stays valid and can be appended to
        struct err e = {.code = OK};
        g_fault.left = k;
        assert_int_equal(lz4f_append(a, text, N, &e), E_IO);
        assert_int_equal(file_append_bytes(a), good);
    }
    g_fault.left = -1;
    assert_int_equal(lz4f_append(a, text, N, NULL), OK);
    file_append_close(a);
    assert_int_equal(contents(f->path, LZ4F_WHOLE, 4096, &back, NULL), OK);
    assert_int_equal(back.n, 2 * N);
    sbuf_fini(&whole);
    sbuf_fini(&back);
    free(text);
}

static void test_not_lz4(void **state) {
    const struct fixture *f = *state;
    struct err e = {.code = OK}, none = {.code = OK};
    struct lz4f_counts c;
    struct lz4f_reader *r = NULL;
    char byte;
    size_t n = 0;
    write_file(f->path, "plain text, no frame", 20);
    assert_int_equal(lz4f_scan(f->path, LZ4F_WHOLE, &c, &e), E_FORMAT);
    assert_non_null(strstr(e.msg, "bad LZ4 frame at byte 0"));
    assert_int_equal(lz4f_open(&r, f->path, LZ4F_WHOLE, NULL), OK);
    assert_int_equal(lz4f_read(r, &byte, 1, &n, NULL), E_FORMAT);
    assert_int_equal(lz4f_read(r, &byte, 1, &n, NULL), E_FORMAT); // and stays so
    lz4f_close(r);
    assert_int_equal(lz4f_open(&r, "/none", LZ4F_TORN_OK, &none), E_NOINPUT);
    assert_null(r);
    assert_int_equal(lz4f_open(&r, f->dir, LZ4F_WHOLE, NULL), E_NOINPUT);
    lz4f_close(NULL);
    lz4f_writer_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_feed_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown_and_empty, setup, teardown),
        cmocka_unit_test_setup_teardown(test_total_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_program, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn_at_every_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flipped_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_short_writes_and_full_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_lz4, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
