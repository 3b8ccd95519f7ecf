/* zlib, libzstd and liblz4 behind struct unpack_codec. */
#include "io/unpack_impl.h"

#include "base/mem.h"

#define ZLIB_CONST
#include <lz4frame.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

static enum status bad(struct unpack_step *s, const char *what, const char *detail) {
    if (detail != NULL) {
        snprintf(s->why, sizeof s->why, "%s (%s)", what, detail);
    } else {
        snprintf(s->why, sizeof s->why, "%s", what);
    }
    return E_FORMAT;
}

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* ---- gzip ---- */

static void *gzip_alloc(void *opaque, unsigned n, unsigned size) {
    (void)opaque;
    void *p = NULL;
    return mem_alloc64(&p, n, size, NULL) == OK ? p : NULL;
}

static void gzip_free(void *opaque, void *p) {
    (void)opaque;
    mem_free(p);
}

static void gzip_close(void *state) {
    if (state == NULL) return;
    inflateEnd(state);
    mem_free(state);
}

static enum status gzip_open(void **state, struct err *e) {
    enum status st = OK;
    z_stream *z = NULL;
    *state = NULL;
    TRY(mem_zalloc(&z, 1, sizeof *z, e));
    z->zalloc = gzip_alloc;
    z->zfree = gzip_free;
    if (inflateInit2(z, 16 + MAX_WBITS) != Z_OK) { // 16: a gzip header and trailer
        mem_free(z);
        FAIL(e, E_NOMEM, "out of memory");
    }
    *state = z;
done:
    return st;
}

static enum status gzip_begin(void *state, struct unpack_step *s) {
    (void)s;
    inflateReset(state);
    return OK;
}

static enum status gzip_step(void *state, struct unpack_step *s) {
    z_stream *z = state;
    const Bytef in[1] = {0}; // zlib wants an address even for nothing
    z->next_in = s->n_in > 0 ? (const Bytef *)s->in : in;
    z->avail_in = (uInt)s->n_in;
    z->next_out = (Bytef *)s->out;
    z->avail_out = (uInt)s->n_out;
    const int r = inflate(z, Z_NO_FLUSH);
    s->used = s->n_in - z->avail_in;
    s->made = s->n_out - z->avail_out;
    s->end = r == Z_STREAM_END;
    if (r == Z_OK || r == Z_STREAM_END || r == Z_BUF_ERROR) return OK;
    if (r == Z_MEM_ERROR) return E_NOMEM;
    const char *msg = z->msg != NULL ? z->msg : "no reason given";
    if (strcmp(msg, "incorrect data check") == 0) return bad(s, "wrong checksum (CRC-32)", NULL);
    if (strcmp(msg, "incorrect length check") == 0) return bad(s, "wrong length field", NULL);
    if (strcmp(msg, "header crc mismatch") == 0) return bad(s, "wrong header checksum", NULL);
    return bad(s, "damaged gzip data", msg);
}

/* ---- zstd ---- */

struct zstd_state {
    ZSTD_DStream *d; /* owned */
    size_t hint;     /* how many bytes the next call wants: a header, then a block at a time, so
                        that an error is known to the block */
};

static void zstd_close(void *state) {
    struct zstd_state *z = state;
    if (z == NULL) return;
    ZSTD_freeDStream(z->d);
    mem_free(z);
}

static enum status zstd_open(void **state, struct err *e) {
    enum status st = OK;
    struct zstd_state *z = NULL;
    *state = NULL;
    TRY(mem_zalloc(&z, 1, sizeof *z, e));
    z->d = ZSTD_createDStream();
    if (z->d == NULL) FAIL(e, E_NOMEM, "out of memory");
    const size_t r = ZSTD_DCtx_setParameter(z->d, ZSTD_d_windowLogMax, UNPACK_WINDOW_LOG);
    CHECK(!ZSTD_isError(r));
    *state = z;
    z = NULL;
done:
    zstd_close(z);
    return st;
}

static enum status zstd_begin(void *state, struct unpack_step *s) {
    (void)s;
    struct zstd_state *z = state;
    z->hint = ZSTD_initDStream(z->d);
    CHECK(!ZSTD_isError(z->hint));
    return OK;
}

static enum status zstd_error(struct unpack_step *s, size_t r) {
    switch (ZSTD_getErrorCode(r)) {
    case ZSTD_error_memory_allocation: return E_NOMEM;
    case ZSTD_error_checksum_wrong: return bad(s, "wrong checksum (XXH64)", NULL);
    case ZSTD_error_dictionary_wrong:
        return bad(s, "needs a dictionary, which is not supported", NULL);
    case ZSTD_error_frameParameter_windowTooLarge:
        return bad(s, "needs a window of more than 128 MiB, compress it with a smaller --long",
                   NULL);
    default: return bad(s, "damaged zstd data", ZSTD_getErrorName(r));
    }
}

static enum status zstd_step(void *state, struct unpack_step *s) {
    struct zstd_state *z = state;
    ZSTD_inBuffer in = {s->in, least(s->n_in, z->hint), 0};
    ZSTD_outBuffer out = {s->out, s->n_out, 0};
    const size_t r = ZSTD_decompressStream(z->d, &out, &in);
    s->used = in.pos;
    s->made = out.pos;
    if (ZSTD_isError(r)) return zstd_error(s, r);
    s->end = r == 0;
    z->hint = r;
    return OK;
}

/* ---- LZ4 ---- */

struct lz4_state {
    LZ4F_dctx *d; /* owned */
    size_t hint;  /* as zstd's */
};

enum { LZ4_SHORTEST_HEADER = 7 };

static void lz4_close(void *state) {
    struct lz4_state *z = state;
    if (z == NULL) return;
    LZ4F_freeDecompressionContext(z->d);
    mem_free(z);
}

static enum status lz4_open(void **state, struct err *e) {
    enum status st = OK;
    struct lz4_state *z = NULL;
    *state = NULL;
    TRY(mem_zalloc(&z, 1, sizeof *z, e));
    if (LZ4F_isError(LZ4F_createDecompressionContext(&z->d, LZ4F_VERSION))) {
        FAIL(e, E_NOMEM, "out of memory");
    }
    *state = z;
    z = NULL;
done:
    lz4_close(z);
    return st;
}

static enum status lz4_begin(void *state, struct unpack_step *s) {
    struct lz4_state *z = state;
    LZ4F_resetDecompressionContext(z->d);
    z->hint = LZ4_SHORTEST_HEADER;
    // The library would decode such a frame into something else without a word.
    const bool dictionary = s->n_in > 4 && s->in[0] == 0x04 && (s->in[4] & 1) != 0;
    return dictionary ? bad(s, "needs a dictionary, which is not supported", NULL) : OK;
}

static enum status lz4_step(void *state, struct unpack_step *s) {
    struct lz4_state *z = state;
    s->used = least(s->n_in, z->hint);
    s->made = s->n_out;
    const size_t r = LZ4F_decompress(z->d, s->out, &s->made, s->in, &s->used, NULL);
    if (LZ4F_isError(r)) {
        const char *name = LZ4F_getErrorName(r);
        s->used = s->made = 0;
        if (strstr(name, "allocation") != NULL) return E_NOMEM;
        if (strstr(name, "headerChecksum") != NULL) return bad(s, "wrong header checksum", NULL);
        if (strstr(name, "blockChecksum") != NULL) return bad(s, "wrong block checksum", NULL);
        if (strstr(name, "contentChecksum") != NULL) {
            return bad(s, "wrong checksum (XXH32)", NULL);
        }
        return bad(s, "damaged LZ4 data", name);
    }
    s->end = r == 0;
    z->hint = r;
    return OK;
}

const struct unpack_codec *unpack_codec_of(enum unpack_kind kind) {
    static const struct unpack_codec gzip = {"gzip",    "member",   {0x1F, 0x8B}, 2,        false,
                                             gzip_open, gzip_close, gzip_begin,   gzip_step};
    static const struct unpack_codec zstd = {"zstd",     "frame",    {0x28, 0xB5, 0x2F, 0xFD},
                                             4,          true,       zstd_open,
                                             zstd_close, zstd_begin, zstd_step};
    static const struct unpack_codec lz4 = {"LZ4",     "frame",   {0x04, 0x22, 0x4D, 0x18},
                                            4,         true,      lz4_open,
                                            lz4_close, lz4_begin, lz4_step};
    switch (kind) {
    case UNPACK_GZIP: return &gzip;
    case UNPACK_ZSTD: return &zstd;
    case UNPACK_LZ4: return &lz4;
    case UNPACK_NONE: break;
    }
    return NULL;
}
