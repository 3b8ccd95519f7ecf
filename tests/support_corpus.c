#include "tests/support_corpus.h"

#include "io/file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>

struct corpus_file corpus_test_file(const char *path, const char *source, enum corpus_kind kind) {
    const struct corpus_file f = {.path = path,
                                  .source = source,
                                  .fd = -1,
                                  .size = -1,
                                  .end = -1,
                                  .kind = kind,
                                  .id_key = "id"};
    return f;
}

struct corpus_file corpus_test_bytes(const void *bytes, size_t n, enum corpus_kind kind) {
    struct corpus_file f = corpus_test_file("bytes", "bytes", kind);
    f.fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (f.fd < 0 || file_write_all(f.fd, "bytes", bytes, n, NULL) != OK) abort();
    return f;
}

static enum status print_document(struct corpus *c, const struct corpus_doc *doc, size_t cap,
                                  struct sbuf *out, struct err *e) {
    enum status st = OK;
    char text[4096];
    int32_t ids[512];
    sbuf_printf(out, "%" PRId64 "\t%s\t", doc->offset, doc->id);
    if (doc->is_json) { // as it stands, behind a mark of what it is
        sbuf_puts(out, doc->is_body ? "body " : "chat ");
        return corpus_read_json(c, out, e);
    }
    for (size_t n = 1; n > 0;) {
        if (doc->is_ids) {
            TRY(corpus_read_ids(c, ids, cap < COUNTOF(ids) ? cap : COUNTOF(ids), &n, e));
            for (size_t i = 0; i < n; i++) sbuf_printf(out, "%d,", ids[i]);
        } else {
            TRY(corpus_read_text(c, text, cap, &n, e));
            for (size_t i = 0; i < n; i++) sbuf_printf(out, "%02x", (unsigned char)text[i]);
        }
    }
done:
    return st;
}

enum status corpus_test_print_rest(struct corpus *c, size_t cap, struct sbuf *out, struct err *e) {
    for (;;) {
        struct corpus_doc doc;
        struct err bad = {.code = OK};
        bool end = false;
        enum status st = corpus_next(c, &doc, &end, &bad);
        if (st == OK && end) return OK;
        if (st == OK) st = print_document(c, &doc, cap, out, &bad);
        if (st != OK && st != E_FORMAT) return err_fail(e, st, "%s", bad.msg);
        if (st == E_FORMAT) sbuf_printf(out, "!%s", bad.msg);
        sbuf_putc(out, '\n');
    }
}

enum status corpus_test_print(const struct corpus_file *f, size_t cap, struct sbuf *out,
                              struct err *e) {
    struct corpus *c = NULL;
    enum status st = corpus_open(&c, f, e);
    if (st == OK) st = corpus_test_print_rest(c, cap, out, e);
    corpus_close(c);
    return st;
}
