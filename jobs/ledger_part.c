/* One part while it is being written: its lock, its segments, its commits. */
#include "jobs/ledger_impl.h"

#include "base/clock.h"
#include "base/mem.h"
#include "io/lz4f.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SPILL_BYTES = 1 << 20, MAX_OWN = 10000, MAX_TRIES = 100, SHOW_NS = 1000000000 };

const char *ledger_own_path(struct ledger_part *p, const char *file) {
    sbuf_clear(&p->path);
    ledger_put_work(&p->path, p->l->dir, p->part, p->attempt, file);
    return sbuf_str(&p->path);
}

// Work that is of no more use. Where it cannot be removed it is in nobody's way.
static void forget_tree(const char *path) {
    const enum status ignored = file_remove_tree(path, NULL);
    (void)ignored;
}

/* ---- opening ---- */

enum status ledger_check_job(const struct ledger *l, struct err *e) {
    enum status st = OK;
    struct sbuf path;
    sbuf_init(&path);
    sbuf_printf(&path, "%s/job.json", l->dir);
    TRY(sbuf_status(&path, e));
    const struct ledger_stamp now = ledger_stamp_of(path.s);
    if (!ledger_same_stamp(&now, &l->job)) {
        FAIL(e, E_OUTPUT, "%s: another run has replaced the job meanwhile", path.s);
    }
done:
    sbuf_fini(&path);
    return st;
}

static enum status take_part_lock(struct ledger_part *p, bool *held, bool *no_locks,
                                  struct err *e) {
    enum status st = OK;
    sbuf_clear(&p->path);
    ledger_put_lock(&p->path, p->l->dir, p->part);
    TRY(sbuf_status(&p->path, e));
    TRY(file_lock_try(&p->lock, p->path.s, held, no_locks, e));
    if (*held) { // perhaps only by somebody who asked for an instant who holds it
        const struct timespec instant = {.tv_nsec = 10 * 1000 * 1000};
        nanosleep(&instant, NULL);
        TRY(file_lock_try(&p->lock, p->path.s, held, no_locks, e));
    }
done:
    return st;
}

// The first free one of ATTEMPT, ATTEMPT.2, ATTEMPT.3: a run may come back to a part. It gets its
// name only when its lock is held, or another attempt might take it for a dead one.
static enum status name_own_dir(struct ledger_part *p, const char *unnamed, struct err *e) {
    enum status st = OK;
    struct sbuf name;
    sbuf_init(&name);
    for (int i = 1; p->attempt == NULL; i++) {
        sbuf_clear(&name);
        sbuf_puts(&name, p->l->attempt);
        if (i > 1) sbuf_printf(&name, ".%d", i);
        sbuf_clear(&p->path);
        ledger_put_work(&p->path, p->l->dir, p->part, sbuf_str(&name), NULL);
        TRY(sbuf_status(&name, e));
        TRY(sbuf_status(&p->path, e));
        if (rename(unnamed, p->path.s) == 0) {
            TRY(mem_dup(&p->attempt, name.s, name.n, e));
        } else if ((errno != EEXIST && errno != ENOTEMPTY) || i == MAX_OWN) {
            st = err_errno(e, E_OUTPUT, errno, "%s: cannot create", p->path.s);
            goto done;
        }
    }
done:
    sbuf_fini(&name);
    return st;
}

// E_OUTPUT may pass: the part's folder goes when its last attempt does, perhaps between our making
// it and our making something in it.
static enum status make_locked_dir(struct ledger_part *p, const char *work, bool *no_locks,
                                   struct err *e) {
    enum status st = OK;
    bool held = false;
    struct sbuf unnamed, path;
    sbuf_init(&unnamed);
    sbuf_init(&path);
    sbuf_printf(&path, "%s/x", work);
    TRY(sbuf_status(&path, e));
    TRY(file_temp_path(path.s, &unnamed, e)); // beside x
    sbuf_clear(&path);
    sbuf_printf(&path, "%s/alive", unnamed.s);
    TRY(sbuf_status(&path, e));
    TRY(file_mkdirs(work, e));
    TRY(file_mkdirs(unnamed.s, e));
    st = file_lock_try(&p->alive, path.s, &held, no_locks, e);
    if (st == OK) st = name_own_dir(p, unnamed.s, e);
    if (p->attempt == NULL) {
        forget_tree(unnamed.s);
        file_unlock(p->alive);
        p->alive = NULL;
    }
done:
    sbuf_fini(&unnamed);
    sbuf_fini(&path);
    return st;
}

static enum status make_own_dir(struct ledger_part *p, bool *no_locks, struct err *e) {
    enum status st = OK;
    bool unsupported = false;
    struct sbuf work;
    sbuf_init(&work);
    ledger_put_work(&work, p->l->dir, p->part, NULL, NULL);
    TRY(sbuf_status(&work, e));
    for (int i = 0; p->attempt == NULL; i++) {
        struct err why = {.code = OK};
        st = make_locked_dir(p, work.s, &unsupported, &why);
        if (st != OK && (st != E_OUTPUT || i == MAX_TRIES)) FAIL(e, st, "%s", why.msg);
    }
    if (unsupported) *no_locks = true;
    (void)ledger_own_path(p, "the-longest-name-of-all"); // from here on paths need no memory
    TRY(sbuf_status(&p->path, e));
    TRY(file_sync_dir(work.s, e));
    work.n = (size_t)(strrchr(work.s, '/') - work.s); // the folder of all parts
    work.s[work.n] = '\0';
    TRY(file_sync_dir(work.s, e));
done:
    sbuf_fini(&work);
    return st;
}

static enum status open_spool(struct ledger_part *p, struct err *e) {
    return p->spool != NULL ? OK : file_append_open(&p->spool, ledger_own_path(p, "spool"), e);
}

static enum status open_files(struct ledger_part *p, bool resumed, struct err *e) {
    enum status st = OK;
    for (int s = 0; s < LEDGER_STREAMS; s++) {
        struct ledger_segment *g = &p->segs[s];
        TRY(file_append_open(&g->file, ledger_own_path(p, ledger_stream_names[s]), e));
        if (resumed) continue;
        TRY(file_append_truncate(g->file, 0, e)); // of a copy that turned out to be no good
        hash_reset(g->hash);
        g->done = (struct ledger_length){.file_bytes = 0};
        hash_text(g->hash, g->done.hash);
        g->content_bytes = 0;
    }
    // What a state that was not taken had put aside is of no use.
    if (!resumed) (void)unlink(ledger_own_path(p, "spool"));
    if (access(ledger_own_path(p, "spool"), F_OK) == 0) TRY(open_spool(p, e));
    TRY(file_append_open(&p->commits, ledger_own_path(p, "commits"), e));
    TRY(file_sync_dir(ledger_own_path(p, NULL), e));
done:
    return st;
}

// Which attempts count: any at a part that is not published; else those at the same retry.
static enum status load(struct ledger_part *p, struct ledger_mark *mark, struct sbuf *state,
                        struct err *e) {
    enum status st = OK;
    bool resumed = false;
    int64_t ignored = 0;
    bool again = ledger_is_published(p->l, p->part);
    if (again) {
        sbuf_clear(&p->path);
        ledger_put_published(&p->path, p->l->dir, LEDGER_ERRORS, p->part, p->l->n_part);
        TRY(sbuf_status(&p->path, e));
        st = ledger_hash_file(p->path.s, p->retry_of, &ignored, NULL);
        if (st == E_NOMEM) FAIL(e, st, "out of memory");
        again = st == OK; // gone: another attempt has just done away with it
        st = OK;
    }
    for (int s = 0; s < LEDGER_STREAMS; s++) TRY(hash_open(&p->segs[s].hash, e));
    TRY(ledger_load_furthest(p, again ? p->retry_of : NULL, &resumed, mark, state, e));
    TRY(open_files(p, resumed, e));
    if (!resumed) goto done;
    // Ours from now on, so that what earlier attempts left need not be kept.
    TRY(ledger_commit(p, mark, state->s, state->n, e));
    ledger_remove_dead(p);
done:
    return st;
}

enum status ledger_part_open(struct ledger_part **out, struct ledger *l, int part, bool ignore_lock,
                             bool *held, bool *no_locks, struct ledger_mark *mark,
                             struct sbuf *state, struct err *e) {
    enum status st = OK;
    struct ledger_part *p = NULL;
    *out = NULL;
    *held = *no_locks = false;
    memset(mark, 0, sizeof *mark);
    sbuf_clear(state);
    if (part < 0 || part >= l->n_part) FAIL(e, E_ARG, "there is no part %d", part);
    TRY(mem_zalloc(&p, 1, sizeof *p, e));
    p->l = l;
    p->part = part;
    if (!ignore_lock) TRY(take_part_lock(p, held, no_locks, e));
    if (*held || ledger_is_settled(l, part)) goto done;
    TRY(ledger_check_job(l, e));
    TRY(make_own_dir(p, no_locks, e));
    TRY(load(p, mark, state, e));
    *out = p;
    p = NULL;
done:
    if (st != OK && p != NULL) p->committed = false; // earlier attempts still hold it all
    ledger_part_close(p);
    return st;
}

void ledger_part_close(struct ledger_part *p) {
    if (p == NULL) return;
    for (int s = 0; s < LEDGER_STREAMS; s++) {
        file_append_close(p->segs[s].file);
        sbuf_fini(&p->segs[s].buf);
        hash_close(p->segs[s].hash);
    }
    file_append_close(p->commits);
    file_append_close(p->spool);
    ledger_state_close(&p->state);
    file_unlock(p->alive); // before the removal: network file systems keep what is still open
    if (p->attempt != NULL && (p->published || !p->committed)) {
        forget_tree(ledger_own_path(p, NULL));
        sbuf_clear(&p->path);
        ledger_put_work(&p->path, p->l->dir, p->part, NULL, NULL);
        (void)rmdir(sbuf_str(&p->path)); // when it was the last
    }
    file_unlock(p->lock);
    sbuf_fini(&p->path);
    mem_free(p->attempt);
    mem_free(p);
}

void ledger_remove_dead(struct ledger_part *p) {
    struct sbuf work, path;
    DIR *d = NULL;
    sbuf_init(&work);
    sbuf_init(&path);
    ledger_put_work(&work, p->l->dir, p->part, NULL, NULL);
    if (sbuf_status(&work, NULL) == OK) d = opendir(work.s);
    const struct dirent *entry;
    while (d != NULL && (entry = readdir(d)) != NULL) {
        struct file_lock *lock = NULL;
        bool held = false, unsupported = false;
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, p->attempt) == 0) continue;
        sbuf_clear(&path);
        sbuf_printf(&path, "%s/%s/alive", work.s, entry->d_name);
        if (sbuf_status(&path, NULL) != OK) break;
        if (file_lock_try(&lock, path.s, &held, &unsupported, NULL) != OK) continue;
        if (unsupported) break; // nobody can be known to be dead
        path.n -= strlen("/alive");
        path.s[path.n] = '\0';
        if (!held) forget_tree(path.s);
        file_unlock(lock);
    }
    if (d != NULL) closedir(d);
    sbuf_fini(&work);
    sbuf_fini(&path);
}

/* ---- adding ---- */

static bool is_open(const struct ledger_segment *g) {
    return g->buf.n > g->n_done || g->content_bytes > g->done.content_bytes;
}

static void close_open(struct ledger_segment *g) {
    g->done.file_bytes = file_append_bytes(g->file);
    g->done.content_bytes = g->content_bytes;
    hash_text(g->hash, g->done.hash);
    g->n_done = g->buf.n;
}

// The first n buffered bytes become a frame of the file. After an error they are still buffered.
static enum status append(struct ledger_segment *g, size_t n, struct err *e) {
    enum status st = OK;
    TRY(lz4f_append(g->file, g->buf.s, n, e));
    g->unsynced = true;
    hash_add(g->hash, g->buf.s, n);
    g->content_bytes += (int64_t)n;
    memmove(g->buf.s, g->buf.s + n, g->buf.n - n);
    g->buf.n -= n;
done:
    return st;
}

// Finished lines and those of the document in progress never share a frame: each may count alone.
static enum status flush(struct ledger_segment *g, bool with_open, struct err *e) {
    enum status st = OK;
    if (g->n_done > 0) {
        TRY(append(g, g->n_done, e));
        close_open(g);
        g->n_done = 0;
    }
    if (with_open && g->buf.n > 0) TRY(append(g, g->buf.n, e));
done:
    return st;
}

static enum status broken(struct ledger_part *p, struct err *e) {
    return err_fail(e, E_IO, "%s: a sync of it failed before", ledger_own_path(p, NULL));
}

static enum status add(struct ledger_part *p, struct ledger_segment *g, const char *lines, size_t n,
                       bool finished, struct err *e) {
    enum status st = OK;
    if (p->broken) return broken(p, e);
    sbuf_add(&g->buf, lines, n);
    TRY(sbuf_status(&g->buf, e));
    if (finished) g->n_done = g->buf.n;
    if (g->buf.n >= SPILL_BYTES) TRY(flush(g, true, e));
done:
    return st;
}

enum status ledger_add(struct ledger_part *p, enum ledger_stream s, const char *lines, size_t n,
                       struct err *e) {
    if (s == LEDGER_TOKENS && is_open(&p->segs[s])) {
        return err_fail(e, E_BUG, "token lines of two documents at once");
    }
    return add(p, &p->segs[s], lines, n, true, e);
}

enum status ledger_add_open(struct ledger_part *p, const char *lines, size_t n, struct err *e) {
    struct ledger_segment *g = &p->segs[LEDGER_TOKENS];
    const enum status st = add(p, g, lines, n, false, e);
    const int64_t now = clock_ns();
    if (st != OK || now - g->flushed_ns < SHOW_NS) return st;
    g->flushed_ns = now;
    return flush(g, true, e);
}

enum status ledger_spool(struct ledger_part *p, const char *bytes, size_t n, int64_t *at,
                         struct err *e) {
    enum status st = OK;
    if (p->broken) return broken(p, e);
    TRY(open_spool(p, e));
    *at = file_append_bytes(p->spool);
    TRY(file_append_write(p->spool, bytes, n, e));
    p->spool_unsynced = true;
done:
    return st;
}

enum status ledger_unspool(struct ledger_part *p, int64_t at, size_t n, struct sbuf *out,
                           struct err *e) {
    enum status st = OK;
    TRY(open_spool(p, e));
    TRY(file_read_piece(file_append_borrow_path(p->spool), at, n, out, e));
done:
    return st;
}

void ledger_close_document(struct ledger_part *p) {
    struct ledger_segment *g = &p->segs[LEDGER_TOKENS];
    if (is_open(g)) close_open(g);
}

enum status ledger_drop_document(struct ledger_part *p, struct err *e) {
    enum status st = OK;
    struct ledger_segment *g = &p->segs[LEDGER_TOKENS];
    if (p->broken) return broken(p, e);
    if (g->content_bytes > g->done.content_bytes) {
        // A commit that counts these lines knows their hash: once they are gone, or others are in
        // their place, it is taken for what it says about finished documents only.
        TRY(file_append_truncate(g->file, g->done.file_bytes, e));
        g->unsynced = true;
        g->content_bytes = g->done.content_bytes;
        TRY(ledger_check_segment(ledger_own_path(p, ledger_stream_names[LEDGER_TOKENS]), &g->done,
                                 true, g->hash, e));
    }
    g->buf.n = g->n_done;
    if (g->committed_bytes > g->content_bytes) g->committed_bytes = g->content_bytes;
done:
    if (st != OK) p->broken = true; // file, length and hash may not belong together any more
    return st;
}

int64_t ledger_uncommitted(const struct ledger_part *p) {
    int64_t n = 0;
    for (int s = 0; s < LEDGER_STREAMS; s++) {
        const struct ledger_segment *g = &p->segs[s];
        const int64_t k = g->done.content_bytes + (int64_t)g->n_done - g->committed_bytes;
        if (k > 0) n += k;
    }
    return n;
}

/* ---- committing ---- */

static enum status save_state(struct ledger_part *p, struct ledger_point *pt, const char *state,
                              size_t n, struct err *e) {
    enum status st = OK;
    const struct ledger_segment *g = &p->segs[LEDGER_TOKENS];
    pt->slot = p->next_slot;
    pt->open.file_bytes = file_append_bytes(g->file);
    pt->open.content_bytes = g->content_bytes;
    hash_text(g->hash, pt->open.hash);
    if (p->spool != NULL) pt->spool_bytes = file_append_bytes(p->spool);
    const char *path = ledger_own_path(p, ledger_state_names[pt->slot]);
    if (n != LEDGER_STATE_PUT) {
        ledger_state_close(&p->state); // pieces that no commit took
        TRY(ledger_state_open(&p->state, path, e));
        TRY(ledger_state_add(&p->state, path, state, n, e));
    } else if (!p->state.open) {
        FAIL(e, E_BUG, "a commit without the state it says it has");
    }
    TRY(ledger_state_end(&p->state, path, pt->state_hash, e));
    TRY(file_sync_dir(ledger_own_path(p, NULL), e));
done:
    return st;
}

enum status ledger_put_state(struct ledger_part *p, const char *bytes, size_t n, struct err *e) {
    enum status st = OK;
    const char *path = ledger_own_path(p, ledger_state_names[p->next_slot]);
    if (bytes == NULL) {
        ledger_state_close(&p->state);
        (void)unlink(path); // no commit names it
        goto done;
    }
    if (!p->state.open) TRY(ledger_state_open(&p->state, path, e));
    TRY(ledger_state_add(&p->state, path, bytes, n, e));
done:
    return st;
}

static enum status sync_or_break(struct ledger_part *p, struct file_append *file, struct err *e) {
    const enum status st = file_append_sync(file, e);
    // The kernel may have dropped the pages and would report success the next time.
    if (st != OK) p->broken = true;
    return st;
}

enum status ledger_commit(struct ledger_part *p, const struct ledger_mark *m, const char *state,
                          size_t n_state, struct err *e) {
    enum status st = OK;
    struct ledger_point pt = {.mark = *m, .slot = -1};
    struct sbuf line;
    sbuf_init(&line);
    if (p->broken) return broken(p, e);
    memcpy(pt.retry_of, p->retry_of, sizeof pt.retry_of);
    pt.time_ns = clock_unix_ns();
    for (int s = 0; s < LEDGER_STREAMS; s++) {
        struct ledger_segment *g = &p->segs[s];
        TRY(flush(g, n_state > 0, e));
        if (g->unsynced) TRY(sync_or_break(p, g->file, e));
        g->unsynced = false;
        pt.done[s] = g->done;
    }
    if (n_state > 0 && p->spool_unsynced) TRY(sync_or_break(p, p->spool, e));
    if (n_state > 0) p->spool_unsynced = false;
    if (n_state > 0) TRY(save_state(p, &pt, state, n_state, e));
    ledger_print_point(&pt, &line);
    TRY(sbuf_status(&line, e));
    p->committed = true;
    TRY(file_append_write(p->commits, line.s, line.n, e));
    TRY(sync_or_break(p, p->commits, e));
    if (pt.slot >= 0) p->next_slot = 1 - pt.slot;
    for (int s = 0; s < LEDGER_STREAMS; s++) {
        p->segs[s].committed_bytes = p->segs[s].done.content_bytes;
    }
    if (n_state > 0) p->segs[LEDGER_TOKENS].committed_bytes = pt.open.content_bytes;
done:
    sbuf_fini(&line);
    return st;
}
