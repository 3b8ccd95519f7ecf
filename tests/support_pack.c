#define ZLIB_CONST
#include "tests/support_pack.h"

#include "io/file.h"

#include <lz4frame.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

enum { PIECE = 1 << 16 };

static void must(bool ok) {
    if (!ok) abort();
}

/* ---- one compressor of any kind ---- */

struct packer {
    enum unpack_kind kind;
    z_stream z;
    ZSTD_CCtx *zstd;
    LZ4F_cctx *lz4;
    char *out; /* of lz4, whose compressor does not stop when it is full */
    size_t cap;
    struct sbuf *to;
};

static void pack_begin(struct packer *p) {
    const LZ4F_preferences_t prefs = {
        .frameInfo = {.blockSizeID = LZ4F_max64KB,
                      .contentChecksumFlag = LZ4F_contentChecksumEnabled,
                      .blockChecksumFlag = LZ4F_blockChecksumEnabled}};
    switch (p->kind) {
    case UNPACK_GZIP: must(deflateInit2(&p->z, 9, Z_DEFLATED, 16 + 15, 9, 0) == Z_OK); break;
    case UNPACK_ZSTD:
        p->zstd = ZSTD_createCCtx();
        ZSTD_CCtx_setParameter(p->zstd, ZSTD_c_checksumFlag, 1);
        break;
    default:
        p->cap = LZ4F_compressBound(PIECE, &prefs) + LZ4F_HEADER_SIZE_MAX;
        p->out = malloc(p->cap);
        must(!LZ4F_isError(LZ4F_createCompressionContext(&p->lz4, LZ4F_VERSION)));
        sbuf_add(p->to, p->out, LZ4F_compressBegin(p->lz4, p->out, p->cap, &prefs));
    }
}

static void pack_gzip(struct packer *p, const char *bytes, size_t n, bool last) {
    char out[4096];
    p->z.next_in = (const Bytef *)bytes;
    p->z.avail_in = (uInt)n;
    do {
        p->z.next_out = (Bytef *)out;
        p->z.avail_out = sizeof out;
        must(deflate(&p->z, last ? Z_FINISH : Z_NO_FLUSH) != Z_STREAM_ERROR);
        sbuf_add(p->to, out, sizeof out - p->z.avail_out);
    } while (p->z.avail_out == 0);
}

static void pack_zstd(struct packer *p, const char *bytes, size_t n, bool last) {
    char space[4096];
    ZSTD_inBuffer in = {bytes, n, 0};
    size_t left = 1;
    while (in.pos < n || (last && left > 0)) {
        ZSTD_outBuffer out = {space, sizeof space, 0};
        left = ZSTD_compressStream2(p->zstd, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
        must(!ZSTD_isError(left));
        sbuf_add(p->to, space, out.pos);
    }
}

static void pack_lz4(struct packer *p, const char *bytes, size_t n, bool last) {
    for (size_t at = 0; at < n; at += PIECE) {
        const size_t k = n - at < PIECE ? n - at : PIECE;
        const size_t made = LZ4F_compressUpdate(p->lz4, p->out, p->cap, bytes + at, k, NULL);
        must(!LZ4F_isError(made));
        sbuf_add(p->to, p->out, made);
    }
    if (last) sbuf_add(p->to, p->out, LZ4F_compressEnd(p->lz4, p->out, p->cap, NULL));
}

static void pack_add(struct packer *p, const char *bytes, size_t n, bool last) {
    switch (p->kind) {
    case UNPACK_GZIP: pack_gzip(p, bytes, n, last); break;
    case UNPACK_ZSTD: pack_zstd(p, bytes, n, last); break;
    default: pack_lz4(p, bytes, n, last);
    }
}

static void pack_end(struct packer *p) {
    if (p->kind == UNPACK_GZIP) deflateEnd(&p->z);
    ZSTD_freeCCtx(p->zstd);
    LZ4F_freeCompressionContext(p->lz4);
    free(p->out);
    must(!p->to->failed);
}

/* ---- what the tests call ---- */

void pack_frame(enum unpack_kind kind, const void *bytes, size_t n, struct sbuf *out) {
    struct packer p = {.kind = kind, .to = out};
    pack_begin(&p);
    pack_add(&p, bytes, n, true);
    pack_end(&p);
}

void pack_stream(enum unpack_kind kind, int fd, size_t (*make)(void *ctx, char *buf, size_t cap),
                 void *ctx) {
    struct sbuf out;
    sbuf_init(&out);
    struct packer p = {.kind = kind, .to = &out};
    char *piece = malloc(PIECE);
    must(piece != NULL);
    pack_begin(&p);
    for (size_t n = 1; n > 0;) {
        n = make(ctx, piece, PIECE);
        pack_add(&p, piece, n, n == 0);
        must(file_write_all(fd, "packed", sbuf_str(&out), out.n, NULL) == OK);
        sbuf_clear(&out);
    }
    pack_end(&p);
    free(piece);
    sbuf_fini(&out);
}

void pack_skippable(enum unpack_kind kind, size_t n, struct sbuf *out) {
    if (kind == UNPACK_GZIP) return;
    const unsigned char head[8] = {0x53,
                                   0x2A,
                                   0x4D,
                                   0x18,
                                   (unsigned char)n,
                                   (unsigned char)(n >> 8),
                                   (unsigned char)(n >> 16),
                                   (unsigned char)(n >> 24)};
    sbuf_add(out, head, sizeof head);
    for (size_t i = 0; i < n; i++) sbuf_putc(out, (char)i);
}
