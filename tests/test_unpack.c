/* Compressed files: whole, in a row, cut at every byte, with every byte wrong, bombs. Run from the
 * top directory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "io/file.h"
#include "tests/alloc_fail.h"
#include "tests/support_corpus.h"
#include "tests/support_pack.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// Text that compresses a little: words of a small vocabulary.
static void words(struct sbuf *b, size_t n) {
    uint32_t x = 12345;
    while (b->n < n) {
        x = x * 1664525u + 1013904223u;
        sbuf_printf(b, "%x ", x >> 20);
    }
    b->n = n;
    if (n > 0) b->s[n] = '\0';
}

// All of the content, cap bytes at a time; what came before an error is in `out`.
static enum status read_all(enum unpack_kind kind, int fd, int64_t size, size_t cap,
                            struct sbuf *out, struct err *e) {
    enum status st = OK;
    struct unpack *u = NULL;
    char *piece = malloc(cap);
    const struct unpack_file f = {fd, size, "bytes", kind};
    TRY(unpack_open(&u, &f, e));
    for (size_t n = 1; n > 0;) {
        TRY(unpack_read(u, piece, cap, &n, e));
        sbuf_add(out, piece, n);
    }
    size_t n = 1;
    TRY(unpack_read(u, piece, cap, &n, e)); // the end stays the end
    assert_int_equal(n, 0);
done:
    if (st == E_FORMAT) { // and a fault stays the fault
        size_t more = 1;
        struct err again = {.code = OK};
        assert_int_equal(unpack_read(u, piece, cap, &more, &again), E_FORMAT);
        assert_string_equal(again.msg, e->msg);
        assert_int_equal(more, 0);
    }
    unpack_close(u);
    free(piece);
    return st;
}

static enum status read_bytes(enum unpack_kind kind, const struct sbuf *packed, size_t n,
                              size_t cap, struct sbuf *out, struct err *e) {
    struct corpus_file f = corpus_test_bytes(packed->s, n, CORPUS_TXT);
    sbuf_clear(out);
    const enum status st = read_all(kind, f.fd, (int64_t)n, cap, out, e);
    close(f.fd);
    return st;
}

static void assert_content(enum unpack_kind kind, const struct sbuf *packed, size_t cap,
                           const struct sbuf *want) {
    struct err e = {.code = OK};
    struct sbuf got;
    sbuf_init(&got);
    if (read_bytes(kind, packed, packed->n, cap, &got, &e) != OK) fail_msg("%s", e.msg);
    assert_int_equal(got.n, want->n);
    if (want->n > 0) assert_memory_equal(got.s, want->s, want->n);
    sbuf_fini(&got);
}

static void test_suffixes(void **state) {
    (void)state;
    assert_int_equal(unpack_kind_of("a.txt.gz"), UNPACK_GZIP);
    assert_int_equal(unpack_kind_of("a.jsonl.ZST"), UNPACK_ZSTD);
    assert_int_equal(unpack_kind_of(".lz4"), UNPACK_LZ4);
    assert_int_equal(unpack_kind_of("gz"), UNPACK_NONE);
    assert_int_equal(unpack_kind_of("a.gz/b.txt"), UNPACK_NONE);
    assert_string_equal(unpack_suffix(UNPACK_NONE), "");
    assert_string_equal(unpack_suffix(UNPACK_ZSTD), ".zst");
}

static void test_content(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 1000, 65536, 131072, 700001};
    static const size_t caps[] = {7, 4096, 131072, 1 << 20};
    for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
        for (size_t i = 0; i < COUNTOF(sizes); i++) {
            struct sbuf text, packed;
            sbuf_init(&text);
            sbuf_init(&packed);
            words(&text, sizes[i]);
            pack_frame((enum unpack_kind)kind, sbuf_str(&text), text.n, &packed);
            for (size_t k = 0; k < COUNTOF(caps); k++) {
                assert_content((enum unpack_kind)kind, &packed, caps[k], &text);
            }
            sbuf_fini(&text);
            sbuf_fini(&packed);
        }
    }
}

// Members and frames in a row, empty and skippable ones between, wherever a buffer's end may fall.
static void test_concatenated(void **state) {
    (void)state;
    for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
        for (size_t shift = 0; shift < 12; shift++) {
            struct sbuf text, packed, want;
            sbuf_init(&text);
            sbuf_init(&packed);
            sbuf_init(&want);
            words(&text, 90000);
            pack_skippable((enum unpack_kind)kind, 65520 + shift, &packed);
            const size_t cuts[] = {0, 10 + shift, 10 + shift, 80000, 89999, 90000};
            for (size_t i = 1; i < COUNTOF(cuts); i++) {
                pack_frame((enum unpack_kind)kind, text.s + cuts[i - 1], cuts[i] - cuts[i - 1],
                           &packed);
                pack_skippable((enum unpack_kind)kind, i == 1 ? 0 : 65536 * (i % 2) + shift,
                               &packed);
            }
            sbuf_add(&want, text.s, text.n);
            assert_content((enum unpack_kind)kind, &packed, 5000, &want);
            sbuf_fini(&text);
            sbuf_fini(&packed);
            sbuf_fini(&want);
        }
    }
}

static void test_valid_files(void **state) {
    (void)state;
    static const char *const names[] = {"two.gz", "skips.zst", "skips.lz4"};
    for (size_t i = 0; i < COUNTOF(names); i++) {
        char path[200];
        struct sbuf packed, want;
        sbuf_init(&packed);
        sbuf_init(&want);
        snprintf(path, sizeof path, "tests/data/valid/unpack/%s", names[i]);
        assert_int_equal(file_read_all(path, 1 << 20, &packed, NULL), OK);
        for (int k = 0; k < 6; k++) {
            sbuf_puts(&want, "A text that is the same, the same, the same again.\n");
        }
        assert_content(unpack_kind_of(path), &packed, 64, &want);
        sbuf_fini(&packed);
        sbuf_fini(&want);
    }
}

// Cut anywhere but between two frames, a file is an error, and what came before is a beginning.
static void test_every_cut(void **state) {
    (void)state;
    for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
        struct sbuf text, packed, got;
        sbuf_init(&text);
        sbuf_init(&packed);
        sbuf_init(&got);
        words(&text, 900);
        pack_frame((enum unpack_kind)kind, text.s, 700, &packed);
        const size_t between = packed.n;
        pack_frame((enum unpack_kind)kind, text.s + 700, 200, &packed);
        for (size_t n = 0; n < packed.n; n++) {
            struct err e = {.code = OK};
            char where[64];
            const enum status st = read_bytes((enum unpack_kind)kind, &packed, n, 100, &got, &e);
            assert_int_equal(st, n == between ? OK : E_FORMAT);
            if (got.n > 0) assert_memory_equal(got.s, text.s, got.n);
            if (n == between) continue;
            snprintf(where, sizeof where, "bytes: compressed byte %zu: %s", n,
                     n > 0 ? "cut short" : "the file is empty");
            if (strstr(e.msg, where) != e.msg) fail_msg("%d %zu: %s", kind, n, e.msg);
        }
        sbuf_fini(&text);
        sbuf_fini(&packed);
        sbuf_fini(&got);
    }
}

// One wrong byte anywhere: an error, or (a time stamp, a name) the same content.
static void test_every_byte_wrong(void **state) {
    (void)state;
    for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
        struct sbuf text, packed, got;
        sbuf_init(&text);
        sbuf_init(&packed);
        sbuf_init(&got);
        words(&text, 700);
        pack_frame((enum unpack_kind)kind, text.s, text.n, &packed);
        int harmless = 0;
        for (size_t i = 0; i < packed.n * 9; i++) {
            struct err e = {.code = OK};
            char *at = &packed.s[i / 9];
            const char was = *at;
            *at = (char)(i % 9 < 8 ? was ^ 1 << i % 9 : ~was);
            const enum status st =
                read_bytes((enum unpack_kind)kind, &packed, packed.n, 100, &got, &e);
            *at = was;
            assert_true(st == OK || st == E_FORMAT);
            if (st != OK) continue;
            harmless++;
            assert_int_equal(got.n, text.n);
            assert_memory_equal(got.s, text.s, text.n);
        }
        assert_true(harmless <= (kind == UNPACK_GZIP ? 70 : 9));
        sbuf_fini(&text);
        sbuf_fini(&packed);
        sbuf_fini(&got);
    }
}

// What is handed out in front of damaged data does not depend on how it is asked for.
static void test_same_before_damage(void **state) {
    (void)state;
    for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
        struct sbuf text, packed, got;
        struct err first = {.code = OK};
        size_t want = 0;
        sbuf_init(&text);
        sbuf_init(&packed);
        sbuf_init(&got);
        words(&text, 900000);
        pack_frame((enum unpack_kind)kind, text.s, text.n, &packed);
        memset(packed.s + packed.n / 2, 0xFF, 64);
        static const size_t caps[] = {1, 7, 1000, 65536, 131072, 1 << 20};
        for (size_t i = 0; i < COUNTOF(caps); i++) {
            struct err e = {.code = OK};
            assert_int_equal(
                read_bytes((enum unpack_kind)kind, &packed, packed.n, caps[i], &got, &e), E_FORMAT);
            if (i == 0) {
                want = got.n;
                first = e;
            }
            assert_int_equal(got.n, want);
            assert_string_equal(e.msg, first.msg);
        }
        assert_true(want > 131072);
        if (kind != UNPACK_GZIP) { // damaged bits can mean something there; the checksum tells
            assert_true(want < text.n);
            assert_memory_equal(got.s, text.s, want);
        }
        sbuf_fini(&text);
        sbuf_fini(&packed);
        sbuf_fini(&got);
    }
}

// Reads without keeping. The number of bytes that came out.
static int64_t drain(enum unpack_kind kind, const struct sbuf *packed, struct err *e) {
    static char piece[1 << 17];
    struct corpus_file f = corpus_test_bytes(packed->s, packed->n, CORPUS_TXT);
    const struct unpack_file file = {f.fd, (int64_t)packed->n, "bomb", kind};
    struct unpack *u = NULL;
    int64_t total = 0;
    assert_int_equal(unpack_open(&u, &file, e), OK);
    for (size_t n = 1; n > 0; total += (int64_t)n) {
        if (unpack_read(u, piece, sizeof piece, &n, e) != OK) break;
    }
    unpack_close(u);
    close(f.fd);
    return total;
}

static void test_bombs(void **state) {
    (void)state;
    const clock_t begun = clock();
    enum { MIB = 1 << 20 };
    char *zeros = calloc(8, MIB);
    for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
        struct sbuf one, packed;
        sbuf_init(&one);
        sbuf_init(&packed);
        pack_frame((enum unpack_kind)kind, zeros, (size_t)8 * MIB, &one);
        for (int i = 0; i < 8; i++) sbuf_add(&packed, one.s, one.n);
        struct err e = {.code = OK}, bomb = {.code = OK};
        assert_int_equal(drain((enum unpack_kind)kind, &packed, &e), (int64_t)64 * MIB);
        assert_int_equal(e.code, OK); // of 64 MiB nobody needs to be afraid
        for (int i = 8; i < 25; i++) sbuf_add(&packed, one.s, one.n);
        const int64_t out = drain((enum unpack_kind)kind, &packed, &bomb);
        if (kind == UNPACK_LZ4) { // cannot reach the limit
            assert_int_equal(bomb.code, OK);
            assert_int_equal(out, (int64_t)200 * MIB);
        } else {
            assert_int_equal(bomb.code, E_FORMAT);
            assert_non_null(strstr(bomb.msg, "more than 1000 to 1 is taken for a decompression"));
            assert_true(out <= (int64_t)65 * MIB);
        }
        sbuf_fini(&one);
        sbuf_fini(&packed);
    }
    free(zeros);
    assert_true((double)(clock() - begun) / CLOCKS_PER_SEC < 20); // sanitizers are slow
}

static void test_size(void **state) {
    (void)state;
    for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
        struct sbuf packed, got;
        struct err e = {.code = OK}, shrunk = {.code = OK}, closed = {.code = OK};
        sbuf_init(&packed);
        sbuf_init(&got);
        pack_frame((enum unpack_kind)kind, "some text", 9, &packed);
        const int64_t n = (int64_t)packed.n;
        sbuf_puts(&packed, "what was added later");
        struct corpus_file f = corpus_test_bytes(packed.s, packed.n, CORPUS_TXT);
        assert_int_equal(read_all((enum unpack_kind)kind, f.fd, n, 3, &got, &e), OK);
        assert_string_equal(sbuf_str(&got), "some text");
        assert_int_equal(ftruncate(f.fd, n - 1), 0);
        assert_int_equal(read_all((enum unpack_kind)kind, f.fd, n, 3, &got, &shrunk), E_IO);
        assert_non_null(strstr(shrunk.msg, "has shrunk to"));
        close(f.fd);
        assert_int_equal(read_all((enum unpack_kind)kind, -1, n, 3, &got, &closed), E_IO);
        assert_non_null(strstr(closed.msg, "cannot read compressed byte 0"));
        sbuf_fini(&packed);
        sbuf_fini(&got);
    }
    unpack_close(NULL);
}

static void test_invalid(void **state) {
    (void)state;
    const char *const root = "tests/data/invalid/unpack";
    DIR *d = opendir(root);
    assert_non_null(d);
    int cases = 0;
    for (const struct dirent *entry; (entry = readdir(d)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        char path[600];
        struct sbuf packed, error, got;
        sbuf_init(&packed);
        sbuf_init(&error);
        sbuf_init(&got);
        enum unpack_kind kind = UNPACK_GZIP;
        for (;; kind++) {
            snprintf(path, sizeof path, "%s/%s/input%s", root, entry->d_name, unpack_suffix(kind));
            if (access(path, F_OK) == 0) break;
            assert_true((int)kind < (int)PACK_LAST);
        }
        assert_int_equal(file_read_all(path, 1 << 20, &packed, NULL), OK);
        snprintf(path, sizeof path, "%s/%s/error", root, entry->d_name);
        assert_int_equal(file_read_all(path, 1 << 20, &error, NULL), OK);
        error.s[--error.n] = '\0'; // the newline at its end
        const char *message = strchr(error.s, '\n');
        assert_non_null(message);
        static const size_t caps[] = {1, 11, 4096};
        for (size_t i = 0; i < COUNTOF(caps); i++) {
            struct err e = {.code = OK};
            const enum status st = read_bytes(kind, &packed, packed.n, caps[i], &got, &e);
            if (strncmp(error.s, err_name(st), (size_t)(message - error.s)) != 0 ||
                strstr(e.msg, message + 1) == NULL ||
                strncmp(e.msg, "bytes: compressed byte ", 23)) {
                fail_msg("%s: wanted \"%s\", got %s \"%s\"", entry->d_name, error.s, err_name(st),
                         e.msg);
            }
        }
        sbuf_fini(&packed);
        sbuf_fini(&error);
        sbuf_fini(&got);
        cases++;
    }
    closedir(d);
    assert_true(cases >= 55);
}

// zlib's memory passes through here; the other two libraries keep theirs to themselves.
static void test_allocations_fail(void **state) {
    (void)state;
    for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
        struct sbuf packed;
        sbuf_init(&packed);
        pack_frame((enum unpack_kind)kind, "some text", 9, &packed);
        struct corpus_file f = corpus_test_bytes(packed.s, packed.n, CORPUS_TXT);
        const struct unpack_file file = {f.fd, (int64_t)packed.n, "bytes", (enum unpack_kind)kind};
        bool done = false;
        int k = 0;
        for (; !done; k++) {
            struct err e = {.code = OK};
            struct unpack *u = NULL;
            char text[16];
            size_t n = 0;
            g_fail_at = k;
            enum status st = unpack_open(&u, &file, &e);
            assert_true((st == OK) == (u != NULL));
            if (st == OK) st = unpack_read(u, text, sizeof text, &n, &e);
            done = g_fail_at >= 0;
            g_fail_at = -1;
            assert_int_equal(st, done ? OK : E_NOMEM);
            assert_int_equal(e.code, st);
            assert_int_equal(n, done ? 9 : 0);
            unpack_close(u);
        }
        assert_true(k > (kind == UNPACK_GZIP ? 5 : 4));
        close(f.fd);
        sbuf_fini(&packed);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_suffixes),
        cmocka_unit_test(test_content),
        cmocka_unit_test(test_concatenated),
        cmocka_unit_test(test_valid_files),
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_every_byte_wrong),
        cmocka_unit_test(test_same_before_damage),
        cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_invalid),
        cmocka_unit_test(test_allocations_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
