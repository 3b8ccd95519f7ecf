/* From segments to published files.
 *
 * All files are first written and synced inside the attempt's own directory, where they disturb
 * nobody, and then given their names in this order:
 *
 *   1. of a part that is done anew: _SUCCESS and the old results are removed
 *   2. tokens
 *   3. errors, or their removal when there are none
 *   4. done/ record
 *   5. results
 *
 * "Results are there" is what says that a part is done, and at every moment it implies that tokens,
 * errors and record of the same publication are there too: a kill between 1 and 5 leaves a part
 * that is not done and an attempt whose last commit holds everything, so that the next run does no
 * more than publish again. Were results named before errors, a kill could leave failures that
 * nobody sees; were the old results kept while errors are replaced, a document could be missing
 * from both. What is left from a kill before 5 (a tokens file without results, an errors file that
 * the next attempt no longer has) is replaced or removed by whoever comes to 5.
 *
 * Two attempts that publish the same part at once write the same bytes, in whichever order the
 * names are given. */
#include "jobs/ledger_impl.h"

#include "base/mem.h"
#include "io/lz4f.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { PIECE_BYTES = 1 << 18 };

/* ---- the files, under temporary names ---- */

// Where the content of a segment goes: a frame, or plain text.
struct target {
    struct lz4f_writer *frame; /* owned */
    struct file_append *plain; /* owned */
};

static enum status target_open(struct target *t, enum ledger_stream s, const char *path,
                               int64_t bytes, struct err *e) {
    memset(t, 0, sizeof *t);
    if (unlink(path) != 0 && errno != ENOENT) { // of an earlier try
        return err_errno(e, E_OUTPUT, errno, "%s: cannot remove", path);
    }
    if (s == LEDGER_ERRORS) return file_append_open(&t->plain, path, e);
    return lz4f_create(&t->frame, path, bytes, e);
}

static enum status target_write(struct target *t, const char *bytes, size_t n, struct err *e) {
    return t->plain != NULL ? file_append_write(t->plain, bytes, n, e)
                            : lz4f_write(t->frame, bytes, n, e);
}

static enum status target_finish(struct target *t, struct err *e) {
    return t->plain != NULL ? file_append_sync(t->plain, e) : lz4f_finish(t->frame, e);
}

static void target_close(struct target *t) {
    file_append_close(t->plain);
    lz4f_writer_close(t->frame);
    memset(t, 0, sizeof *t);
}

// Reads back what was committed, which must be what was written.
static enum status transfer(const struct ledger_segment *g, struct target *t, struct ledger_file *f,
                            struct err *e) {
    enum status st = OK;
    struct lz4f_reader *r = NULL;
    struct hash *h = NULL;
    char *piece = NULL, text[HASH_TEXT];
    const char *path = file_append_borrow_path(g->file);
    TRY(hash_open(&h, e));
    TRY(mem_zalloc(&piece, PIECE_BYTES, 1, e));
    TRY(lz4f_open(&r, path, LZ4F_WHOLE, e));
    for (;;) {
        size_t n = 0;
        TRY(lz4f_read(r, piece, PIECE_BYTES, &n, e));
        if (n == 0) break;
        f->content_bytes += (int64_t)n;
        for (size_t i = 0; i < n; i++) f->lines += piece[i] == '\n';
        hash_add(h, piece, n);
        TRY(target_write(t, piece, n, e));
    }
    hash_text(h, text);
    if (strcmp(text, g->done.hash) != 0) {
        FAIL(e, E_FORMAT, "%s: its content is not what was written", path);
    }
done:
    lz4f_close(r);
    hash_close(h);
    mem_free(piece);
    return st;
}

static const char *const temp_names[LEDGER_STREAMS] = {"publish-results", "publish-tokens",
                                                       "publish-errors"};

static enum status write_file(struct ledger_part *p, enum ledger_stream s, struct ledger_file *f,
                              struct err *e) {
    enum status st = OK;
    struct target t = {NULL, NULL};
    const struct ledger_segment *g = &p->segs[s];
    memset(f, 0, sizeof *f);
    if (s == LEDGER_TOKENS && !p->l->tokens) goto done;
    if (s == LEDGER_ERRORS && g->done.content_bytes == 0) goto done;
    const char *path = ledger_own_path(p, temp_names[s]);
    TRY(target_open(&t, s, path, g->done.content_bytes, e));
    TRY(transfer(g, &t, f, e));
    TRY(target_finish(&t, e));
    TRY(ledger_hash_file(path, f->hash, &f->bytes, e));
    f->there = true;
done:
    target_close(&t);
    return st;
}

/* ---- their names ---- */

static enum status put_published(struct ledger_part *p, enum ledger_stream s, struct sbuf *path,
                                 struct err *e) {
    sbuf_clear(path);
    ledger_put_published(path, p->l->dir, s, p->part, p->l->n_part);
    return sbuf_status(path, e);
}

static enum status remove_name(const char *path, struct err *e) {
    if (unlink(path) == 0 || errno == ENOENT) return OK;
    return err_errno(e, E_IO, errno, "%s: cannot remove", path);
}

// Step 1.
static enum status withdraw(struct ledger_part *p, struct sbuf *path, struct err *e) {
    enum status st = OK;
    sbuf_clear(path);
    sbuf_printf(path, "%s/_SUCCESS", p->l->dir);
    TRY(sbuf_status(path, e));
    TRY(remove_name(path->s, e));
    TRY(put_published(p, LEDGER_RESULTS, path, e));
    TRY(remove_name(path->s, e));
    TRY(file_sync_dir(p->l->dir, e));
done:
    return st;
}

static enum status name_file(struct ledger_part *p, enum ledger_stream s,
                             const struct ledger_file *f, struct sbuf *path, struct err *e) {
    enum status st = OK;
    TRY(put_published(p, s, path, e));
    if (!f->there) {
        TRY(remove_name(path->s, e)); // durable with the next name, which is of this directory too
    } else {
        TRY(file_publish(ledger_own_path(p, temp_names[s]), path->s, FILE_REPLACE, NULL, e));
    }
done:
    return st;
}

static enum status name_all(struct ledger_part *p, const struct ledger_done *d, struct err *e) {
    enum status st = OK;
    struct sbuf path, text;
    sbuf_init(&path);
    sbuf_init(&text);
    ledger_print_done(d, p->part, &text);
    TRY(sbuf_status(&text, e));
    const bool again = p->retry_of[0] != '\0' && ledger_is_published(p->l, p->part);
    if (again) TRY(withdraw(p, &path, e));
    TRY(name_file(p, LEDGER_TOKENS, &d->files[LEDGER_TOKENS], &path, e));
    TRY(name_file(p, LEDGER_ERRORS, &d->files[LEDGER_ERRORS], &path, e));
    sbuf_clear(&path);
    ledger_put_done(&path, p->l->dir, p->part);
    TRY(sbuf_status(&path, e));
    TRY(file_write_atomic(path.s, text.s, text.n, FILE_REPLACE, NULL, e));
    TRY(name_file(p, LEDGER_RESULTS, &d->files[LEDGER_RESULTS], &path, e));
done:
    sbuf_fini(&path);
    sbuf_fini(&text);
    return st;
}

enum status ledger_publish(struct ledger_part *p, const struct ledger_mark *m, struct err *e) {
    enum status st = OK;
    struct ledger_done d;
    memset(&d, 0, sizeof d);
    TRY(ledger_commit(p, m, NULL, 0, e));
    TRY(ledger_check_job(p->l, e));
    d.counts = (struct ledger_counts){m->documents, m->failed, m->rows, m->tokens};
    for (int s = 0; s < LEDGER_STREAMS; s++) {
        TRY(write_file(p, (enum ledger_stream)s, &d.files[s], e));
    }
    TRY(ledger_check_job(p->l, e));
    // Asked last: from here on only names change.
    if (!ledger_is_settled(p->l, p->part)) TRY(name_all(p, &d, e));
    p->published = true;
    ledger_remove_dead(p);
done:
    return st;
}
