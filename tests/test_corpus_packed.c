/* Documents of compressed files: as those of the plain file, and never fewer without a word. Run
 * from the top directory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "io/file.h"
#include "tests/alloc_fail.h"
#include "tests/support_corpus.h"
#include "tests/support_pack.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct corpus_file packed_file(const struct sbuf *packed, size_t n, enum unpack_kind kind,
                                      enum corpus_kind what) {
    struct corpus_file f = corpus_test_bytes(packed->s, n, what);
    f.packing = kind;
    return f;
}

static void must_print(const struct corpus_file *f, size_t cap, struct sbuf *out) {
    struct err e = {.code = OK};
    sbuf_clear(out);
    if (corpus_test_print(f, cap, out, &e) != OK) fail_msg("%s", e.msg);
}

// The bytes as two frames, so that a line lies in both.
static void pack_twice(enum unpack_kind kind, const struct sbuf *plain, struct sbuf *packed) {
    sbuf_clear(packed);
    pack_frame(kind, plain->s, plain->n / 2, packed);
    pack_skippable(kind, 100, packed);
    pack_frame(kind, plain->s + plain->n / 2, plain->n - plain->n / 2, packed);
}

// Ids, offsets, texts and messages are those of the plain file, at every size of the buffer: lines
// longer than it are read a second time by a decoder that follows.
static void test_as_plain(void **state) {
    (void)state;
    struct sbuf plain, packed, want, got;
    sbuf_init(&plain);
    sbuf_init(&packed);
    sbuf_init(&want);
    sbuf_init(&got);
    assert_int_equal(file_read_all("tests/data/corpus/texts.jsonl", 1 << 24, &plain, NULL), OK);
    sbuf_puts(&plain,
              "not json\n{\"text\":\"\xff\"}\n\n{\"text\":\"\\ud800\",\"id\":7}\n{\"text\":1}");
    for (int what = 0; what < 4; what++) { // bit 0: JSON lines, bit 1: replace
        const enum corpus_kind lines = what & 1 ? CORPUS_JSONL : CORPUS_TXT;
        struct corpus_file f = corpus_test_bytes(plain.s, plain.n, lines);
        f.invalid_utf8 = what & 2 ? CORPUS_UTF8_REPLACE : CORPUS_UTF8_FAIL;
        must_print(&f, 4096, &want);
        assert_true(want.n > 1000);
        close(f.fd);
        for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
            pack_twice((enum unpack_kind)kind, &plain, &packed);
            struct corpus_file p = packed_file(&packed, packed.n, (enum unpack_kind)kind, lines);
            p.invalid_utf8 = f.invalid_utf8;
            must_print(&p, 4096, &got);
            assert_string_equal(got.s, want.s);
            for (p.buffer_bytes = 12; p.buffer_bytes < 60; p.buffer_bytes += 3) {
                must_print(&p, 4 + p.buffer_bytes % 5, &got);
                if (lines == CORPUS_JSONL || what & 2) assert_string_equal(got.s, want.s);
            }
            close(p.fd);
        }
    }
    sbuf_fini(&plain);
    sbuf_fini(&packed);
    sbuf_fini(&want);
    sbuf_fini(&got);
}

static void test_ids(void **state) {
    (void)state;
    struct sbuf plain, packed, want, got;
    sbuf_init(&plain);
    sbuf_init(&packed);
    sbuf_init(&want);
    sbuf_init(&got);
    for (int d = 0; d < 20; d++) {
        sbuf_printf(&plain, "{\"id\":\"d%d\",\"ids\":[%d", d, d);
        for (int i = 1; i < d * d; i++) sbuf_printf(&plain, ", %d", i * 7919);
        sbuf_puts(&plain, d % 3 == 0 ? ",-1]}\n" : "]}\r\n");
    }
    struct corpus_file f = corpus_test_bytes(plain.s, plain.n, CORPUS_JSONL);
    f.ids_key = "ids";
    must_print(&f, 100, &want);
    close(f.fd);
    for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
        pack_twice((enum unpack_kind)kind, &plain, &packed);
        struct corpus_file p = packed_file(&packed, packed.n, (enum unpack_kind)kind, CORPUS_JSONL);
        p.ids_key = "ids";
        for (size_t cap = 1; cap < 600; cap = cap * 3 + 1) {
            p.buffer_bytes = 12 + cap % 50;
            must_print(&p, cap, &got);
            assert_string_equal(got.s, want.s);
        }
        close(p.fd);
    }
    sbuf_fini(&plain);
    sbuf_fini(&packed);
    sbuf_fini(&want);
    sbuf_fini(&got);
}

// From the offset of every document of `all` (a print of the whole file, none failed) the rest is
// the same, going backwards and forwards.
static void check_seeks(const struct corpus_file *f, const struct sbuf *all) {
    struct err e = {.code = OK};
    struct corpus *c = NULL;
    struct sbuf got;
    sbuf_init(&got);
    size_t begins[64], n = 0;
    for (size_t at = 0; at < all->n; at += strcspn(all->s + at, "\n") + 1) begins[n++] = at;
    assert_int_equal(corpus_open(&c, f, &e), OK);
    for (size_t i = 0; i < 2 * n; i++) {
        const char *want = all->s + begins[i < n ? n - 1 - i : i - n];
        const int64_t offset = strtoll(want, NULL, 10);
        sbuf_clear(&got);
        if (corpus_seek(c, offset, &e) != OK) fail_msg("%s", e.msg);
        if (corpus_test_print_rest(c, 64, &got, &e) != OK) fail_msg("%s", e.msg);
        assert_string_equal(got.s, want);
    }
    corpus_close(c);
    sbuf_fini(&got);
}

static const char some_lines[] = "{\"text\":\"first\",\"id\":\"a\"}\n"
                                 "{\"text\":\"a second one, somewhat longer than others\"}\n\n"
                                 "{\"text\":\"third \\u00e9\\ud83d\\ude00\"}\r\n"
                                 "{\"id\":4,\"text\":\"fourth\"}\n";

static void test_seek(void **state) {
    (void)state;
    struct sbuf plain, packed, all;
    sbuf_init(&plain);
    sbuf_init(&packed);
    sbuf_init(&all);
    sbuf_puts(&plain, some_lines);
    for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
        pack_twice((enum unpack_kind)kind, &plain, &packed);
        struct corpus_file f = packed_file(&packed, packed.n, (enum unpack_kind)kind, CORPUS_JSONL);
        for (f.buffer_bytes = 12; f.buffer_bytes < 200; f.buffer_bytes += 17) {
            must_print(&f, 64, &all);
            check_seeks(&f, &all);
        }
        struct corpus *c = NULL;
        struct corpus_doc doc;
        bool end = false;
        const int64_t n = (int64_t)plain.n;
        assert_int_equal(corpus_open(&c, &f, NULL), OK);
        assert_int_equal(corpus_seek(c, n, NULL), OK);
        assert_int_equal(corpus_next(c, &doc, &end, NULL), OK);
        assert_true(end);
        assert_int_equal(corpus_seek(c, n - 1, NULL), E_FORMAT);
        assert_int_equal(corpus_seek(c, n + 1, NULL), E_FORMAT);
        assert_int_equal(corpus_seek(c, -1, NULL), E_ARG);
        assert_int_equal(corpus_seek(c, 0, NULL), OK);
        assert_int_equal(corpus_next(c, &doc, &end, NULL), OK);
        assert_string_equal(doc.id, "a");
        corpus_close(c);
        f.begin = 1;
        assert_int_equal(corpus_open(&c, &f, NULL), E_ARG);
        f.begin = 0;
        f.end = f.size = (int64_t)packed.n;
        assert_int_equal(corpus_open(&c, &f, NULL), E_ARG);
        close(f.fd);
    }
    sbuf_fini(&plain);
    sbuf_fini(&packed);
    sbuf_fini(&all);
}

// The documents of a file that cannot be decompressed to its end: good ones as in the whole file,
// then exactly one failure, then the end; and from each document's offset the same again.
static void check_damaged(const struct corpus_file *f, const char *whole, const char *why) {
    struct err e = {.code = OK};
    struct corpus *c = NULL;
    struct corpus_doc doc;
    int64_t offsets[16];
    char text[256];
    bool end = false;
    int n = 0;
    assert_int_equal(corpus_open(&c, f, &e), OK);
    for (;; n++) {
        struct err bad = {.code = OK};
        size_t got = 0;
        enum status st = corpus_next(c, &doc, &end, &bad);
        if (st == OK && end) break;
        assert_true(n < 16);
        offsets[n] = doc.offset;
        for (got = 1; st == OK && got > 0;) st = corpus_read_text(c, text, 200, &got, &bad);
        if (st == OK) {
            char head[64];
            snprintf(head, sizeof head, "%" PRId64 "\t%s\t", doc.offset, doc.id);
            assert_non_null(strstr(whole, head));
            continue;
        }
        assert_int_equal(st, E_FORMAT);
        if (strstr(bad.msg, why) == NULL) fail_msg("%s", bad.msg);
        assert_int_equal(corpus_next(c, &doc, &end, &bad), OK);
        assert_true(end);
        n++;
        break;
    }
    assert_true(n > 0 && end);
    struct err bad = {.code = OK};
    for (int i = n; i-- > 0;) {
        if (f->kind == CORPUS_JSONL && corpus_seek(c, offsets[i], &e) != OK) fail_msg("%s", e.msg);
        if (f->kind != CORPUS_JSONL) break;
        const enum status st = corpus_next(c, &doc, &end, &bad);
        assert_int_equal(st, i < n - 1 ? OK : E_FORMAT);
        assert_int_equal(doc.offset, offsets[i]);
        assert_false(end);
    }
    corpus_close(c);
}

static void test_every_cut(void **state) {
    (void)state;
    struct sbuf packed, whole;
    sbuf_init(&packed);
    sbuf_init(&whole);
    for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
        for (int what = 0; what < 2; what++) {
            const enum corpus_kind lines = what == 0 ? CORPUS_TXT : CORPUS_JSONL;
            sbuf_clear(&packed);
            pack_frame((enum unpack_kind)kind, some_lines, sizeof some_lines - 1, &packed);
            struct corpus_file f = packed_file(&packed, packed.n, (enum unpack_kind)kind, lines);
            must_print(&f, 64, &whole);
            close(f.fd);
            for (size_t n = 0; n < packed.n; n++) {
                struct corpus_file cut = packed_file(&packed, n, (enum unpack_kind)kind, lines);
                for (size_t b = 0; b < 3; b++) {
                    cut.buffer_bytes = b == 0 ? 0 : 12 + b * n % 60;
                    check_damaged(&cut, whole.s, n == 0 ? "the file is empty" : "cut short");
                }
                close(cut.fd);
            }
        }
    }
    sbuf_fini(&packed);
    sbuf_fini(&whole);
}

// The content ends at every place, a wrong frame behind it: every line that is whole is a document,
// what is not is the failure's, in whatever line or gap it falls.
static void test_every_end(void **state) {
    (void)state;
    struct sbuf packed, whole;
    sbuf_init(&packed);
    sbuf_init(&whole);
    struct corpus_file plain = corpus_test_bytes(some_lines, sizeof some_lines - 1, CORPUS_JSONL);
    must_print(&plain, 64, &whole);
    close(plain.fd);
    for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
        for (size_t n = 0; n < sizeof some_lines; n++) {
            sbuf_clear(&packed);
            pack_frame((enum unpack_kind)kind, some_lines, n, &packed);
            sbuf_puts(&packed, "tail");
            struct corpus_file f =
                packed_file(&packed, packed.n, (enum unpack_kind)kind, CORPUS_JSONL);
            int lines = 0;
            for (size_t i = 1; i < n; i++) {
                lines += some_lines[i] == '\n' && some_lines[i - 1] != '\n';
            }
            for (size_t b = 0; b < 4; b++) {
                f.buffer_bytes = b == 0 ? 0 : 12 + b * n % 60;
                check_damaged(&f, whole.s, "4 bytes of something else behind");
                struct sbuf got;
                sbuf_init(&got);
                must_print(&f, 64, &got);
                int printed = -1; // the failure
                for (size_t i = 0; i < got.n; i++) printed += got.s[i] == '\n';
                assert_int_equal(printed, lines);
                sbuf_fini(&got);
            }
            close(f.fd);
        }
    }
    sbuf_fini(&packed);
    sbuf_fini(&whole);
}

// A line that fails by itself, and in whose rest the content ends: both are said, each once, and
// each can be gone to.
static void test_bad_line_then_lost(void **state) {
    (void)state;
    static const char lines[] =
        "{\"text\":\"a\"}\n{\"text\":?, and on and on and on without an end";
    for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
        struct sbuf packed, got, want;
        sbuf_init(&packed);
        sbuf_init(&got);
        sbuf_init(&want);
        pack_frame((enum unpack_kind)kind, lines, sizeof lines - 1, &packed);
        const size_t n = packed.n;
        sbuf_puts(&packed, "tail");
        struct corpus_file f = packed_file(&packed, packed.n, (enum unpack_kind)kind, CORPUS_JSONL);
        sbuf_printf(&want,
                    "0\tbytes#0\t61\n"
                    "!bytes: byte 21 (line 2): expected a value, found '?'\n"
                    "!bytes: compressed byte %zu: 4 bytes of something else behind the last ",
                    n);
        for (f.buffer_bytes = 12; f.buffer_bytes < 100; f.buffer_bytes++) {
            must_print(&f, 64, &got);
            assert_memory_equal(got.s, want.s, want.n);
            struct corpus *c = NULL;
            struct corpus_doc doc;
            bool end = false;
            assert_int_equal(corpus_open(&c, &f, NULL), OK);
            for (int i = 0; i < 2; i++) {
                assert_int_equal(corpus_seek(c, 13, NULL), OK);
                assert_int_equal(corpus_next(c, &doc, &end, NULL), E_FORMAT);
                assert_int_equal(doc.offset, 13);
                assert_int_equal(corpus_next(c, &doc, &end, NULL), E_FORMAT);
                assert_int_equal(doc.offset, sizeof lines - 1);
                assert_int_equal(corpus_seek(c, doc.offset, NULL), OK);
                assert_int_equal(corpus_next(c, &doc, &end, NULL), E_FORMAT);
                assert_int_equal(doc.offset, sizeof lines - 1);
                assert_int_equal(corpus_next(c, &doc, &end, NULL), OK);
                assert_true(end);
            }
            corpus_close(c);
        }
        close(f.fd);
        sbuf_fini(&packed);
        sbuf_fini(&got);
        sbuf_fini(&want);
    }
}

// Names that lie: the document fails (one that stands for all, of JSON lines), not the file.
static void test_wrong_kind(void **state) {
    (void)state;
    for (int what = 0; what < 2; what++) {
        struct corpus_file f =
            corpus_test_bytes("{\"text\":\"a\"}\n", 13, what == 0 ? CORPUS_TXT : CORPUS_JSONL);
        struct corpus *c = NULL;
        struct corpus_doc doc;
        struct err e = {.code = OK};
        char text[64];
        size_t n = 0;
        bool end = false;
        f.packing = UNPACK_ZSTD;
        f.source = "d/b.zst";
        assert_int_equal(corpus_open(&c, &f, NULL), OK);
        enum status st = corpus_next(c, &doc, &end, &e);
        assert_int_equal(st, what == 0 ? OK : E_FORMAT);
        assert_string_equal(doc.id, what == 0 ? "d/b.zst" : "d/b.zst#0");
        if (st == OK) st = corpus_read_text(c, text, sizeof text, &n, &e);
        assert_int_equal(st, E_FORMAT);
        assert_string_equal(e.msg, "d/b.zst: compressed byte 0: not zstd, which the name's .zst "
                                   "stands for");
        assert_int_equal(corpus_next(c, &doc, &end, NULL), OK);
        assert_true(end);
        corpus_close(c);
        close(f.fd);
    }
}

static void test_allocations_fail(void **state) {
    (void)state;
    struct sbuf packed;
    sbuf_init(&packed);
    for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
        sbuf_clear(&packed);
        pack_frame((enum unpack_kind)kind, some_lines, sizeof some_lines - 1, &packed);
        struct corpus_file f = packed_file(&packed, packed.n, (enum unpack_kind)kind, CORPUS_JSONL);
        f.buffer_bytes = 12; // so that the second head is opened too
        bool done = false;
        int k = 0;
        for (; !done; k++) {
            struct err e = {.code = OK};
            struct corpus *c = NULL;
            struct corpus_doc doc;
            bool end = false;
            char text[64];
            g_fail_at = k;
            enum status st = corpus_open(&c, &f, &e);
            while (st == OK && !end) {
                st = corpus_next(c, &doc, &end, &e);
                for (size_t n = !end; st == OK && n > 0;) {
                    st = corpus_read_text(c, text, sizeof text, &n, &e);
                }
            }
            done = g_fail_at >= 0;
            g_fail_at = -1;
            assert_int_equal(st, done ? OK : E_NOMEM);
            assert_int_equal(e.code, st);
            // Memory is there again: so are all documents.
            if (c != NULL && st != OK) {
                struct sbuf rest;
                sbuf_init(&rest);
                assert_int_equal(corpus_seek(c, 0, NULL), OK);
                assert_int_equal(corpus_test_print_rest(c, 64, &rest, NULL), OK);
                assert_non_null(strstr(rest.s, "\t4\t"));
                sbuf_fini(&rest);
            }
            corpus_close(c);
        }
        assert_true(k > 10);
        close(f.fd);
    }
    sbuf_fini(&packed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_plain),   cmocka_unit_test(test_ids),
        cmocka_unit_test(test_seek),       cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_every_end),  cmocka_unit_test(test_bad_line_then_lost),
        cmocka_unit_test(test_wrong_kind), cmocka_unit_test(test_allocations_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
