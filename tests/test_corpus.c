/* Documents of corpora: against Python's results, cut at every buffer size and into every slice,
 * malformed in every way. Run from the top directory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "io/corpus.h"
#include "io/file.h"
#include "tests/alloc_fail.h"
#include "tests/support_corpus.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void read_file(const char *path, struct sbuf *b) {
    struct err e = {.code = OK};
    sbuf_init(b);
    assert_int_equal(file_read_all(path, (size_t)1 << 30, b, &e), OK);
}

static void assert_prints(const struct corpus_file *f, size_t cap, const char *want) {
    struct sbuf got;
    struct err e = {.code = OK};
    sbuf_init(&got);
    const enum status st = corpus_test_print(f, cap, &got, &e);
    if (st != OK) fail_msg("%s", e.msg);
    assert_string_equal(sbuf_str(&got), want);
    sbuf_fini(&got);
}

static void test_against_python(void **state) {
    (void)state;
    struct sbuf want;
    read_file("tests/data/corpus/texts.expected", &want);
    struct corpus_file f =
        corpus_test_file("tests/data/corpus/texts.jsonl", "texts.jsonl", CORPUS_JSONL);
    assert_prints(&f, 4096, want.s);
    const size_t caps[] = {4, 5, 6, 7, 64, 4096};
    for (f.buffer_bytes = 12; f.buffer_bytes < 80; f.buffer_bytes++) {
        assert_prints(&f, caps[f.buffer_bytes % COUNTOF(caps)], want.s);
    }
    sbuf_fini(&want);
}

static size_t unhex(const char *from, size_t n, char *to) {
    for (size_t i = 0; i + 1 < n; i += 2) {
        unsigned v = 0;
        assert_int_equal(sscanf(from + i, "%2x", &v), 1);
        to[i / 2] = (char)v;
    }
    return n / 2;
}

// errors="replace" as Python does it, in a text file and in a JSON string.
static void test_replace(void **state) {
    (void)state;
    struct sbuf cases;
    read_file("tests/data/corpus/replace.hex", &cases);
    for (const char *at = cases.s; *at != '\0';) {
        char bytes[400] = "{\"text\":\"", want[800];
        const size_t prefix = strlen(bytes), in_hex = strcspn(at, " ");
        const size_t out_hex = strcspn(at + in_hex + 1, "\n");
        const size_t n = prefix + unhex(at, in_hex, bytes + prefix);
        memcpy(bytes + n, "\"}", 2);
        for (int json = 0; json < 2; json++) {
            struct corpus_file f = json ? corpus_test_bytes(bytes, n + 2, CORPUS_JSONL)
                                        : corpus_test_bytes(bytes + prefix, n - prefix, CORPUS_TXT);
            f.invalid_utf8 = CORPUS_UTF8_REPLACE;
            snprintf(want, sizeof want, "0\t%s\t%.*s\n", json ? "bytes#0" : "bytes", (int)out_hex,
                     at + in_hex + 1);
            assert_prints(&f, 4096, want);
            f.buffer_bytes = 12;
            assert_prints(&f, 4, want);
            close(f.fd);
        }
        at += in_hex + 1 + out_hex + 1;
    }
    sbuf_fini(&cases);
    static const char lone[] = "{\"text\":\"\\ud83d\\u0041\\ude00\"}";
    struct corpus_file f = corpus_test_bytes(lone, sizeof lone - 1, CORPUS_JSONL);
    f.invalid_utf8 = CORPUS_UTF8_REPLACE;
    assert_prints(&f, 4, "0\tbytes#0\tefbfbd41efbfbd\n");
    close(f.fd);
}

static void test_ids(void **state) {
    (void)state;
    static const char lines[] = "{\"ids\":[]}\n{\"id\":\"x\",\"ids\":[ 0 ,\r2147483647,7 ]}\n"
                                "{\"ids\":[1,2,3,4,5,6,7,8,9,10],\"id\":1.50e+3}";
    static const char want[] = "0\tbytes#0\t\n11\tx\t0,2147483647,7,\n"
                               "49\t1.50e+3\t1,2,3,4,5,6,7,8,9,10,\n";
    struct corpus_file f = corpus_test_bytes(lines, sizeof lines - 1, CORPUS_JSONL);
    f.ids_key = "ids";
    f.text_key = "text";
    for (size_t cap = 1; cap < 12; cap++) {
        for (f.buffer_bytes = 12; f.buffer_bytes < 70; f.buffer_bytes++) {
            assert_prints(&f, cap, want);
        }
    }
    close(f.fd);
}

// Lines of a generate job, at every size of the buffer.
static void test_chats(void **state) {
    (void)state;
    static const char text[] =
        "{\"id\":\"c\",\"messages\":[{\"role\":\"user\",\"content\":\"H\\u00e9 ]\"}] }\n"
        "{\"text\":\"ab\"}\n"
        "{\"custom_id\":\"r1\",\"id\":\"not this\",\"body\":{\"prompt\":\"x}\"},\"url\":\"/v1\"}\n"
        "{\"body\": {\"messages\": []}, \"id\": \"nor this\", \"custom_id\": 7}\n"
        "{\"body\":{},\"text\":\"t\"}\n"
        "{\"text\":\"t\",\"messages\":[]}\n"
        "{\"custom_id\":\"a\",\"body\":{},\"text\":\"t\"}\n"
        "{\"custom_id\":\"a\",\"body\":[1]}\n"
        "{\"custom_id\":\"a\",\"body\":{\"a\":}}\n"
        "{\"messages\":\"hi\"}\n"
        "{\"custom_id\":\"a\"}\n"
        "{\"messages\":[1,[2]]}";
    static const char want[] =
        "0\tc\tchat [{\"role\":\"user\",\"content\":\"H\\u00e9 ]\"}]\n"
        "63\tbytes#63\t6162\n"
        "77\tr1\tbody {\"prompt\":\"x}\"}\n"
        "147\t7\tbody {\"messages\": []}\n"
        "208\tbytes#208\t74\n"
        "!bytes: byte 254 (line 6): both \"text\" and \"messages\"\n"
        "!bytes: byte 258 (line 7): custom_id and body, and a prompt of its own beside them\n"
        "!bytes: byte 297 (line 8): \"body\" is not an object\n"
        "!bytes: byte 355 (line 9): expected a value, found '}'\n"
        "!bytes: byte 370 (line 10): \"messages\" is a string, not an array\n"
        "!bytes: byte 376 (line 11): no key \"text\"; the keys are \"custom_id\"\n"
        "394\tbytes#394\tchat [1,[2]]\n";
    struct corpus_file f = corpus_test_bytes(text, sizeof text - 1, CORPUS_JSONL);
    f.messages_key = "messages";
    f.batch = true;
    for (f.buffer_bytes = 12; f.buffer_bytes < 80; f.buffer_bytes++) assert_prints(&f, 64, want);
    close(f.fd);
    // A score job takes none of them.
    f = corpus_test_bytes("{\"custom_id\":1,\"body\":{}}", 25, CORPUS_JSONL);
    assert_prints(
        &f, 64,
        "!bytes: byte 0 (line 1): no key \"text\": custom_id and body make this a line of an "
        "OpenAI batch, input of a generate job; a score job reads a text or token ids from "
        "each line\n");
    close(f.fd);
}

// A chat may have 4 MiB.
static void test_chat_limit(void **state) {
    (void)state;
    for (int more = 0; more < 2; more++) {
        struct sbuf b, got;
        struct err e = {.code = OK};
        sbuf_init(&b);
        sbuf_init(&got);
        sbuf_puts(&b, "{\"messages\":[\"");
        for (int i = 0; i < (4 << 20) - 4 + more; i++) sbuf_putc(&b, 'x');
        sbuf_puts(&b, "\"]}\n");
        struct corpus_file f = corpus_test_bytes(b.s, b.n, CORPUS_JSONL);
        f.messages_key = "messages";
        assert_int_equal(corpus_test_print(&f, 64, &got, &e), OK);
        assert_int_equal(strstr(sbuf_str(&got), "longer than 4194304 bytes") != NULL, more);
        close(f.fd);
        sbuf_fini(&b);
        sbuf_fini(&got);
    }
}

static void test_text_files(void **state) {
    (void)state;
    struct corpus_file empty = corpus_test_bytes("", 0, CORPUS_TXT);
    assert_prints(&empty, 4, "0\tbytes\t\n");
    close(empty.fd);
    struct corpus_file bom =
        corpus_test_bytes("\xef\xbb\xbf\r\n\0", 6, CORPUS_TXT); // all of it is content
    assert_prints(&bom, 4, "0\tbytes\tefbbbf0d0a00\n");
    close(bom.fd);
}

static void test_blank_lines(void **state) {
    (void)state;
    const char *const blank[] = {"", "\n", " \t\r\n\n", "\xef\xbb\xbf", "\xef\xbb\xbf\n  "};
    for (size_t i = 0; i < COUNTOF(blank); i++) {
        struct corpus_file f = corpus_test_bytes(blank[i], strlen(blank[i]), CORPUS_JSONL);
        assert_prints(&f, 4, "");
        close(f.fd);
    }
    static const char lines[] = "\xef\xbb\xbf{\"text\":\"a\"}\r\n\r\n{\"text\":\"b\"}";
    struct corpus_file f = corpus_test_bytes(lines, sizeof lines - 1, CORPUS_JSONL);
    assert_prints(&f, 4, "0\tbytes#0\t61\n19\tbytes#19\t62\n");
    close(f.fd);
}

// However a file is cut into slices, every document comes once, in order, under the same name.
static void test_slices(void **state) {
    (void)state;
    static const char lines[] =
        "\xef\xbb\xbf{\"text\":\"a\"}\n\n \n{\"text\":\"b\",\"id\":\"B\"}\r\n"
        "not json\n{\"text\":\"\\n\"}\n{\"text\":1}\n\n{\"text\":\"\"}";
    const int64_t n = sizeof lines - 1;
    struct corpus_file f = corpus_test_bytes(lines, (size_t)n, CORPUS_JSONL);
    struct sbuf got;
    sbuf_init(&got);
    for (int64_t i = 0; i <= n; i++) {
        for (int64_t j = i; j <= n; j++) {
            const int64_t cuts[] = {0, i, j, n};
            sbuf_clear(&got);
            for (int k = 0; k < 3; k++) {
                f.begin = cuts[k];
                f.end = cuts[k + 1];
                f.buffer_bytes = 12 + (size_t)(i + j) % 30;
                assert_int_equal(corpus_test_print(&f, 4, &got, NULL), OK);
            }
            // Whether a message knows the line's number depends on the slice.
            static const char *const want[] = {"0\tbytes#0\t61",  "19\tB\t62",
                                               "!bytes: byte 42", "51\tbytes#51\t0a",
                                               "!bytes: byte 73", "77\tbytes#77\t"};
            const char *at = sbuf_str(&got);
            for (size_t k = 0; k < COUNTOF(want); k++) {
                const size_t line = strcspn(at, "\n");
                assert_memory_equal(at, want[k], strlen(want[k]));
                assert_true(want[k][0] == '!' || line == strlen(want[k]));
                at += line + 1;
            }
            assert_int_equal(at - got.s, got.n);
        }
    }
    close(f.fd);
    sbuf_fini(&got);
}

static void test_seek(void **state) {
    (void)state;
    static const char lines[] = "{\"text\":\"a\"}\n{\"text\":\"b\"}\n{\"text\":\"c\"}\n";
    struct corpus_file f = corpus_test_bytes(lines, sizeof lines - 1, CORPUS_JSONL);
    struct corpus *c = NULL;
    struct corpus_doc doc;
    struct err e = {.code = OK};
    char text[8];
    size_t n = 0;
    bool end = false;
    assert_int_equal(corpus_open(&c, &f, &e), OK);
    const int64_t offsets[] = {26, 13, 0};
    for (size_t i = 0; i < COUNTOF(offsets); i++) {
        assert_int_equal(corpus_seek(c, offsets[i], &e), OK);
        assert_int_equal(corpus_next(c, &doc, &end, &e), OK);
        assert_int_equal(doc.offset, offsets[i]);
        assert_int_equal(corpus_read_text(c, text, 8, &n, &e), OK);
        assert_int_equal(text[0], "cba"[i]);
        assert_int_equal(corpus_read_ids(c, (int32_t[1]){0}, 1, &n, NULL), E_ARG);
    }
    assert_int_equal(corpus_seek(c, 39, &e), OK);
    assert_int_equal(corpus_next(c, &doc, &end, &e), OK);
    assert_true(end);
    assert_int_equal(corpus_read_text(c, text, 8, &n, NULL), E_ARG);
    assert_int_equal(corpus_seek(c, 12, NULL), E_FORMAT);
    assert_int_equal(corpus_seek(c, 40, NULL), E_ARG);
    corpus_close(c);
    close(f.fd);
}

// A run that goes on in the middle of a file says the same of a bad line, number and all.
static void test_seek_knows_lines(void **state) {
    (void)state;
    static const char lines[] = "{\"text\":\"a\"}\n\n{\"text\":\"b\"}\r\nnot json\n";
    struct corpus_file f = corpus_test_bytes(lines, sizeof lines - 1, CORPUS_JSONL);
    const int64_t offsets[] = {0, 14, 28};
    for (f.buffer_bytes = 12; f.buffer_bytes < 50; f.buffer_bytes++) {
        for (size_t i = 0; i < COUNTOF(offsets); i++) {
            struct corpus *c = NULL;
            struct sbuf got;
            sbuf_init(&got);
            assert_int_equal(corpus_open(&c, &f, NULL), OK);
            assert_int_equal(corpus_seek(c, offsets[i], NULL), OK);
            assert_int_equal(corpus_test_print_rest(c, 64, &got, NULL), OK);
            assert_non_null(strstr(got.s, "!bytes: byte 28 (line 4): expected a JSON object"));
            corpus_close(c);
            sbuf_fini(&got);
        }
    }
    close(f.fd);
}

// One case of tests/data/invalid/corpus. Behind a bad line comes a good one, which must be read.
static void check_invalid(const char *name, const char *error, struct corpus_file f) {
    struct err e = {.code = OK};
    struct corpus *c = NULL;
    struct corpus_doc doc;
    char text[4096];
    bool end = false;
    const char *message = strchr(error, '\n');
    assert_non_null(message);
    assert_int_equal(corpus_open(&c, &f, &e), OK);
    enum status st = corpus_next(c, &doc, &end, &e);
    for (size_t n = 1; st == OK && n > 0;) st = corpus_read_text(c, text, sizeof text, &n, &e);
    if (strncmp(error, err_name(st), (size_t)(message - error)) != 0 || st == OK ||
        strstr(e.msg, message + 1) == NULL) {
        fail_msg("%s: wanted \"%s\", got %s \"%s\"", name, error, err_name(st), e.msg);
    }
    assert_string_equal(doc.source, f.source);
    assert_true(f.kind == CORPUS_TXT || strchr(doc.id, '#') != NULL || strlen(doc.id) < 9);
    e.code = OK;
    assert_int_equal(corpus_next(c, &doc, &end, &e), OK);
    if (f.kind == CORPUS_JSONL) {
        if (end) fail_msg("%s: the line behind is lost", name);
        assert_string_equal(doc.id, "good");
        assert_int_equal(corpus_next(c, &doc, &end, &e), OK);
    }
    assert_true(end);
    corpus_close(c);
}

static void test_invalid(void **state) {
    (void)state;
    const char *const root = "tests/data/invalid/corpus";
    DIR *d = opendir(root);
    assert_non_null(d);
    int cases = 0;
    for (const struct dirent *entry; (entry = readdir(d)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        char path[600];
        struct sbuf bytes, error;
        snprintf(path, sizeof path, "%s/%s/input.txt", root, entry->d_name);
        const bool txt = access(path, F_OK) == 0;
        if (!txt) snprintf(path, sizeof path, "%s/%s/input.jsonl", root, entry->d_name);
        read_file(path, &bytes);
        snprintf(path, sizeof path, "%s/%s/error", root, entry->d_name);
        read_file(path, &error);
        error.s[--error.n] = '\0'; // the newline at its end
        if (!txt) sbuf_puts(&bytes, "\n{\"text\":\"x\",\"token_ids\":[1],\"id\":\"good\"}\n");
        struct corpus_file f = corpus_test_bytes(bytes.s, bytes.n, txt ? CORPUS_TXT : CORPUS_JSONL);
        f.source = txt ? "input.txt" : "input.jsonl";
        if (strncmp(entry->d_name, "ids-", 4) == 0) f.ids_key = "token_ids";
        check_invalid(entry->d_name, error.s, f);
        for (f.buffer_bytes = 12; f.buffer_bytes < 40; f.buffer_bytes++) {
            check_invalid(entry->d_name, error.s, f);
        }
        close(f.fd);
        sbuf_fini(&bytes);
        sbuf_fini(&error);
        cases++;
    }
    closedir(d);
    assert_true(cases >= 25);
}

// Limits are limits: what just fits is read.
static void test_limits(void **state) {
    (void)state;
    struct sbuf line;
    sbuf_init(&line);
    sbuf_puts(&line, "{\"a\":");
    for (int i = 0; i < 63; i++) sbuf_puts(&line, "[");
    for (int i = 0; i < 63; i++) sbuf_puts(&line, "]");
    sbuf_puts(&line, ",\"");
    for (int i = 0; i < 4096; i++) sbuf_puts(&line, "k");
    sbuf_puts(&line, "\":0,\"text\":\"a\"");
    for (int i = 3; i < 4096; i++) sbuf_printf(&line, ",\"%d\":0", i);
    sbuf_puts(&line, "}");
    struct corpus_file f = corpus_test_bytes(line.s, line.n, CORPUS_JSONL);
    assert_prints(&f, 4, "0\tbytes#0\t61\n");
    close(f.fd);
    sbuf_fini(&line);
}

static void test_file_errors(void **state) {
    (void)state;
    struct corpus *c = NULL;
    struct corpus_doc doc;
    struct err e = {.code = OK}, e2 = {.code = OK}, e3 = {.code = OK};
    bool end = false;
    struct corpus_file f = corpus_test_file("/none/at/all.txt", "all.txt", CORPUS_TXT);
    assert_int_equal(corpus_open(&c, &f, &e), E_NOINPUT);
    assert_null(c);
    f.path = "/tmp";
    assert_int_equal(corpus_open(&c, &f, &e2), E_NOINPUT);
    assert_non_null(strstr(e2.msg, "a directory"));
    struct corpus_file g = corpus_test_bytes("{\"text\":\"abcdefghijklmnop\"}\n", 28, CORPUS_JSONL);
    g.size = 29;
    assert_int_equal(corpus_open(&c, &g, &e3), E_IO);
    assert_non_null(strstr(e3.msg, "has shrunk to 28 bytes, 29 expected"));
    g.size = 20; // grown since it was planned: the rest is not there
    g.buffer_bytes = 12;
    assert_prints(&g, 4, "!bytes: byte 20 (line 1): the file ends inside a string\n");
    g.size = 28;
    e.code = OK;
    assert_int_equal(corpus_open(&c, &g, &e), OK);
    assert_int_equal(ftruncate(g.fd, 14), 0); // under our hands
    assert_int_equal(corpus_next(c, &doc, &end, &e), E_IO);
    assert_non_null(strstr(e.msg, "has shrunk to 14 bytes"));
    corpus_close(c);
    g.begin = 5;
    g.end = 4;
    g.size = 14;
    assert_int_equal(corpus_open(&c, &g, NULL), E_ARG);
    close(g.fd);
    corpus_close(NULL);
}

// A line that is another one when its text is read: the file's fault, not the document's.
static void test_changed_meanwhile(void **state) {
    (void)state;
    struct corpus_file f = corpus_test_bytes("{\"text\":\"abcdefghijklmnop\"}\n", 28, CORPUS_JSONL);
    struct corpus *c = NULL;
    struct corpus_doc doc;
    struct err e = {.code = OK};
    bool end = false;
    char text[64];
    size_t n = 0;
    f.buffer_bytes = 12;
    assert_int_equal(corpus_open(&c, &f, &e), OK);
    assert_int_equal(corpus_next(c, &doc, &end, &e), OK);
    assert_int_equal(pwrite(f.fd, "\n", 1, 20), 1);
    assert_int_equal(corpus_read_text(c, text, sizeof text, &n, &e), E_IO);
    assert_non_null(strstr(e.msg, "changed while it was read"));
    corpus_close(c);
    close(f.fd);
}

static void test_allocations_fail(void **state) {
    (void)state;
    static const char lines[] =
        "{\"id\":\"a long enough name\",\"text\":\"b\"}\n{\"text\":\"c\"}\n";
    struct corpus_file f = corpus_test_bytes(lines, sizeof lines - 1, CORPUS_JSONL);
    bool done = false;
    int k = 0;
    for (; !done; k++) {
        struct err e = {.code = OK};
        struct corpus *c = NULL;
        struct corpus_doc doc;
        bool end = false;
        g_fail_at = k;
        enum status st = corpus_open(&c, &f, &e);
        assert_true((st == OK) == (c != NULL));
        while (st == OK && !end) st = corpus_next(c, &doc, &end, &e);
        done = g_fail_at >= 0;
        g_fail_at = -1;
        assert_int_equal(st, done ? OK : E_NOMEM);
        assert_int_equal(e.code, st);
        corpus_close(c);
    }
    assert_true(k > 4);
    close(f.fd);
}

static void test_kinds(void **state) {
    (void)state;
    static const struct {
        const char *path;
        bool keys;
        enum corpus_kind kind;
    } good[] = {{"a/b.txt", false, CORPUS_TXT},         {"b.JSONL", false, CORPUS_JSONL},
                {"b.json", true, CORPUS_JSONL},         {"b.txt.gz", false, CORPUS_TXT},
                {"b.TXT.Zst", true, CORPUS_TXT},        {"b.jsonl.lz4", false, CORPUS_JSONL},
                {"b.jsonl.zst", false, CORPUS_JSONL},   {"b.gz", true, CORPUS_JSONL},
                {"lines.txt.gz.txt", true, CORPUS_TXT}, {"b.json.zst", true, CORPUS_JSONL}};
    for (size_t i = 0; i < COUNTOF(good); i++) {
        enum corpus_kind kind = good[i].kind == CORPUS_TXT ? CORPUS_JSONL : CORPUS_TXT;
        assert_int_equal(corpus_kind_of(good[i].path, good[i].keys, &kind, NULL), OK);
        assert_int_equal(kind, good[i].kind);
    }
    static const struct {
        const char *path;
        enum status st;
        const char *what;
    } bad[] = {{"b.jsonl.bz2", E_UNSUPPORTED, ".bz2 files are not read; decompress it"},
               {"b.txt.xz", E_UNSUPPORTED, ".xz files are not read; decompress it"},
               {"b.zip", E_UNSUPPORTED, ".zip files are not read"},
               {"txt", E_ARG, "text_key"},
               {".gz", E_ARG, "neither .txt nor .jsonl inside"},
               {"b.gz.zst", E_ARG, "neither .txt nor .jsonl inside"},
               {"txt.gz", E_ARG, "neither .txt nor .jsonl inside"}};
    for (size_t i = 0; i < COUNTOF(bad); i++) {
        enum corpus_kind kind = CORPUS_TXT;
        struct err e = {.code = OK};
        const bool keys = bad[i].st == E_UNSUPPORTED; // which is so whatever the manifest says
        assert_int_equal(corpus_kind_of(bad[i].path, keys, &kind, &e), bad[i].st);
        if (strstr(e.msg, bad[i].what) == NULL) fail_msg("%s: %s", bad[i].path, e.msg);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_python),
        cmocka_unit_test(test_replace),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_chats),
        cmocka_unit_test(test_chat_limit),
        cmocka_unit_test(test_text_files),
        cmocka_unit_test(test_blank_lines),
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_seek),
        cmocka_unit_test(test_seek_knows_lines),
        cmocka_unit_test(test_invalid),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_file_errors),
        cmocka_unit_test(test_changed_meanwhile),
        cmocka_unit_test(test_allocations_fail),
        cmocka_unit_test(test_kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
