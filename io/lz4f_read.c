/* Reading frames: streams, lines, and finding the end of what is valid. */
#include "io/lz4f.h"

#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <lz4frame.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IN_BYTES = 1 << 18, OUT_BYTES = 1 << 18 };

struct lz4f_reader {
    int fd;
    int64_t limit;       /* bytes of the file that count; INT64_MAX: to its end */
    int64_t pos;         /* of the next compressed byte to decode */
    int64_t frame_begin; /* file offset of the present frame; == pos between frames */
    int64_t frames;      /* complete ones so far */
    bool failed;         /* the decoder's state is undefined after an error */
    LZ4F_dctx *dctx;     /* owned */
    char *in;            /* owned, IN_BYTES: the file from pos on is in[in_at..in_n) */
    size_t in_at, in_n;
    char *out; /* owned, OUT_BYTES: content not split into lines yet, out[out_at..out_n) */
    size_t out_at, out_n;
    struct sbuf line; /* a line that crosses pieces of `out` */
    char *path;       /* owned */
};

static enum status open_raw(struct lz4f_reader **out, const char *path, struct err *e) {
    enum status st = OK;
    struct lz4f_reader *r = NULL;
    *out = NULL;
    TRY(mem_zalloc(&r, 1, sizeof *r, e));
    r->limit = INT64_MAX;
    r->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO must not block here
    if (r->fd < 0) {
        st = err_errno(e, E_NOINPUT, errno, "%s", path);
        goto done;
    }
    struct stat sb;
    if (fstat(r->fd, &sb) != 0 || !S_ISREG(sb.st_mode)) {
        FAIL(e, E_NOINPUT, "%s: not a regular file", path);
    }
    TRY(mem_dup(&r->path, path, strlen(path), e));
    TRY(mem_alloc64(&r->in, IN_BYTES, 1, e));
    TRY(mem_alloc64(&r->out, OUT_BYTES + 1, 1, e)); // room for a NUL behind the last line
    if (LZ4F_isError(LZ4F_createDecompressionContext(&r->dctx, LZ4F_VERSION))) {
        FAIL(e, E_NOMEM, "%s: out of memory for decompression", path);
    }
    *out = r;
    r = NULL;
done:
    lz4f_close(r);
    return st;
}

enum status lz4f_open(struct lz4f_reader **out, const char *path, enum lz4f_tail tail,
                      struct err *e) {
    enum status st = OK;
    struct lz4f_counts counts;
    memset(&counts, 0, sizeof counts);
    *out = NULL;
    if (tail == LZ4F_TORN_OK) TRY(lz4f_scan(path, tail, &counts, e));
    TRY(open_raw(out, path, e));
    // A file that grew meanwhile is read as it was.
    if (tail == LZ4F_TORN_OK) (*out)->limit = counts.valid_bytes;
done:
    return st;
}

void lz4f_close(struct lz4f_reader *r) {
    if (r == NULL) return;
    if (r->fd >= 0) close(r->fd);
    LZ4F_freeDecompressionContext(r->dctx);
    sbuf_fini(&r->line);
    mem_free(r->in);
    mem_free(r->out);
    mem_free(r->path);
    mem_free(r);
}

// More compressed bytes behind those in `in`, all of which have been decoded.
static enum status refill(struct lz4f_reader *r, struct err *e) {
    r->in_at = r->in_n = 0;
    const int64_t left = r->limit - r->pos;
    const size_t want = left < IN_BYTES ? (size_t)left : IN_BYTES;
    while (want > 0) {
        const ssize_t k = pread(r->fd, r->in, want, r->pos);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            return err_errno(e, E_IO, errno, "%s: cannot read byte %" PRId64, r->path, r->pos);
        }
        r->in_n = (size_t)k;
        break;
    }
    return OK;
}

// One call of the decoder: up to cap bytes of content, never past the end of a frame. *n may be 0
// before the end; *end says that the file ended between two frames.
static enum status step(struct lz4f_reader *r, void *buf, size_t cap, size_t *n, bool *end,
                        struct err *e) {
    enum status st = OK;
    *n = 0;
    *end = false;
    if (r->failed) FAIL(e, E_FORMAT, "%s: unreadable behind a bad frame", r->path);
    if (r->in_at == r->in_n) TRY(refill(r, e));
    const bool at_end = r->in_at == r->in_n;
    *end = at_end && r->pos == r->frame_begin;
    if (*end) goto done;
    size_t made = cap, taken = r->in_n - r->in_at;
    const size_t hint = LZ4F_decompress(r->dctx, buf, &made, r->in + r->in_at, &taken, NULL);
    if (LZ4F_isError(hint)) {
        r->failed = true;
        FAIL(e, E_FORMAT, "%s: bad LZ4 frame at byte %" PRId64 " (%s behind byte %" PRId64 ")",
             r->path, r->frame_begin, LZ4F_getErrorName(hint), r->pos);
    }
    r->in_at += taken;
    r->pos += (int64_t)taken;
    *n = made;
    if (hint == 0) {
        r->frame_begin = r->pos;
        r->frames++;
    } else if (at_end && made == 0) {
        r->failed = true;
        FAIL(e, E_FORMAT, "%s: ends at byte %" PRId64 " inside the LZ4 frame at byte %" PRId64,
             r->path, r->pos, r->frame_begin);
    }
done:
    return st;
}

enum status lz4f_read(struct lz4f_reader *r, void *buf, size_t cap, size_t *n, struct err *e) {
    enum status st = OK;
    bool end = false;
    *n = 0;
    if (cap == 0) FAIL(e, E_ARG, "%s: no room to read into", r->path);
    while (*n == 0 && !end) TRY(step(r, buf, cap, n, &end, e));
done:
    return st;
}

enum status lz4f_line(struct lz4f_reader *r, const char **line, size_t *n, bool *end,
                      struct err *e) {
    enum status st = OK;
    *line = "";
    *n = 0;
    *end = false;
    sbuf_clear(&r->line);
    bool any = false; // part of a line is in r->line, perhaps an empty part
    for (;;) {
        if (r->out_at == r->out_n) {
            r->out_at = r->out_n = 0;
            TRY(lz4f_read(r, r->out, OUT_BYTES, &r->out_n, e));
            if (r->out_n == 0) break;
        }
        char *from = r->out + r->out_at;
        const size_t left = r->out_n - r->out_at;
        char *newline = memchr(from, '\n', left);
        const size_t k = newline != NULL ? (size_t)(newline - from) : left;
        r->out_at += newline != NULL ? k + 1 : k;
        if (newline != NULL && !any) { // the usual case: no copy
            *newline = '\0';
            *line = from;
            *n = k;
            return OK;
        }
        sbuf_add(&r->line, from, k);
        TRY(sbuf_status(&r->line, e));
        any = true;
        if (newline != NULL) break;
    }
    *end = !any;
    *n = r->line.n;
    *line = sbuf_str(&r->line);
done:
    return st;
}

enum status lz4f_scan(const char *path, enum lz4f_tail tail, struct lz4f_counts *counts,
                      struct err *e) {
    enum status st = OK;
    struct lz4f_reader *r = NULL;
    struct lz4f_counts now; // includes the frame being read; believed when that frame has ended
    bool open_line = false, done_open_line = false;
    memset(&now, 0, sizeof now);
    memset(counts, 0, sizeof *counts);
    TRY(open_raw(&r, path, e));
    for (;;) {
        struct err bad = {.code = OK};
        size_t n = 0;
        bool end = false;
        st = step(r, r->out, OUT_BYTES, &n, &end, &bad);
        now.bytes += (int64_t)n;
        for (size_t i = 0; i < n; i++) now.lines += r->out[i] == '\n';
        if (n > 0) open_line = r->out[n - 1] != '\n';
        if (r->frames > counts->frames) {
            *counts = now;
            counts->frames = r->frames;
            counts->valid_bytes = r->frame_begin;
            done_open_line = open_line;
        }
        if (st == E_FORMAT && tail == LZ4F_TORN_OK) {
            counts->torn = true;
            st = OK;
            break;
        }
        if (st != OK) {
            err_fail(e, bad.code, "%s", bad.msg);
            goto done;
        }
        if (end) break;
    }
    counts->lines += done_open_line;
done:
    lz4f_close(r);
    return st;
}
