/* Checkpoints of a document's middle.
 *
 *   int64 n_head, head      text: what the state belongs to, a "name value" line each
 *   int64 n_done, n_entries
 *   int32 block_ids[n_entries % DOC_BLOCK]
 *   per setting: num_sum, int64 n_scored, f64 logp[n_entries % DOC_BLOCK], the cache (core/cache.h)
 *
 * Host byte order: a state is read by the build that wrote it (the head says which) on the same
 * kind of device, and its bytes are covered by the ledger's checksum. */
#include "jobs/score_impl.h"

#include <stdio.h>
#include <string.h>

static void print_head(const struct scorer *s, const struct doc *d, struct sbuf *out) {
    const struct part_config *c = &s->cfg;
    sbuf_printf(out, "version %s\n", BASIN_VERSION);
    sbuf_printf(out, "device %s\n", c->labels.device);
    sbuf_printf(out, "dtype %s\n", c->labels.dtype);
    sbuf_printf(out, "model %s\n", c->model_identity);
    sbuf_printf(out, "tokenizer %s\n", c->tok != NULL ? tok_identity(c->tok) : "none");
    sbuf_printf(out, "bos %d\n", d->bos);
    sbuf_printf(out, "limit %lld\n", (long long)c->man->score.limit_tokens);
    for (int i = 0; i < s->n_setting; i++) {
        const struct vis_rule *r = &s->rules[i];
        sbuf_printf(out, "setting %d %lld %lld %lld %lld %d\n", r->dense, (long long)r->n_sink,
                    (long long)r->n_win, (long long)r->n_prefill, (long long)r->n_chunk, r->strict);
    }
    sbuf_printf(out, "document %lld %s\n", (long long)d->offset, d->source);
}

enum status score_save(struct scorer *s, const struct doc *d, struct sbuf *out, struct err *e) {
    enum status st = OK;
    struct sbuf head;
    sbuf_init(&head);
    print_head(s, d, &head);
    TRY(sbuf_status(&head, e));
    const int64_t n_head = (int64_t)head.n;
    const size_t n_block = (size_t)(d->n_entries % DOC_BLOCK);
    sbuf_add(out, &n_head, sizeof n_head);
    sbuf_add(out, head.s, head.n);
    sbuf_add(out, &d->n_done, sizeof d->n_done);
    sbuf_add(out, &d->n_entries, sizeof d->n_entries);
    sbuf_add(out, d->block_ids, n_block * sizeof d->block_ids[0]);
    for (int i = 0; i < s->n_setting; i++) {
        const struct doc_track *t = &d->tracks[i];
        sbuf_add(out, &t->sum, sizeof t->sum);
        sbuf_add(out, &t->n_scored, sizeof t->n_scored);
        sbuf_add(out, t->logp, n_block * sizeof t->logp[0]);
        TRY(cache_save(t->cache, out, e));
    }
    TRY(sbuf_status(out, e));
done:
    sbuf_fini(&head);
    return st;
}

struct cursor {
    const char *p, *end;
};

static enum status take(struct cursor *c, void *dst, size_t n, struct err *e) {
    if ((size_t)(c->end - c->p) < n) return err_fail(e, E_FORMAT, "it is cut short");
    memcpy(dst, c->p, n);
    c->p += n;
    return OK;
}

/* Reads the document's ids again up to position n_done; the reader's queue then begins there. The
 * ids of the block in progress must be the ones the state was saved with. */
static enum status skip_scored(struct scorer *s, struct doc *d, int64_t n_done,
                               const int32_t *block, size_t n_block, struct err *e) {
    enum status st = OK;
    for (int64_t pos = 0; pos <= n_done;) {
        TRY(doc_reader_fill(&s->reader, 2, e));
        const size_t have = s->reader.n_queue;
        if (have == 0 || d->failure.code != OK)
            FAIL(e, E_FORMAT, "the document has become shorter");
        for (size_t i = 0; i < have && pos + (int64_t)i <= n_done; i++) {
            d->block_ids[(pos + (int64_t)i) % DOC_BLOCK] = s->reader.queue[i];
        }
        if (pos + (int64_t)have > n_done) { // the id at n_done stays: it is the next to be fed
            doc_reader_advance(&s->reader, (size_t)(n_done - pos));
            break;
        }
        pos += (int64_t)have;
        doc_reader_advance(&s->reader, have);
    }
    if (memcmp(block, d->block_ids, n_block * sizeof *block) != 0) {
        FAIL(e, E_FORMAT, "the document's text has changed");
    }
done:
    return st;
}

enum status score_restore(struct scorer *s, struct doc *d, const struct sbuf *state,
                          struct err *e) {
    enum status st = OK;
    struct cursor c = {state->s, state->s + state->n};
    struct sbuf head;
    int32_t block[DOC_BLOCK];
    int64_t n_head = 0, n_done = 0, n_entries = 0;
    sbuf_init(&head);
    if (d->failure.code != OK) FAIL(e, E_FORMAT, "the document cannot be read any more");
    TRY(doc_open_block(d, e));
    print_head(s, d, &head);
    TRY(sbuf_status(&head, e));
    TRY(take(&c, &n_head, sizeof n_head, e));
    if (n_head < 0 || n_head > c.end - c.p) FAIL(e, E_FORMAT, "it is cut short");
    TRY(part_compare_heads(c.p, (size_t)n_head, &head, e));
    c.p += n_head;
    TRY(take(&c, &n_done, sizeof n_done, e));
    TRY(take(&c, &n_entries, sizeof n_entries, e));
    if (n_done < 1 || n_entries != n_done + 1) FAIL(e, E_FORMAT, "its position makes no sense");
    const size_t n_block = (size_t)(n_entries % DOC_BLOCK);
    TRY(take(&c, block, n_block * sizeof block[0], e));
    for (int i = 0; i < s->n_setting; i++) {
        struct doc_track *t = &d->tracks[i];
        size_t used = 0;
        TRY(take(&c, &t->sum, sizeof t->sum, e));
        TRY(take(&c, &t->n_scored, sizeof t->n_scored, e));
        TRY(take(&c, t->logp, n_block * sizeof t->logp[0], e));
        TRY(cache_restore(t->cache, c.p, (size_t)(c.end - c.p), &used, e));
        c.p += used;
        if (cache_pos(t->cache) != n_done) FAIL(e, E_FORMAT, "its caches are at another position");
    }
    TRY(skip_scored(s, d, n_done, block, n_block, e));
    d->n_fed = d->n_done = n_done;
    d->n_entries = n_entries;
    const struct deal_count taken = {.tokens = n_done * s->n_setting, .resumed = true};
    deal_count(s->deal, d->turn, &taken);
done:
    sbuf_fini(&head);
    return st;
}
