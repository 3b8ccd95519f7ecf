/* Taking over what the furthest earlier attempt has committed. */
#include "jobs/ledger_impl.h"

#include "base/mem.h"
#include "io/lz4f.h"

#include <string.h>
#include <unistd.h>

static enum status put_path(struct sbuf *path, const struct ledger_part *p, const char *attempt,
                            const char *file, struct err *e) {
    sbuf_clear(path);
    ledger_put_work(path, p->l->dir, p->part, attempt, file);
    return sbuf_status(path, e);
}

static enum status copy_segment(struct ledger_part *p, int s, const struct ledger_candidate *c,
                                struct sbuf *path, struct err *e) {
    enum status st = OK;
    struct ledger_segment *g = &p->segs[s];
    const bool open = s == LEDGER_TOKENS && c->point.slot >= 0;
    const struct ledger_length *length = open ? &c->point.open : &c->point.done[s];
    const char *own = ledger_own_path(p, ledger_stream_names[s]);
    TRY(put_path(path, p, c->attempt, ledger_stream_names[s], e));
    struct err why = {.code = OK};
    st = file_copy_prefix(path->s, own, length->file_bytes, &why);
    if (st == E_IO && ledger_stamp_of(path->s).bytes < length->file_bytes)
        st = E_FORMAT; // cut back
    if (st != OK) FAIL(e, st, "%s", why.msg);
    TRY(ledger_check_segment(own, length, true, g->hash, e));
    g->content_bytes = length->content_bytes;
    g->done = c->point.done[s];
done:
    return st;
}

static enum status copy_spool(struct ledger_part *p, const struct ledger_candidate *c,
                              struct sbuf *path, struct err *e) {
    enum status st = OK;
    TRY(put_path(path, p, c->attempt, "spool", e));
    st = file_copy_prefix(path->s, ledger_own_path(p, "spool"), c->point.spool_bytes, e);
    if (st == E_IO && ledger_stamp_of(path->s).bytes < c->point.spool_bytes) st = E_FORMAT;
done:
    return st;
}

// E_FORMAT, E_NOINPUT: this one cannot be taken. Everything else would befall the next one as well.
static enum status take(struct ledger_part *p, const struct ledger_candidate *c, struct sbuf *state,
                        struct err *e) {
    enum status st = OK;
    struct file_lock *alive = NULL;
    bool held = false, unsupported = false;
    struct sbuf path;
    sbuf_init(&path);
    (void)unlink(ledger_own_path(p, "spool")); // of one that could not be taken
    // While we hold the lock of a dead attempt nobody else removes it.
    TRY(put_path(&path, p, c->attempt, "alive", e));
    st = file_lock_try(&alive, path.s, &held, &unsupported, NULL);
    st = OK; // else nothing holds it for us
    if (c->point.slot >= 0) {
        TRY(put_path(&path, p, c->attempt, ledger_state_names[c->point.slot], e));
        st = ledger_read_state(path.s, c->point.state_hash, state, e);
        if (st == E_IO) st = E_FORMAT; // a state that cannot be read is a lost one
        if (st != OK) goto done;
    }
    for (int s = 0; s < LEDGER_STREAMS; s++) TRY(copy_segment(p, s, c, &path, e));
    if (c->point.slot >= 0 && c->point.spool_bytes > 0) TRY(copy_spool(p, c, &path, e));
done:
    file_unlock(alive);
    sbuf_fini(&path);
    return st;
}

static bool within(const struct ledger_candidate *c, const int64_t valid[LEDGER_STREAMS]) {
    for (int s = 0; s < LEDGER_STREAMS; s++) {
        const bool open = s == LEDGER_TOKENS && c->point.slot >= 0;
        if ((open ? c->point.open : c->point.done[s]).file_bytes > valid[s]) return false;
    }
    return true;
}

// One damaged frame is the end of every commit behind it: they are passed over without being copied
// one after the other, which for a large part would take longer than computing it.
static enum status pass_over_damaged(struct ledger_part *p, struct ledger_candidates *c,
                                     size_t from, struct err *e) {
    enum status st = OK;
    int64_t valid[LEDGER_STREAMS];
    struct sbuf path;
    sbuf_init(&path);
    const struct ledger_candidate *bad = &c->v[from];
    for (int s = 0; s < LEDGER_STREAMS; s++) {
        struct lz4f_counts counts;
        TRY(put_path(&path, p, bad->attempt, ledger_stream_names[s], e));
        st = lz4f_scan(path.s, LZ4F_TORN_OK, &counts, NULL);
        if (st == E_NOMEM) FAIL(e, E_NOMEM, "out of memory");
        valid[s] = st == OK ? counts.valid_bytes : -1;
        st = OK;
    }
    for (size_t i = from + 1; i < c->n; i++) {
        if (strcmp(c->v[i].attempt, bad->attempt) != 0 || within(&c->v[i], valid)) continue;
        c->v[i].damaged = true;
    }
done:
    sbuf_fini(&path);
    return st;
}

enum status ledger_load_furthest(struct ledger_part *p, const char *retry_of, bool *found,
                                 struct ledger_mark *mark, struct sbuf *state, struct err *e) {
    enum status st = OK;
    struct ledger_candidates c;
    memset(&c, 0, sizeof c);
    *found = false;
    TRY(ledger_find_candidates(&c, p->l->dir, p->part, retry_of, e));
    for (size_t i = 0; i < c.n; i++) {
        struct err why = {.code = OK};
        if (c.v[i].damaged) continue;
        sbuf_clear(state);
        st = take(p, &c.v[i], state, &why);
        if (st == OK) {
            *mark = c.v[i].point.mark;
            *found = true;
            break;
        }
        if (st != E_FORMAT && st != E_NOINPUT) FAIL(e, st, "%s", why.msg);
        st = OK;
        TRY(pass_over_damaged(p, &c, i, e));
    }
    if (!*found) sbuf_clear(state);
done:
    ledger_candidates_fini(&c);
    return st;
}
