/* Commits of a part whose documents are in several hands, and their states:
 *
 *   magic "BASINDL1"
 *   int64 n, then n sections: struct section, its chunks (struct part_chunk), token lines that wait, and
 *   the rows of a finished document or the middle of another (score_state.c)
 *
 * Host byte order: a state is read by the build that wrote it, and its bytes are covered by the ledger's
 * checksum. Token lines of the first document have left already: a commit with a state counts them. */
#include "jobs/deal_impl.h"

#include "base/mem.h"

#include <string.h>

static const char magic[8] = {'B', 'A', 'S', 'I', 'N', 'D', 'L', '1'};

enum { SECTIONS_MOST = 1 << 24 };

struct section {
    int64_t index, done, failed, slice, offset, rows, n_tok;
    int64_t n_chunk, n_tokens, n_body;
    char kind[8];
};

/* ---- commits ---- */

static void put_section(const struct deal_doc *t, const struct sbuf *body, size_t n_chunk,
                        const struct sbuf *tokens, struct sbuf *out) {
    struct section s = {.index = t->index,
                        .done = t->state == DEAL_DONE,
                        .failed = t->failed,
                        .slice = t->slice,
                        .offset = t->offset,
                        .rows = t->rows,
                        .n_tok = t->n_tok,
                        .n_chunk = (int64_t)n_chunk,
                        .n_tokens = tokens != NULL ? (int64_t)tokens->n : 0,
                        .n_body = (int64_t)body->n};
    memcpy(s.kind, t->kind, sizeof s.kind);
    sbuf_add(out, &s, sizeof s);
    if (n_chunk > 0) sbuf_add(out, t->chunks, n_chunk * sizeof *t->chunks);
    if (s.n_tokens > 0) sbuf_add(out, tokens->s, tokens->n);
    sbuf_add(out, body->s, body->n);
}

// Document i of p, as far as it can be kept: rows that wait, or a middle that is no older than its lines.
static bool is_kept(const struct deal_part *p, size_t i) {
    const struct deal_doc *t = p->docs[i];
    if (!t->located) return false;
    if (t->state == DEAL_DONE) return true;
    return t->saved.n > 0 && (i > 0 || t->state == DEAL_FREE);
}

static enum status put_state(const struct deal_part *p, const struct deal_hand *h, bool *kept,
                             struct sbuf *out, struct err *e) {
    enum status st = OK;
    struct sbuf middle;
    int64_t n = 0;
    sbuf_init(&middle);
    *kept = false;
    sbuf_add(out, magic, sizeof magic);
    sbuf_add(out, &n, sizeof n);
    for (size_t i = 0; i < p->n_doc; i++) {
        struct deal_doc *t = p->docs[i];
        if (h != NULL && i == 0 && t == h->middle) {
            TRY(h->save(h->ctx, &middle, e));
            put_section(t, &middle, 0, NULL, out);
            n++;
        } else if (is_kept(p, i)) {
            const bool done = t->state == DEAL_DONE;
            put_section(t, done ? &t->lines : &t->saved, done ? t->n_chunk : t->n_saved_chunk,
                        done ? &t->tokens : NULL, out);
            *kept |= i > 0;
            n++;
        }
    }
    TRY(sbuf_status(out, e));
    memcpy(out->s + sizeof magic, &n, sizeof n);
    if (n == 0) sbuf_clear(out);
done:
    sbuf_fini(&middle);
    return st;
}

enum status deal_commit(struct deal_part *p, const struct deal_hand *h, bool with_state,
                        struct err *e) {
    enum status st = OK;
    struct part_job *j = p->job;
    struct sbuf state;
    bool kept = false;
    sbuf_init(&state);
    if (p->n_doc == 0 ? p->end < 0 : !p->docs[0]->located) goto done;
    j->mark.slice = p->n_doc > 0 ? p->docs[0]->slice : j->part->n_slice;
    j->mark.offset = p->n_doc > 0 ? p->docs[0]->offset : 0;
    if (with_state) TRY(put_state(p, h, &kept, &state, e));
    TRY(j->out.commit(j->out.ctx, &j->mark, state.s, state.n, e));
    p->kept = kept;
    const bool none = p->n_doc == 0 || !p->docs[0]->begun;
    part_committed(&p->clock, &j->mark, with_state || none);
done:
    sbuf_fini(&state);
    return st;
}

enum status deal_commit_if_due(struct deal *d, struct deal_part *p, const struct deal_hand *h,
                               struct err *e) {
    bool with_state = false, beyond = false, saved = false;
    const struct deal_doc *first = p->n_doc > 0 ? p->docs[0] : NULL;
    for (size_t i = 0; i < p->n_doc; i++) {
        beyond |= is_kept(p, i);
        saved |= i > 0 && p->docs[i]->state != DEAL_DONE && is_kept(p, i);
    }
    // The first document's lines have left: only its owner can say what they belong to.
    const bool elsewhere =
        first != NULL && first->state == DEAL_TAKEN && first->begun && first != h->middle;
    const bool middle = !elsewhere && (beyond || (first != NULL && first == h->middle));
    if (!part_commit_due(&p->clock, &d->due, &p->job->out, &p->job->mark, middle, &with_state)) {
        return OK;
    }
    // A commit without a state would give up what the last one keeps.
    if (!with_state && (saved || p->kept)) return OK;
    return deal_commit(p, h, with_state, e);
}

/* ---- taking up ---- */

struct cursor {
    const char *p, *end;
};

static const char *take(struct cursor *c, int64_t n) {
    if (n < 0 || n > c->end - c->p) return NULL;
    c->p += n;
    return c->p - n;
}

static enum status take_chunks(struct deal_doc *t, const struct section *s, struct cursor *c,
                               struct err *e) {
    enum status st = OK;
    struct sbuf piece;
    sbuf_init(&piece);
    if (s->n_chunk < 0 || s->n_chunk > SECTIONS_MOST)
        FAIL(e, E_FORMAT, "its lengths make no sense");
    const char *bytes = take(c, s->n_chunk * (int64_t)sizeof *t->chunks);
    if (bytes == NULL) FAIL(e, E_FORMAT, "it is cut short");
    if (s->n_chunk == 0) goto done;
    TRY(mem_grow(&t->chunks, &t->cap_chunk, (size_t)s->n_chunk, sizeof *t->chunks, e));
    memcpy(t->chunks, bytes, (size_t)s->n_chunk * sizeof *t->chunks);
    for (int64_t i = 0; i < s->n_chunk; i++) {
        struct err why = {.code = OK};
        sbuf_clear(&piece);
        if (t->chunks[i].n < 0 || t->chunks[i].n > INT32_MAX ||
            part_chunk_get(&t->part->job->out, &t->chunks[i], &piece, &why) != OK) {
            FAIL(e, why.code == E_NOMEM ? E_NOMEM : E_FORMAT, "its token rows are not all there");
        }
    }
    t->n_chunk = t->n_saved_chunk = (size_t)s->n_chunk;
done:
    sbuf_fini(&piece);
    return st;
}

static enum status take_section(struct deal *d, struct deal_part *p, struct cursor *c,
                                struct err *e) {
    enum status st = OK;
    struct section s;
    const char *head = take(c, sizeof s);
    if (head == NULL) FAIL(e, E_FORMAT, "it is cut short");
    memcpy(&s, head, sizeof s);
    const int64_t at = s.index - p->job->mark.documents;
    if (at < (int64_t)p->n_doc || at > SECTIONS_MOST || s.slice < 0 ||
        s.slice >= p->job->part->n_slice) {
        FAIL(e, E_FORMAT, "its places make no sense");
    }
    struct deal_doc *t = NULL;
    while ((int64_t)p->n_doc <= at) {
        t = deal_new_doc(d, p, e);
        if (t == NULL) FAIL(e, E_NOMEM, "out of memory");
    }
    TRY(take_chunks(t, &s, c, e));
    const char *tokens = take(c, s.n_tokens), *body = take(c, s.n_body);
    if (tokens == NULL || body == NULL) FAIL(e, E_FORMAT, "it is cut short");
    sbuf_add(&t->tokens, tokens, (size_t)s.n_tokens);
    sbuf_add(s.done ? &t->lines : &t->saved, body, (size_t)s.n_body);
    d->held_bytes += t->tokens.n + t->lines.n;
    t->located = true;
    t->slice = (int)s.slice;
    t->offset = s.offset;
    t->failed = s.failed != 0;
    t->rows = s.rows;
    t->n_tok = s.n_tok;
    memcpy(t->kind, s.kind, sizeof t->kind);
    t->kind[sizeof t->kind - 1] = '\0';
    if (s.done) {
        t->state = DEAL_DONE;
        p->n_free--;
    }
    TRY(sbuf_status(&t->tokens, e));
    TRY(sbuf_status(s.done ? &t->lines : &t->saved, e));
done:
    return st;
}

enum status deal_load(struct deal *d, struct deal_part *p, struct err *e) {
    enum status st = OK;
    struct cursor c = {p->job->state.s, p->job->state.s + p->job->state.n};
    int64_t n = 0;
    const char *head = take(&c, sizeof magic), *count = take(&c, sizeof n);
    if (head == NULL || count == NULL || memcmp(head, magic, sizeof magic) != 0) {
        FAIL(e, E_FORMAT, "it is another version's");
    }
    memcpy(&n, count, sizeof n);
    if (n < 1 || n > SECTIONS_MOST) FAIL(e, E_FORMAT, "its lengths make no sense");
    for (int64_t i = 0; i < n; i++) TRY(take_section(d, p, &c, e));
    if (c.p != c.end) FAIL(e, E_FORMAT, "there is more than it says");
    TRY(deal_advance(d, p, e));
done:
    if (st != OK) {
        for (size_t i = 0; i < p->n_doc; i++) {
            d->held_bytes -= p->docs[i]->tokens.n + p->docs[i]->lines.n;
            deal_free_doc(p->docs[i]);
        }
        p->n_doc = p->n_free = 0;
    }
    return st;
}
