/* Documents larger than the memory they may take, and documents from a pipe. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "io/corpus.h"
#include "io/file.h"
#include "tests/support_pack.h"

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
    assert_int_equal(corpus_spool(ends[0], "/tmp", NULL, &fd, &size, &e), OK);
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
    assert_int_equal(corpus_spool(-1, "/tmp", NULL, &fd, &size, NULL), E_IO);
    assert_int_equal(fd, -1);
    assert_int_equal(corpus_spool(0, "/none", NULL, &fd, &size, NULL), E_OUTPUT);
}

enum { BIG = 30 << 20 };

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

struct copy {
    int fd;
    int64_t at;
};

static size_t next_of_copy(void *ctx, char *buf, size_t cap) {
    struct copy *c = ctx;
    const ssize_t n = pread(c->fd, buf, cap, c->at);
    assert_true(n >= 0);
    c->at += n;
    return (size_t)n;
}

// The same file compressed, put in place of the plain one.
static void pack_big(struct corpus_file *f, enum unpack_kind kind) {
    struct copy from = {f->fd, 0};
    struct corpus_file packed = file_by_descriptor(f->kind);
    pack_stream(kind, packed.fd, next_of_copy, &from);
    close(f->fd);
    f->fd = packed.fd;
    f->packing = kind;
}

// In a process of its own: how far its memory grows while it reads. 0 when that is little.
static int read_big(const struct corpus_file *f, long most_kilobytes) {
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
    return after.ru_maxrss - before.ru_maxrss > most_kilobytes ? 5 : 0;
}

static void check_memory(const struct corpus_file *f, int what, long most_kilobytes) {
    const pid_t child = fork();
    if (child == 0) _exit(read_big(f, most_kilobytes));
    int how = -1;
    assert_int_equal(waitpid(child, &how, 0), child);
    if (how != 0) fail_msg("document %d, packing %d: %d", what, f->packing, WEXITSTATUS(how));
}

static void test_constant_memory(void **state) {
    (void)state;
    for (int what = 0; what < 4; what++) {
        const struct corpus_file f = big_file(what);
        check_memory(&f, what, 2048);
        close(f.fd);
    }
}

// Lines are read twice, by two decoders: zstd's have windows of 2 MiB each at its usual level.
static void test_constant_memory_packed(void **state) {
    (void)state;
    static const long most_kilobytes[] = {
        [UNPACK_GZIP] = 6144, [UNPACK_ZSTD] = 10240, [UNPACK_LZ4] = 6144};
    for (int what = 0; what < 4; what++) {
        for (int kind = PACK_FIRST; kind <= (int)PACK_LAST; kind++) {
            struct corpus_file f = big_file(what);
            pack_big(&f, (enum unpack_kind)kind);
            check_memory(&f, what, most_kilobytes[kind]);
            close(f.fd);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spool),
        cmocka_unit_test(test_constant_memory),
        cmocka_unit_test(test_constant_memory_packed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
