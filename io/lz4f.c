/* Writing: frames of segments and published files. Reading is lz4f_read.c. */
#include "io/lz4f.h"

#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <lz4frame.h>
#include <string.h>
#include <unistd.h>

static LZ4F_preferences_t preferences(uint64_t content_bytes) {
    LZ4F_preferences_t p;
    memset(&p, 0, sizeof p);
    p.frameInfo.blockSizeID = LZ4F_max4MB;
    p.frameInfo.blockMode = LZ4F_blockIndependent;
    p.frameInfo.contentChecksumFlag = LZ4F_contentChecksumEnabled;
    p.frameInfo.blockChecksumFlag = LZ4F_blockChecksumEnabled;
    p.frameInfo.contentSize = content_bytes;
    p.autoFlush = 1; // a block ends where a write of ours ends
    return p;
}

enum status lz4f_append(struct file_append *a, const void *bytes, size_t n, struct err *e) {
    enum status st = OK;
    char *frame = NULL;
    if (n == 0) return OK;
    const LZ4F_preferences_t p = preferences(n);
    const size_t cap = LZ4F_compressFrameBound(n, &p);
    TRY(mem_alloc64(&frame, cap, 1, e));
    const size_t k = LZ4F_compressFrame(frame, cap, bytes, n, &p);
    if (LZ4F_isError(k)) {
        FAIL(e, E_NOMEM, "%s: cannot compress: %s", file_append_borrow_path(a),
             LZ4F_getErrorName(k));
    }
    TRY(file_append_write(a, frame, k, e));
done:
    mem_free(frame);
    return st;
}

struct lz4f_writer {
    int fd;
    bool finished;
    int64_t total, taken; /* bytes promised (-1: none), bytes given */
    LZ4F_cctx *cctx;      /* owned */
    LZ4F_preferences_t prefs;
    char *in; /* owned, LZ4F_BLOCK_BYTES: content not compressed yet */
    size_t in_n;
    char *out; /* owned */
    size_t out_cap;
    char *path; /* owned */
};

static enum status put(struct lz4f_writer *w, size_t k, struct err *e) {
    if (LZ4F_isError(k)) {
        return err_fail(e, E_BUG, "%s: cannot compress: %s", w->path, LZ4F_getErrorName(k));
    }
    return file_write_all(w->fd, w->path, w->out, k, e);
}

enum status lz4f_create(struct lz4f_writer **out, const char *path, int64_t total, struct err *e) {
    enum status st = OK;
    struct lz4f_writer *w = NULL;
    *out = NULL;
    TRY(mem_zalloc(&w, 1, sizeof *w, e));
    w->fd = -1;
    w->total = total;
    w->prefs = preferences(total > 0 ? (uint64_t)total : 0);
    TRY(mem_dup(&w->path, path, strlen(path), e));
    w->out_cap = LZ4F_compressBound(LZ4F_BLOCK_BYTES, &w->prefs);
    if (w->out_cap < LZ4F_HEADER_SIZE_MAX) w->out_cap = LZ4F_HEADER_SIZE_MAX;
    TRY(mem_alloc64(&w->in, LZ4F_BLOCK_BYTES, 1, e));
    TRY(mem_alloc64(&w->out, w->out_cap, 1, e));
    if (LZ4F_isError(LZ4F_createCompressionContext(&w->cctx, LZ4F_VERSION))) {
        FAIL(e, E_NOMEM, "%s: out of memory for compression", path);
    }
    w->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        const bool full = errno == ENOSPC || errno == EDQUOT;
        st = err_errno(e, full ? E_IO : E_OUTPUT, errno, "%s: cannot create%s", path,
                       full ? ", no space left" : "");
        goto done;
    }
    TRY(put(w, LZ4F_compressBegin(w->cctx, w->out, w->out_cap, &w->prefs), e));
    *out = w;
    w = NULL;
done:
    lz4f_writer_close(w);
    return st;
}

static enum status flush_block(struct lz4f_writer *w, struct err *e) {
    const size_t k = LZ4F_compressUpdate(w->cctx, w->out, w->out_cap, w->in, w->in_n, NULL);
    w->in_n = 0;
    return put(w, k, e);
}

enum status lz4f_write(struct lz4f_writer *w, const void *bytes, size_t n, struct err *e) {
    enum status st = OK;
    const char *p = bytes;
    if (w->total >= 0 && n > (uint64_t)(w->total - w->taken)) {
        FAIL(e, E_ARG, "%s: more than the promised %" PRId64 " bytes", w->path, w->total);
    }
    w->taken += (int64_t)n;
    while (n > 0) {
        const size_t room = LZ4F_BLOCK_BYTES - w->in_n, k = n < room ? n : room;
        memcpy(w->in + w->in_n, p, k);
        w->in_n += k;
        p += k;
        n -= k;
        if (w->in_n == LZ4F_BLOCK_BYTES) TRY(flush_block(w, e));
    }
done:
    return st;
}

enum status lz4f_finish(struct lz4f_writer *w, struct err *e) {
    enum status st = OK;
    if (w->total >= 0 && w->taken != w->total) {
        FAIL(e, E_ARG, "%s: %" PRId64 " bytes of the promised %" PRId64, w->path, w->taken,
             w->total);
    }
    if (w->in_n > 0) TRY(flush_block(w, e));
    TRY(put(w, LZ4F_compressEnd(w->cctx, w->out, w->out_cap, NULL), e));
    TRY(file_sync(w->fd, w->path, e));
    w->finished = true;
done:
    return st;
}

void lz4f_writer_close(struct lz4f_writer *w) {
    if (w == NULL) return;
    if (w->fd >= 0) {
        close(w->fd);
        if (!w->finished) unlink(w->path);
    }
    LZ4F_freeCompressionContext(w->cctx);
    mem_free(w->in);
    mem_free(w->out);
    mem_free(w->path);
    mem_free(w);
}
