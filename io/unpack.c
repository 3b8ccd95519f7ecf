/* Files, frames, limits and messages. The libraries are in unpack_codec.c. */
#include "io/unpack_impl.h"

#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { IN_BYTES = 64 << 10, OUT_BYTES = 128 << 10 };

struct unpack {
    struct unpack_file f;
    const struct unpack_codec *codec;
    void *state; /* owned: the codec's */
    char *in;    /* owned, IN_BYTES: in[in_at .. in_n) is to be decoded */
    size_t in_at, in_n;
    int64_t in_end; /* place in the file of in[in_n] */
    /* owned, OUT_BYTES: out[out_at .. out_n) is to be handed out. Callers never see the decoder
     * directly, so that it decodes in the same steps whatever they ask for: how much comes out in
     * front of damaged data depends on the steps. */
    char *out;
    size_t out_at, out_n;
    int64_t total_out;
    int64_t frames, frame_begin;
    bool in_frame, ended;
    struct err fault; /* what is wrong behind out[out_n] */
};

static const char *const suffixes[] = {
    [UNPACK_NONE] = "", [UNPACK_GZIP] = ".gz", [UNPACK_ZSTD] = ".zst", [UNPACK_LZ4] = ".lz4"};

const char *unpack_suffix(enum unpack_kind kind) {
    return suffixes[kind];
}

enum unpack_kind unpack_kind_of(const char *path) {
    const size_t n = strlen(path);
    for (size_t i = UNPACK_GZIP; i < COUNTOF(suffixes); i++) {
        const size_t k = strlen(suffixes[i]);
        if (n >= k && strcasecmp(path + n - k, suffixes[i]) == 0) return (enum unpack_kind)i;
    }
    return UNPACK_NONE;
}

enum unpack_kind unpack_kind_of_fd(int fd) {
    static const char magic[][5] = {[UNPACK_GZIP] = "\x1F\x8B\x08",
                                    [UNPACK_ZSTD] = "\x28\xB5\x2F\xFD",
                                    [UNPACK_LZ4] = "\x04\x22\x4D\x18"};
    char head[4];
    const ssize_t n = pread(fd, head, sizeof head, 0);
    for (size_t i = UNPACK_GZIP; i < COUNTOF(magic); i++) {
        const size_t k = strlen(magic[i]);
        if (n >= (ssize_t)k && memcmp(head, magic[i], k) == 0) return (enum unpack_kind)i;
    }
    return UNPACK_NONE;
}

enum status unpack_open(struct unpack **out, const struct unpack_file *f, struct err *e) {
    enum status st = OK;
    struct unpack *u = NULL;
    *out = NULL;
    TRY(mem_zalloc(&u, 1, sizeof *u, e));
    u->f = *f;
    u->codec = unpack_codec_of(f->kind);
    CHECK(u->codec != NULL);
    TRY(mem_alloc64(&u->in, IN_BYTES, 1, e));
    TRY(mem_alloc64(&u->out, OUT_BYTES, 1, e));
    TRY(u->codec->open(&u->state, e));
    *out = u;
    u = NULL;
done:
    unpack_close(u);
    return st;
}

void unpack_close(struct unpack *u) {
    if (u == NULL) return;
    u->codec->close(u->state);
    mem_free(u->in);
    mem_free(u->out);
    mem_free(u);
}

int64_t unpack_place(const struct unpack *u) {
    return u->in_end - (int64_t)(u->in_n - u->in_at);
}

// Reads until at least `want` bytes are to be decoded, or the file ends.
static enum status fill(struct unpack *u, size_t want, struct err *e) {
    if (u->in_n - u->in_at >= want) return OK;
    memmove(u->in, u->in + u->in_at, u->in_n - u->in_at);
    u->in_n -= u->in_at;
    u->in_at = 0;
    while (u->in_n < want && u->in_end < u->f.size) {
        const int64_t left = u->f.size - u->in_end;
        const size_t room = IN_BYTES - u->in_n;
        const ssize_t k =
            pread(u->f.fd, u->in + u->in_n, left < (int64_t)room ? (size_t)left : room, u->in_end);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            return err_errno(e, E_IO, errno, "%s: cannot read compressed byte %" PRId64, u->f.label,
                             u->in_end);
        }
        if (k == 0) {
            return err_fail(e, E_IO, "%s: has shrunk to %" PRId64 " bytes, %" PRId64 " expected",
                            u->f.label, u->in_end, u->f.size);
        }
        u->in_n += (size_t)k;
        u->in_end += k;
    }
    return OK;
}

/* ---- what can be wrong ---- */

static void fault(struct unpack *u, int64_t at, const char *what) {
    err_fail(&u->fault, E_FORMAT, "%s: compressed byte %" PRId64 ": %s", u->f.label, at, what);
}

static void cut_short(struct unpack *u) {
    err_fail(&u->fault, E_FORMAT,
             "%s: compressed byte %" PRId64 ": cut short: the file ends inside the %s %s that "
             "begins at compressed byte %" PRId64,
             u->f.label, u->f.size, u->codec->name, u->codec->frame, u->frame_begin);
}

static const char *guess(const char *p, size_t n) {
    static const struct {
        const char *bytes, *name;
    } known[] = {{"\x1f\x8b", "gzip"},
                 {"\x28\xb5\x2f\xfd", "zstd"},
                 {"\x04\x22\x4d\x18", "LZ4"},
                 {"\x02\x21\x4c\x18", "LZ4 data of the legacy format"},
                 {"BZh", "bzip2"},
                 {"\xfd\x37\x7a\x58", "xz"},
                 {"PK\x03\x04", "zip"}};
    for (size_t i = 0; i < COUNTOF(known); i++) {
        const size_t k = strlen(known[i].bytes);
        if (n >= k && memcmp(p, known[i].bytes, k) == 0) return known[i].name;
    }
    return NULL;
}

static void not_a_frame(struct unpack *u) {
    const char *p = u->in + u->in_at, *name = guess(p, u->in_n - u->in_at);
    if (u->frames > 0) {
        err_fail(&u->fault, E_FORMAT,
                 "%s: compressed byte %" PRId64 ": %" PRId64 " bytes of something else behind the "
                 "last %s %s",
                 u->f.label, unpack_place(u), u->f.size - unpack_place(u), u->codec->name,
                 u->codec->frame);
    } else {
        err_fail(&u->fault, E_FORMAT,
                 "%s: compressed byte 0: not %s, which the name's %s stands for%s%s", u->f.label,
                 u->codec->name, unpack_suffix(u->f.kind), name != NULL ? "; this looks like " : "",
                 name != NULL ? name : "");
    }
}

// Whether p[0..n), or what it may be the beginning of, begins a frame.
static bool begins_frame(const struct unpack_codec *c, const char *p, size_t n) {
    static const unsigned char skip[] = {0x50, 0x2A, 0x4D, 0x18};
    bool frame = true, skippable = c->skippable;
    for (size_t i = 0; i < c->n_magic && i < n; i++) {
        const unsigned char byte = (unsigned char)p[i];
        frame = frame && byte == c->magic[i];
        skippable = skippable && (i > 0 ? byte : byte & 0xF0) == skip[i];
    }
    return frame || skippable;
}

/* ---- decoding ---- */

// Between two frames: the next one, the end, or a fault.
static enum status begin_frame(struct unpack *u, struct err *e) {
    enum status st = OK;
    TRY(fill(u, UNPACK_MAGIC_BYTES, e));
    struct unpack_step s = {.in = u->in + u->in_at, .n_in = u->in_n - u->in_at};
    u->frame_begin = unpack_place(u);
    u->ended = s.n_in == 0 && u->frames > 0;
    if (u->ended) goto done;
    if (s.n_in == 0) {
        fault(u, 0, "the file is empty: not even the compressed form of nothing");
    } else if (!begins_frame(u->codec, s.in, s.n_in)) {
        not_a_frame(u);
    } else if (s.n_in < u->codec->n_magic) {
        cut_short(u);
    } else if (u->codec->begin(u->state, &s) != OK) {
        fault(u, u->frame_begin, s.why);
    } else {
        u->in_frame = true;
    }
done:
    return st;
}

static void check_ratio(struct unpack *u) {
    const int64_t at = unpack_place(u);
    if (u->total_out <= UNPACK_RATIO_FROM || u->total_out / UNPACK_RATIO_MOST < at) return;
    err_fail(&u->fault, E_FORMAT,
             "%s: compressed byte %" PRId64 ": has become %" PRId64
             " bytes so far; more than %d to 1 is taken for a decompression bomb",
             u->f.label, at, u->total_out, UNPACK_RATIO_MOST);
}

static enum status step(struct unpack *u, struct err *e) {
    enum status st = OK;
    if (!u->in_frame) return begin_frame(u, e);
    TRY(fill(u, 1, e));
    struct unpack_step s = {.in = u->in + u->in_at,
                            .n_in = u->in_n - u->in_at,
                            .out = u->out + u->out_n,
                            .n_out = OUT_BYTES - u->out_n};
    st = u->codec->step(u->state, &s);
    u->in_at += s.used;
    u->out_n += s.made;
    u->total_out += (int64_t)s.made;
    if (st == E_FORMAT) {
        fault(u, unpack_place(u), s.why);
        st = OK;
    } else if (st != OK) {
        FAIL(e, st, "%s: out of memory for decompression", u->f.label);
    } else if (s.end) {
        u->in_frame = false;
        u->frames++;
    } else if (s.n_in == 0 && s.made == 0) {
        cut_short(u);
    }
    if (u->fault.code == OK) check_ratio(u);
done:
    return st;
}

enum status unpack_read(struct unpack *u, char *buf, size_t cap, size_t *n, struct err *e) {
    enum status st = OK;
    *n = 0;
    if (cap == 0) FAIL(e, E_ARG, "%s: no room to read into", u->f.label);
    if (u->out_at == u->out_n) {
        u->out_at = u->out_n = 0;
        while (u->out_n < OUT_BYTES && !u->ended && u->fault.code == OK) TRY(step(u, e));
    }
    *n = u->out_n - u->out_at < cap ? u->out_n - u->out_at : cap;
    if (*n == 0 && u->fault.code != OK) FAIL(e, E_FORMAT, "%s", u->fault.msg);
    memcpy(buf, u->out + u->out_at, *n);
    u->out_at += *n;
done:
    return st;
}
