/* Commits and states as bytes, and the search for the attempt to go on from. Everything read here
 * may be torn, stale or foreign. */
#include "jobs/ledger_impl.h"

#include "base/mem.h"
#include "io/lz4f.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CHECKSUM_HEX = 16,
    COMMITS_TAIL_BYTES = 1 << 18, // some hundred commits: all that a fall-back can want
    STATE_HEADER_BYTES = 56,
    PIECE_BYTES = 1 << 18,
    SYNC_BYTES = 64 << 20 // of a state that may not have reached the disk
};
static const char state_magic[8] = {'B', 'A', 'S', 'I', 'N', 'C', 'K', 'P'};
static const char *const length_keys[LEDGER_STREAMS] = {"results", "token_rows", "errors"};

/* ---- one commit ---- */

static void print_length(struct sbuf *out, const char *key, const struct ledger_length *l) {
    sbuf_printf(out, ",\"%s\":[%" PRId64 ",%" PRId64 ",\"%s\"]", key, l->file_bytes,
                l->content_bytes, l->hash);
}

void ledger_print_point(const struct ledger_point *p, struct sbuf *line) {
    const struct ledger_mark *m = &p->mark;
    const size_t begin = line->n;
    sbuf_printf(
        line,
        "{\"documents\":%" PRId64 ",\"failed\":%" PRId64 ",\"rows\":%" PRId64 ",\"tokens\":%" PRId64
        ",\"slice\":%d,\"offset\":%" PRId64 ",\"time\":%" PRId64 ",\"retry_of\":\"%s\"",
        m->documents, m->failed, m->rows, m->tokens, m->slice, m->offset, p->time_ns, p->retry_of);
    for (int s = 0; s < LEDGER_STREAMS; s++) print_length(line, length_keys[s], &p->done[s]);
    if (p->slot >= 0) {
        print_length(line, "open", &p->open);
        sbuf_printf(line, ",\"state\":{\"slot\":%d,\"xxh128\":\"%s\"}", p->slot, p->state_hash);
        if (p->spool_bytes > 0) sbuf_printf(line, ",\"spool\":%" PRId64, p->spool_bytes);
    }
    sbuf_putc(line, '}');
    if (sbuf_status(line, NULL) != OK) return;
    sbuf_printf(line, " %016" PRIx64 "\n", hash_64(line->s + begin, line->n - begin));
}

static bool get_count(const struct jnode *v, int64_t max, int64_t *out) {
    if (v == NULL || json_kind_of(v) != JSON_INT) return false;
    *out = json_int(v);
    return *out >= 0 && *out <= max;
}

static bool get_hash(const struct jnode *v, bool may_be_empty, char hash[HASH_TEXT]) {
    size_t n = 0;
    if (v == NULL || json_kind_of(v) != JSON_STR) return false;
    const char *s = json_str(v, &n);
    if (n != HASH_TEXT - 1 && !(may_be_empty && n == 0)) return false;
    memcpy(hash, s, n + 1);
    return strspn(hash, "0123456789abcdef") == n;
}

static bool get_length(const struct jnode *v, struct ledger_length *out) {
    if (v == NULL || json_kind_of(v) != JSON_ARR || json_len(v) != 3) return false;
    return get_count(json_at(v, 0), INT64_MAX, &out->file_bytes) &&
           get_count(json_at(v, 1), INT64_MAX, &out->content_bytes) &&
           get_hash(json_at(v, 2), false, out->hash);
}

static bool get_point(const struct jnode *v, struct ledger_point *p) {
    struct ledger_mark *m = &p->mark;
    int64_t slice = 0, slot = 0;
    memset(p, 0, sizeof *p);
    p->slot = -1;
    if (json_kind_of(v) != JSON_OBJ) return false;
    bool ok = get_count(json_get(v, "documents"), INT64_MAX, &m->documents) &&
              get_count(json_get(v, "failed"), m->documents, &m->failed) &&
              get_count(json_get(v, "rows"), INT64_MAX, &m->rows) &&
              get_count(json_get(v, "tokens"), INT64_MAX, &m->tokens) &&
              get_count(json_get(v, "slice"), INT32_MAX, &slice) &&
              get_count(json_get(v, "offset"), INT64_MAX, &m->offset) &&
              get_count(json_get(v, "time"), INT64_MAX, &p->time_ns) &&
              get_hash(json_get(v, "retry_of"), true, p->retry_of);
    m->slice = (int)slice;
    for (int s = 0; s < LEDGER_STREAMS && ok; s++) {
        ok = get_length(json_get(v, length_keys[s]), &p->done[s]);
    }
    const struct jnode *state = json_get(v, "state");
    if (!ok || state == NULL) return ok;
    ok = json_kind_of(state) == JSON_OBJ && get_count(json_get(state, "slot"), 1, &slot) &&
         get_hash(json_get(state, "xxh128"), false, p->state_hash) &&
         get_length(json_get(v, "open"), &p->open);
    p->slot = (int)slot;
    const struct jnode *spool = json_get(v, "spool");
    return ok && (spool == NULL || get_count(spool, INT64_MAX, &p->spool_bytes));
}

// A line without its newline.
static enum status parse_point(const char *line, size_t n, struct ledger_point *p, bool *valid,
                               struct err *e) {
    struct json *j = NULL;
    char want[CHECKSUM_HEX + 2];
    *valid = false;
    if (n < CHECKSUM_HEX + 3) return OK;
    const size_t n_json = n - CHECKSUM_HEX - 1;
    snprintf(want, sizeof want, " %016" PRIx64, hash_64(line, n_json));
    if (memcmp(line + n_json, want, CHECKSUM_HEX + 1) != 0) return OK;
    if (json_open_text(&j, "commits", line, n_json, NULL) == E_NOMEM) {
        return err_fail(e, E_NOMEM, "out of memory");
    }
    *valid = j != NULL && get_point(json_root(j), p);
    json_close(j);
    return OK;
}

/* ---- states ---- */

static void put_le(char *p, uint64_t v, int n) {
    for (int i = 0; i < n; i++) p[i] = (char)(v >> 8 * i & 0xFF);
}

static uint64_t get_le(const char *p, int n) {
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v |= (uint64_t)(unsigned char)p[i] << 8 * i;
    return v;
}

enum status ledger_state_open(struct ledger_state *s, const char *path, struct err *e) {
    enum status st = OK;
    const char head[STATE_HEADER_BYTES] = {0};
    s->n = s->n_unsynced = 0;
    TRY(hash_open(&s->hash, e));
    // Not the atomic way: the other file is the valid one until a commit names this one.
    s->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (s->fd < 0) {
        st = err_errno(e, E_IO, errno, "%s: cannot create", path);
        goto done;
    }
    s->open = true;
    TRY(file_write_all(s->fd, path, head, sizeof head, e));
done:
    if (st != OK) ledger_state_close(s);
    return st;
}

enum status ledger_state_add(struct ledger_state *s, const char *path, const char *bytes, size_t n,
                             struct err *e) {
    enum status st = file_write_all(s->fd, path, bytes, n, e);
    hash_add(s->hash, bytes, n);
    s->n += n;
    s->n_unsynced += n;
    if (st == OK && s->n_unsynced >= SYNC_BYTES) {
        st = file_sync(s->fd, path, e);
        s->n_unsynced = 0;
    }
    if (st != OK) ledger_state_close(s);
    return st;
}

enum status ledger_state_end(struct ledger_state *s, const char *path, char hash[HASH_TEXT],
                             struct err *e) {
    enum status st = OK;
    char head[STATE_HEADER_BYTES] = {0};
    hash_text(s->hash, hash);
    memcpy(head, state_magic, sizeof state_magic);
    put_le(head + 8, 1, 4);
    put_le(head + 16, s->n, 8);
    memcpy(head + 24, hash, HASH_TEXT - 1);
    if (lseek(s->fd, 0, SEEK_SET) != 0) {
        st = err_errno(e, E_IO, errno, "%s", path);
        goto done;
    }
    TRY(file_write_all(s->fd, path, head, sizeof head, e));
    TRY(file_sync(s->fd, path, e));
done:
    ledger_state_close(s);
    return st;
}

void ledger_state_close(struct ledger_state *s) {
    if (s->open) close(s->fd);
    s->open = false;
    hash_close(s->hash);
    s->hash = NULL;
}

enum status ledger_read_state(const char *path, const char *hash, struct sbuf *out, struct err *e) {
    enum status st = OK;
    char have[HASH_TEXT];
    struct sbuf head;
    struct stat sb;
    const size_t begin = out->n;
    sbuf_init(&head);
    if (stat(path, &sb) != 0) {
        st = err_errno(e, E_NOINPUT, errno, "%s", path);
        goto done;
    }
    if (sb.st_size < STATE_HEADER_BYTES) FAIL(e, E_FORMAT, "%s: not a checkpoint", path);
    TRY(file_read_piece(path, 0, STATE_HEADER_BYTES, &head, e));
    if (memcmp(head.s, state_magic, sizeof state_magic) != 0) {
        FAIL(e, E_FORMAT, "%s: not a checkpoint", path);
    }
    if (get_le(head.s + 8, 4) != 1) FAIL(e, E_FORMAT, "%s: another version's checkpoint", path);
    const size_t n = (size_t)sb.st_size - STATE_HEADER_BYTES;
    if (get_le(head.s + 12, 4) != 0 || get_le(head.s + 16, 8) != n) {
        FAIL(e, E_FORMAT, "%s: cut short", path);
    }
    TRY(file_read_piece(path, STATE_HEADER_BYTES, n, out, e));
    hash_once(n > 0 ? out->s + begin : "", n, have);
    if (memcmp(head.s + 24, have, HASH_TEXT - 1) != 0) FAIL(e, E_FORMAT, "%s: damaged", path);
    if (strcmp(have, hash) != 0) FAIL(e, E_FORMAT, "%s: of another commit", path);
done:
    sbuf_fini(&head);
    return st;
}

/* ---- segments ---- */

enum status ledger_check_segment(const char *path, const struct ledger_length *length, bool whole,
                                 struct hash *h, struct err *e) {
    enum status st = OK;
    struct lz4f_reader *r = NULL;
    struct hash *own = NULL;
    char *piece = NULL, text[HASH_TEXT];
    if (h == NULL) {
        TRY(hash_open(&own, e));
        h = own;
    }
    hash_reset(h);
    TRY(mem_zalloc(&piece, PIECE_BYTES, 1, e));
    TRY(lz4f_open(&r, path, LZ4F_WHOLE, e));
    for (int64_t left = length->content_bytes; left > 0;) {
        size_t n = 0;
        TRY(lz4f_read(r, piece, left < PIECE_BYTES ? (size_t)left : PIECE_BYTES, &n, e));
        if (n == 0) FAIL(e, E_FORMAT, "%s: ends %" PRId64 " bytes too early", path, left);
        hash_add(h, piece, n);
        left -= (int64_t)n;
    }
    size_t more = 0;
    if (whole) TRY(lz4f_read(r, piece, PIECE_BYTES, &more, e)); // the last frame's own end, too
    if (more > 0) FAIL(e, E_FORMAT, "%s: more than what was committed", path);
    hash_text(h, text);
    if (strcmp(text, length->hash) != 0) {
        FAIL(e, E_FORMAT, "%s: its content is not what was committed", path);
    }
done:
    lz4f_close(r);
    hash_close(own);
    mem_free(piece);
    return st;
}

/* ---- the search ---- */

void ledger_candidates_fini(struct ledger_candidates *c) {
    for (size_t i = 0; i < c->n; i++) mem_free(c->v[i].attempt);
    mem_free(c->v);
    memset(c, 0, sizeof *c);
}

static enum status add_candidate(struct ledger_candidates *c, const char *attempt,
                                 const struct ledger_point *p, int slot, struct err *e) {
    enum status st = OK;
    TRY(mem_grow(&c->v, &c->cap, c->n + 1, sizeof *c->v, e));
    struct ledger_candidate *new = &c->v[c->n];
    memset(new, 0, sizeof *new);
    new->point = *p;
    new->point.slot = slot;
    TRY(mem_dup(&new->attempt, attempt, strlen(attempt), e));
    c->n++;
done:
    return st;
}

// The last bytes of a file; *cut: there were more before them. A file that cannot be read is empty.
static enum status read_tail(const char *path, struct sbuf *out, bool *cut, struct err *e) {
    enum status st = OK;
    struct stat sb;
    char *piece = NULL;
    *cut = false;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &sb) != 0 || !S_ISREG(sb.st_mode)) goto done;
    TRY(mem_zalloc(&piece, COMMITS_TAIL_BYTES, 1, e));
    int64_t at = sb.st_size > COMMITS_TAIL_BYTES ? sb.st_size - COMMITS_TAIL_BYTES : 0;
    *cut = at > 0;
    for (;;) {
        const ssize_t k = pread(fd, piece, COMMITS_TAIL_BYTES, at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) break;
        sbuf_add(out, piece, (size_t)k);
        at += k;
    }
    TRY(sbuf_status(out, e));
done:
    if (fd >= 0) close(fd);
    mem_free(piece);
    return st;
}

static bool lengths_fit(const struct ledger_point *p, const int64_t size[LEDGER_STREAMS]) {
    for (int s = 0; s < LEDGER_STREAMS; s++) {
        if (p->done[s].file_bytes > size[s]) return false;
    }
    return true;
}

static enum status search_attempt(struct ledger_candidates *out, const char *dir, int part,
                                  const char *attempt, const char *retry_of, struct err *e) {
    enum status st = OK;
    struct sbuf path, tail;
    int64_t size[LEDGER_STREAMS];
    bool cut = false;
    sbuf_init(&path);
    sbuf_init(&tail);
    ledger_put_work(&path, dir, part, attempt, "commits");
    TRY(sbuf_status(&path, e));
    TRY(read_tail(path.s, &tail, &cut, e));
    for (int s = 0; s < LEDGER_STREAMS; s++) { // after the commits: a segment only grows meanwhile
        struct stat sb;
        sbuf_clear(&path);
        ledger_put_work(&path, dir, part, attempt, ledger_stream_names[s]);
        TRY(sbuf_status(&path, e));
        size[s] = stat(path.s, &sb) == 0 && S_ISREG(sb.st_mode) ? sb.st_size : -1;
    }
    struct stat spool;
    sbuf_clear(&path);
    ledger_put_work(&path, dir, part, attempt, "spool");
    TRY(sbuf_status(&path, e));
    const int64_t n_spool = stat(path.s, &spool) == 0 && S_ISREG(spool.st_mode) ? spool.st_size : 0;
    for (size_t i = 0; i < tail.n;) {
        struct ledger_point p;
        bool valid = false;
        const char *newline = memchr(tail.s + i, '\n', tail.n - i);
        if (newline == NULL) break; // torn
        const size_t n = (size_t)(newline - (tail.s + i));
        if (i > 0 || !cut) TRY(parse_point(tail.s + i, n, &p, &valid, e));
        i += n + 1;
        if (!valid || !lengths_fit(&p, size)) continue;
        if (retry_of != NULL && strcmp(p.retry_of, retry_of) != 0) continue;
        TRY(add_candidate(out, attempt, &p, -1, e));
        const bool open_fits = p.open.file_bytes <= size[LEDGER_TOKENS] && p.spool_bytes <= n_spool;
        if (p.slot >= 0 && open_fits) TRY(add_candidate(out, attempt, &p, p.slot, e));
    }
done:
    sbuf_fini(&path);
    sbuf_fini(&tail);
    return st;
}

static int furthest_first(const void *a, const void *b) {
    const struct ledger_candidate *x = a, *y = b;
    const int64_t dx = x->point.mark.documents, dy = y->point.mark.documents;
    if (dx != dy) return dx < dy ? 1 : -1;
    if ((x->point.slot >= 0) != (y->point.slot >= 0)) return x->point.slot < 0 ? 1 : -1;
    if (x->point.time_ns != y->point.time_ns) return x->point.time_ns < y->point.time_ns ? 1 : -1;
    return strcmp(x->attempt, y->attempt);
}

enum status ledger_find_candidates(struct ledger_candidates *out, const char *dir, int part,
                                   const char *retry_of, struct err *e) {
    enum status st = OK;
    struct sbuf path;
    DIR *d = NULL;
    sbuf_init(&path);
    memset(out, 0, sizeof *out);
    ledger_put_work(&path, dir, part, NULL, NULL);
    TRY(sbuf_status(&path, e));
    d = opendir(path.s);
    const struct dirent *entry;
    while (d != NULL && (entry = readdir(d)) != NULL) {
        if (entry->d_name[0] == '.') continue;
        TRY(search_attempt(out, dir, part, entry->d_name, retry_of, e));
    }
    if (out->n > 1) qsort(out->v, out->n, sizeof *out->v, furthest_first);
done:
    if (d != NULL) closedir(d);
    sbuf_fini(&path);
    if (st != OK) ledger_candidates_fini(out);
    return st;
}

bool ledger_peek(const char *dir, int part, struct ledger_mark *mark) {
    struct ledger_candidates c;
    memset(mark, 0, sizeof *mark);
    if (ledger_find_candidates(&c, dir, part, NULL, NULL) != OK || c.n == 0) return false;
    *mark = c.v[0].point.mark;
    ledger_candidates_fini(&c);
    return true;
}
