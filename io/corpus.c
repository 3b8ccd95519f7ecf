/* Documents of one file. The grammar of lines is scan_line.c, patterns are corpus_glob.c. */
#include "io/corpus.h"

#include "base/mem.h"
#include "io/cursor_impl.h"
#include "io/file.h"
#include "io/scan_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum where {
    BETWEEN, /* no document is open */
    IN_TEXT,
    IN_IDS,
    IN_JSON,
    AT_END, /* of a document: all of it has been read */
    FAILED  /* inside a document that has failed */
};

struct corpus {
    struct corpus_file f; /* size and end resolved */
    int fd;               /* f.fd, or owned */
    enum where where;
    bool is_ids;
    bool mid_line;   /* `next` lies inside a failed line, the rest of which is to be passed */
    bool lost;       /* a failed document stands for the rest, which cannot be decompressed */
    int64_t next;    /* where the search for the next document begins */
    int64_t line_no; /* of the line at `next`, 0 when not known */
    struct cursor cur;
    struct scan scan;
    struct sbuf id;
};

static enum status check_size(struct corpus *c, struct err *e) {
    struct stat sb;
    if (fstat(c->fd, &sb) != 0) return err_errno(e, E_IO, errno, "%s", c->f.path);
    if (!S_ISREG(sb.st_mode)) {
        return err_fail(e, E_NOINPUT, "%s: %s", c->f.path,
                        S_ISDIR(sb.st_mode) ? "a directory, not a file" : "not a regular file");
    }
    const bool packed = c->f.packing != UNPACK_NONE, txt = c->f.kind == CORPUS_TXT;
    const int64_t begin = c->f.begin, end = c->f.end;
    if (c->f.size < 0) c->f.size = sb.st_size;
    if (c->f.end < 0) c->f.end = packed ? INT64_MAX : c->f.size;
    if (sb.st_size < c->f.size) {
        return err_fail(e, E_IO, "%s: has shrunk to %" PRId64 " bytes, %" PRId64 " expected",
                        c->f.path, (int64_t)sb.st_size, c->f.size);
    }
    const bool whole = begin == 0 && (packed ? end < 0 : c->f.end == c->f.size);
    const bool slice = begin >= 0 && begin <= c->f.end && c->f.end <= c->f.size;
    if (packed || txt ? !whole : !slice) {
        return err_fail(e, E_ARG, "%s: not a slice: [%" PRId64 ", %" PRId64 ") of %" PRId64,
                        c->f.path, begin, end, c->f.size);
    }
    return OK;
}

enum status corpus_open(struct corpus **out, const struct corpus_file *f, struct err *e) {
    enum status st = OK;
    struct corpus *c = NULL;
    *out = NULL;
    const size_t buffer = f->buffer_bytes > 0 ? f->buffer_bytes : CURSOR_BYTES;
    if (buffer < CURSOR_AHEAD) FAIL(e, E_ARG, "%s: buffer of %zu bytes", f->path, buffer);
    TRY(mem_zalloc(&c, 1, sizeof *c, e));
    c->f = *f;
    c->fd = f->fd;
    if (f->fd < 0) {
        c->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO must not block here
        if (c->fd < 0) {
            st = err_errno(e, E_NOINPUT, errno, "%s", f->path);
            goto done;
        }
    }
    TRY(check_size(c, e));
    // Faults of compressed data are written into rows, which name files by their source.
    const bool packed = f->packing != UNPACK_NONE;
    const struct unpack_file file = {c->fd, c->f.size, packed ? f->source : f->path, f->packing};
    TRY(cursor_init(&c->cur, &file, buffer, e));
    c->scan.cur = &c->cur;
    c->scan.source = f->source;
    c->scan.ids_key = f->ids_key;
    c->scan.text_key = f->ids_key != NULL ? NULL : f->text_key != NULL ? f->text_key : "text";
    c->scan.messages_key = f->ids_key != NULL ? NULL : f->messages_key;
    c->scan.batch = f->batch;
    c->scan.id_key = f->id_key;
    c->scan.replace = f->invalid_utf8 == CORPUS_UTF8_REPLACE;
    c->is_ids = f->kind == CORPUS_JSONL && f->ids_key != NULL;
    // A line that began before the slice is someone else's; the byte before tells whether one did.
    c->next = f->begin > 0 ? f->begin - 1 : 0;
    c->mid_line = f->begin > 0;
    c->line_no = f->begin == 0 ? 1 : 0;
    *out = c;
    c = NULL;
done:
    corpus_close(c);
    return st;
}

void corpus_close(struct corpus *c) {
    if (c == NULL) return;
    if (c->f.fd < 0 && c->fd >= 0) close(c->fd);
    cursor_fini(&c->cur);
    scan_fini(&c->scan);
    sbuf_fini(&c->id);
    mem_free(c);
}

static void next_line_is(struct corpus *c) {
    c->next = c->cur.pos;
    c->mid_line = false;
    if (c->line_no > 0) c->line_no++;
}

// Moves the cursor to the first byte of the next line that is not blank, behind its leading white
// space. *line is where the line begins; *found is false when the slice has no more.
static enum status find_line(struct corpus *c, int64_t *line, bool *found, struct err *e) {
    enum status st = OK;
    *found = false;
    c->cur.pos = c->next;
    if (c->mid_line) {
        TRY(cursor_skip_line(&c->cur, c->f.end, found, e));
        if (!*found) goto done;
        next_line_is(c);
        *found = false;
    }
    while (c->next < c->f.end) {
        const char *p;
        size_t n;
        int byte = 0;
        *line = c->next;
        TRY(cursor_view(&c->cur, &p, &n, e));
        if (c->next == 0 && n >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0) cursor_skip(&c->cur, 3);
        TRY(scan_space(&c->scan, &byte, e));
        *found = byte >= 0 && byte != '\n';
        if (*found || byte < 0) break;
        cursor_skip(&c->cur, 1);
        next_line_is(c);
    }
done:
    return st;
}

static enum status name_document(struct corpus *c, struct corpus_doc *doc, struct err *e) {
    doc->id = sbuf_str(&c->scan.id);
    if (!c->scan.has_id) {
        sbuf_clear(&c->id);
        sbuf_printf(&c->id, "%s#%" PRId64, c->f.source, doc->offset);
        doc->id = sbuf_str(&c->id);
    }
    return sbuf_status(&c->id, e);
}

// The content cannot be had any further. Where no line has begun, a document that failed stands for
// what is lost; its offset is one to which corpus_seek() can go.
static void lose_rest(struct corpus *c, struct corpus_doc *doc, bool begun) {
    c->lost = true;
    c->where = FAILED;
    if (begun) return;
    doc->offset = c->mid_line ? c->cur.fault_at : c->next;
    c->scan.has_id = false;
}

// A buffer that ran out of memory keeps saying so; who asks again may have found some.
static void renew(struct sbuf *b) {
    if (b->failed) sbuf_fini(b);
}

static enum status next_line(struct corpus *c, struct corpus_doc *doc, bool *end, struct err *e) {
    enum status st = OK;
    bool found = false;
    *end = c->lost;
    if (c->lost) goto done;
    c->cur.faulty = false;
    renew(&c->id);
    renew(&c->scan.id);
    renew(&c->scan.names);
    st = find_line(c, &doc->offset, &found, e);
    *end = st == OK && !found;
    if (*end) goto done;
    if (st == OK) {
        c->scan.line_no = c->line_no;
        st = scan_line(&c->scan, e);
    }
    if (c->cur.faulty) lose_rest(c, doc, found);
    if (st != OK && st != E_FORMAT) goto done;
    const enum status named = name_document(c, doc, st == OK ? e : NULL);
    if (st == OK) TRY(named);
    if (st == OK) {
        next_line_is(c);
        c->cur.pos = c->scan.value;
        scan_ids_begin(&c->scan);
        c->where = c->scan.kind == SCAN_TEXT  ? IN_TEXT
                   : c->scan.kind == SCAN_IDS ? IN_IDS
                                              : IN_JSON;
        doc->is_json = c->where == IN_JSON;
        doc->is_ids = c->where == IN_IDS;
        doc->is_body = c->scan.kind == SCAN_BODY;
    } else {
        c->next = c->cur.pos; // the rest of the line is passed when somebody asks for the next one
        c->mid_line = true;
        c->where = FAILED;
    }
done:
    return st;
}

enum status corpus_next(struct corpus *c, struct corpus_doc *doc, bool *end, struct err *e) {
    *doc = (struct corpus_doc){.id = c->f.source, .source = c->f.source, .is_ids = c->is_ids};
    *end = false;
    c->where = BETWEEN;
    if (c->f.kind == CORPUS_JSONL) return next_line(c, doc, end, e);
    *end = c->next != 0;
    if (*end) return OK;
    c->next = -1; // a text file has one document
    c->cur.pos = 0;
    c->where = IN_TEXT;
    return OK;
}

// The newlines in front of `offset`, or of the end where that comes first.
static enum status count_lines(struct corpus *c, int64_t offset, int64_t *lines, struct err *e) {
    enum status st = OK;
    *lines = 0;
    cursor_seek(&c->cur, 0);
    while (c->cur.pos < offset) {
        const char *p;
        size_t n;
        TRY(cursor_view(&c->cur, &p, &n, e));
        if (n == 0) break;
        if ((int64_t)n > offset - c->cur.pos) n = (size_t)(offset - c->cur.pos);
        for (size_t i = 0; i < n; i++) *lines += p[i] == '\n';
        cursor_skip(&c->cur, n);
    }
done:
    return st;
}

enum status corpus_seek(struct corpus *c, int64_t offset, struct err *e) {
    enum status st = OK;
    struct err why = {.code = OK};
    int before = '\n';
    int64_t lines = 0;
    const bool txt = c->f.kind == CORPUS_TXT;
    if (offset < c->f.begin || offset > c->f.end || (txt && offset != 0)) {
        FAIL(e, E_ARG, "%s: byte %" PRId64 " is not in this slice", c->f.source, offset);
    }
    if (c->f.begin == 0) st = count_lines(c, offset, &lines, &why);
    if (st == OK && offset > 0) {
        cursor_seek(&c->cur, offset - 1);
        st = cursor_peek(&c->cur, &before, &why);
    }
    // Nothing to be had there is what corpus_next() says, of the document that stands for it.
    const bool lost = st == E_FORMAT;
    if (st != OK && !lost) FAIL(e, st, "%s", why.msg);
    st = OK;
    if (!lost && before != '\n') {
        FAIL(e, E_FORMAT, "%s: byte %" PRId64 ": no line begins here", c->f.source, offset);
    }
    c->next = offset;
    c->mid_line = false;
    c->lost = false;
    c->line_no = c->f.begin == 0 ? lines + 1 : 0;
    c->where = BETWEEN;
done:
    return st;
}

// After a piece of a document: where we are, and what an error means. A line was found good before,
// so a line that is bad now is another one.
static enum status piece_read(struct corpus *c, enum status st, bool done, const struct err *bad,
                              struct err *e) {
    if (st == OK) {
        if (done) c->where = AT_END;
        return OK;
    }
    c->where = FAILED;
    if (st == E_FORMAT && c->f.kind == CORPUS_JSONL) {
        return err_fail(e, E_IO, "%s: the file was changed while it was read", bad->msg);
    }
    return err_fail(e, st, "%s", bad->msg);
}

enum status corpus_read_text(struct corpus *c, char *buf, size_t cap, size_t *n, struct err *e) {
    struct err bad = {.code = OK};
    bool done = false;
    *n = 0;
    if (c->where == AT_END && !c->is_ids) return OK;
    if (c->where != IN_TEXT || cap < 4) {
        return err_fail(e, E_ARG, "%s: %s", c->f.source,
                        cap < 4 ? "no room to read into" : "no text is open");
    }
    const bool quoted = c->f.kind == CORPUS_JSONL;
    const enum status st = scan_text(&c->scan, quoted, buf, cap, n, &done, &bad);
    return piece_read(c, st, done, &bad, e);
}

enum status corpus_read_ids(struct corpus *c, int32_t *ids, size_t cap, size_t *n, struct err *e) {
    struct err bad = {.code = OK};
    bool done = false;
    *n = 0;
    if (c->where == AT_END && c->is_ids) return OK;
    if (c->where != IN_IDS || cap < 1) {
        return err_fail(e, E_ARG, "%s: %s", c->f.source,
                        cap < 1 ? "no room to read into" : "no ids are open");
    }
    const enum status st = scan_ids(&c->scan, ids, cap, n, &done, &bad);
    return piece_read(c, st, done, &bad, e);
}

enum status corpus_read_json(struct corpus *c, struct sbuf *out, struct err *e) {
    enum status st = OK;
    struct err bad = {.code = OK};
    char piece[4096];
    if (c->where != IN_JSON) return err_fail(e, E_ARG, "%s: no chat is open", c->f.source);
    for (;;) {
        size_t n = 0;
        st = scan_json(&c->scan, piece, sizeof piece, &n, &bad);
        TRY(piece_read(c, st, n == 0, &bad, e));
        if (n == 0) break;
        sbuf_add(out, piece, n);
    }
    TRY(sbuf_status(out, e));
done:
    return st;
}

int64_t corpus_place(const struct corpus *c) {
    const struct unpack *u = c->cur.front.unpack;
    if (c->f.packing == UNPACK_NONE) return c->cur.pos;
    return u != NULL ? unpack_place(u) : 0;
}

// A file nobody else can name, gone when it is closed.
static int open_unnamed(const char *dir, struct sbuf *name, struct err *e) {
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) return fd;
    sbuf_printf(name, "%s/", dir); // not every file system has O_TMPFILE
    if (file_temp_path("", name, e) != OK) return -1;
    fd = open(name->s, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0) {
        unlink(name->s);
    } else {
        err_errno(e, E_OUTPUT, errno, "%s: cannot create a temporary file", dir);
    }
    return fd;
}

/* Waits until something can be read. A signal that comes just before the wait does not end it, so
 * that it never lasts long. */
static enum status await_input(int from, const struct corpus_stop *stop, struct err *e) {
    struct pollfd p = {.fd = from, .events = POLLIN};
    for (;;) {
        if (stop != NULL && stop->asked(stop->ctx)) {
            return err_fail(e, E_CANCEL, "stopped on request");
        }
        if (poll(&p, 1, 200) > 0) return OK; // ready, or read() will say what is wrong
    }
}

enum status corpus_spool(int from, const char *dir, const struct corpus_stop *stop, int *fd,
                         int64_t *size, struct err *e) {
    enum status st = OK;
    char *piece = NULL;
    struct sbuf name;
    sbuf_init(&name);
    *size = 0;
    *fd = open_unnamed(dir, &name, e);
    if (*fd < 0) FAIL(e, E_OUTPUT, "%s: cannot create a temporary file", dir);
    TRY(mem_alloc64(&piece, CURSOR_BYTES, 1, e));
    for (;;) {
        if (from >= 0) TRY(await_input(from, stop, e));
        const ssize_t k = read(from, piece, CURSOR_BYTES);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            st = err_errno(e, E_IO, errno, "standard input: cannot read byte %" PRId64, *size);
            goto done;
        }
        if (k == 0) break;
        TRY(file_write_all(*fd, dir, piece, (size_t)k, e));
        *size += k;
    }
done:
    if (st != OK && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    mem_free(piece);
    sbuf_fini(&name);
    return st;
}

// Whether s ends with `suffix` in front of its last `tail` bytes.
static bool ends_with(const char *s, const char *suffix, size_t tail) {
    const size_t n = strlen(s) - tail, k = strlen(suffix);
    return n >= k && strncasecmp(s + n - k, suffix, k) == 0;
}

enum status corpus_kind_of(const char *path, bool keys_given, enum corpus_kind *kind,
                           struct err *e) {
    static const char *const packed[] = {".bz2", ".xz", ".lzma", ".Z", ".zip", ".7z", ".br"};
    for (size_t i = 0; i < COUNTOF(packed); i++) {
        if (!ends_with(path, packed[i], 0)) continue;
        return err_fail(e, E_UNSUPPORTED,
                        "%s: %s files are not read; decompress it, or make it one of .gz, .zst, "
                        ".lz4",
                        path, packed[i]);
    }
    const size_t tail = strlen(unpack_suffix(unpack_kind_of(path)));
    *kind = CORPUS_TXT;
    if (ends_with(path, ".txt", tail)) return OK;
    *kind = CORPUS_JSONL;
    if (ends_with(path, ".jsonl", tail) || keys_given) return OK;
    return err_fail(e, E_ARG,
                    "%s: neither .txt nor .jsonl%s; with a text_key or an ids_key it is read as "
                    "JSON lines",
                    path, tail > 0 ? " inside" : "");
}
