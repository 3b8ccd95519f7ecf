/* Documents larger than the memory they may take, and documents from a pipe. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "io/corpus.h"
#include "io/file.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

// An empty file without a name, read by descriptor.
static struct corpus_file file_by_descriptor(enum corpus_kind kind) {
    const struct corpus_file f = {.path = "-",
                                  .source = "-",
                                  .fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600),
                                  .size = -1,
                                  .end = -1,
                                  .kind = kind,
                                  .id_key = "id"};
    assert_true(f.fd >= 0);
    return f;
}

static void test_spool(void **state) {
    (void)state;
    int ends[2], fd = -1;
    int64_t size = 0;
    struct err e = {.code = OK};
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 30000; i++) {
            char line[64];
            const int n = snprintf(line, sizeof line, "{\"text\":\"%d\"}\n", i);
            if (write(ends[1], line, (size_t)n) != n) _exit(1);
        }
        _exit(0);
    }
    close(ends[1]);
    assert_int_equal(corpus_spool(ends[0], "/tmp", &fd, &size, &e), OK);
    close(ends[0]);
    waitpid(child, NULL, 0);
    const struct corpus_file f = {
        .path = "-", .source = "-", .fd = fd, .size = size, .end = -1, .kind = CORPUS_JSONL};
    struct corpus *c = NULL;
    struct corpus_doc doc;
    bool end = false;
    int docs = 0;
    assert_int_equal(corpus_open(&c, &f, &e), OK);
    while (corpus_next(c, &doc, &end, &e) == OK && !end) docs++;
    assert_int_equal(docs, 30000);
    corpus_close(c);
    close(fd);
    assert_int_equal(corpus_spool(-1, "/tmp", &fd, &size, NULL), E_IO);
    assert_int_equal(fd, -1);
    assert_int_equal(corpus_spool(0, "/none", &fd, &size, NULL), E_OUTPUT);
}

enum { BIG = 24 << 20 };

// Writes one enormous document: 0 a text file, 1 a JSON text, 2 ids, 3 a value nobody asked for.
static struct corpus_file big_file(int what) {
    static const char *const heads[] = {"", "{\"text\":\"", "{\"text\":[", "{\"no\":\""};
    static const char *const units[] = {"long ", "\\u00e9\\n", "31999, ", "{never mind}"};
    static const char *const tails[] = {"", "\",\"id\":\"x\"}", "1]}", "\",\"text\":\"a\"}"};
    struct corpus_file f = file_by_descriptor(what == 0 ? CORPUS_TXT : CORPUS_JSONL);
    char block[8400];
    size_t n = 0;
    while (n < 8192) {
        memcpy(block + n, units[what], strlen(units[what]));
        n += strlen(units[what]);
    }
    assert_int_equal(file_write_all(f.fd, "big", heads[what], strlen(heads[what]), NULL), OK);
    for (size_t at = 0; at < BIG; at += n) {
        assert_int_equal(file_write_all(f.fd, "big", block, n, NULL), OK);
    }
    assert_int_equal(file_write_all(f.fd, "big", tails[what], strlen(tails[what]), NULL), OK);
    if (what == 2) f.ids_key = "text";
    return f;
}

// In a process of its own: how far its memory grows while it reads. 0 when that is little.
static int read_big(const struct corpus_file *f) {
    struct rusage before, after;
    struct corpus *c = NULL;
    struct corpus_doc doc;
    bool end = false;
    static char text[65536];
    static int32_t ids[16384];
    size_t n = 1;
    int64_t total = 0;
    memset(text, 1, sizeof text);
    memset(ids, 1, sizeof ids);
    getrusage(RUSAGE_SELF, &before);
    if (corpus_open(&c, f, NULL) != OK || corpus_next(c, &doc, &end, NULL) != OK || end) return 1;
    while (n > 0) {
        const enum status st = doc.is_ids ? corpus_read_ids(c, ids, COUNTOF(ids), &n, NULL)
                                          : corpus_read_text(c, text, sizeof text, &n, NULL);
        if (st != OK) return 2;
        total += (int64_t)n;
    }
    if (corpus_next(c, &doc, &end, NULL) != OK || !end) return 3;
    corpus_close(c);
    getrusage(RUSAGE_SELF, &after);
    if (total < 1) return 4;
    return after.ru_maxrss - before.ru_maxrss > 2048 ? 5 : 0; // kilobytes
}

static void test_constant_memory(void **state) {
    (void)state;
    for (int what = 0; what < 4; what++) {
        const struct corpus_file f = big_file(what);
        const pid_t child = fork();
        if (child == 0) _exit(read_big(&f));
        int how = -1;
        assert_int_equal(waitpid(child, &how, 0), child);
        if (how != 0) fail_msg("document %d: %d", what, WEXITSTATUS(how));
        close(f.fd);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spool),
        cmocka_unit_test(test_constant_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
