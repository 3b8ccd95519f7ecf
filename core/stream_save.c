/* A stream as bytes, and how much memory an engine takes.
 *
 * Saved: struct saved; its n_feed ids not fed yet; n_cand ids, raw and changed log-probabilities; n_next
 * ids and log-probabilities; the past; the cache. */
#include "core/stream_impl.h"

#include "base/mem.h"

#include <string.h>

struct saved {
    int64_t n_feed, generated, n_cand, n_next;
    int32_t last;
    uint8_t unfed, ended, zero[2];
};

enum status stream_save(struct stream *st, int slot, struct sbuf *out, struct err *e) {
    enum status status = OK;
    struct cache *c = NULL;
    CHECK(!st->broken && slot >= 0 && slot < st->cfg.n_stream);
    const struct stream_slot *s = &st->slots[slot];
    CHECK(s->state != SLOT_FREE);
    const struct saved head = {.n_feed = s->n_feed - s->feed_at,
                               .generated = s->generated,
                               .n_cand = s->n_cand,
                               .n_next = s->n_next,
                               .last = s->last,
                               .unfed = s->unfed,
                               .ended = s->state == SLOT_ENDED};
    sbuf_add(out, &head, sizeof head);
    if (head.n_feed > 0) sbuf_add(out, s->feed + s->feed_at, (size_t)head.n_feed * sizeof *s->feed);
    sbuf_add(out, s->cand, (size_t)head.n_cand * sizeof *s->cand);
    sbuf_add(out, s->cand_logp, (size_t)head.n_cand * sizeof *s->cand_logp);
    sbuf_add(out, s->cand_log_p, (size_t)head.n_cand * sizeof *s->cand_log_p);
    sbuf_add(out, s->next_id, (size_t)head.n_next * sizeof *s->next_id);
    sbuf_add(out, s->next_logp, (size_t)head.n_next * sizeof *s->next_logp);
    status = stream_past_save(s->past, out, e);
    if (status == OK) status = cache_open(&c, st->mo, &s->rule, e);
    if (status == OK) status = stream_slot_store(st, s, c, e);
    if (status == OK) status = cache_save(c, out, e);
    cache_close(c);
    return status;
}

/* ---- reading back ---- */

struct bytes {
    const char *p, *end;
};

static bool take(struct bytes *b, void *dst, size_t n, size_t size) {
    size_t all = 0;
    if (!mem_mul(n, size, &all) || (size_t)(b->end - b->p) < all) return false;
    if (all > 0) memcpy(dst, b->p, all);
    b->p += all;
    return true;
}

static bool all_ids(const struct stream *st, const int32_t *ids, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= model_arch(st->mo->model)->n_vocab) return false;
    return true;
}

static enum status bad(const char *what, struct err *e) {
    return err_fail(e, E_FORMAT, "saved stream: %s", what);
}

// All but the past and the cache.
static enum status take_slot(struct stream *st, struct stream_slot *s, const struct stream_how *how,
                             struct bytes *b, bool *ended, struct err *e) {
    struct saved head;
    if (!take(b, &head, sizeof head, 1)) return bad("cut short", e);
    const int64_t most = stream_contrastive(how) ? how->samp.top_k : 0;
    if (head.n_feed < 0 || (uint64_t)head.n_feed > (uint64_t)(b->end - b->p) / sizeof *s->feed ||
        head.generated < 0 || head.generated > INT64_MAX / 2 || head.n_cand < 0 ||
        head.n_cand > most || head.n_next < 0 || head.n_next > how->n_logprob || head.unfed > 1 ||
        head.ended > 1)
        return bad("bad counters", e);
    const enum status status =
        mem_grow(&s->feed, &s->feed_cap, (size_t)head.n_feed, sizeof *s->feed, e);
    if (status != OK) return status;
    const size_t n_cand = (size_t)head.n_cand, n_next = (size_t)head.n_next;
    if (!take(b, s->feed, (size_t)head.n_feed, sizeof *s->feed) ||
        !take(b, s->cand, n_cand, sizeof *s->cand) ||
        !take(b, s->cand_logp, n_cand, sizeof *s->cand_logp) ||
        !take(b, s->cand_log_p, n_cand, sizeof *s->cand_log_p) ||
        !take(b, s->next_id, n_next, sizeof *s->next_id) ||
        !take(b, s->next_logp, n_next, sizeof *s->next_logp))
        return bad("cut short", e);
    if (!all_ids(st, s->feed, head.n_feed) || !all_ids(st, s->cand, head.n_cand) ||
        !all_ids(st, s->next_id, head.n_next) || !all_ids(st, &head.last, 1))
        return bad("an id is outside the vocabulary", e);
    // A stream that goes on has something to feed.
    if (!head.ended && head.n_feed == 0 && head.n_cand == 0 && !head.unfed)
        return bad("nothing to go on with", e);
    s->n_feed = head.n_feed;
    s->feed_at = 0;
    s->generated = head.generated;
    s->n_cand = (int)head.n_cand;
    s->n_next = (int)head.n_next;
    s->last = head.last;
    s->unfed = head.unfed;
    *ended = head.ended;
    return OK;
}

// Candidates are compared with what came before.
static enum status check_past(const struct stream_slot *s, const struct stream_past *p,
                              struct err *e) {
    if (s->n_cand > 0 && p->n_hidden == 0) return bad("no hidden states", e);
    return OK;
}

enum status stream_restore(struct stream *engine, struct stream_saved *in, int *slot,
                           struct err *e) {
    enum status st = OK;
    struct stream_past *past = NULL;
    struct cache *c = NULL;
    struct bytes b = {in->bytes, in->bytes + in->n};
    size_t used = 0;
    bool ended = false;
    CHECK(!engine->broken);
    struct stream_slot *s = stream_slot_free(engine, slot);
    TRY(stream_slot_check(engine, in->how, e));
    TRY(take_slot(engine, s, in->how, &b, &ended, e));
    TRY(stream_past_open(&past, engine->mo, in->how, e));
    TRY(stream_past_restore(past, b.p, (size_t)(b.end - b.p), &used, e));
    b.p += used;
    TRY(check_past(s, past, e));
    TRY(cache_open(&c, engine->mo, in->rule, e));
    TRY(cache_restore(c, b.p, (size_t)(b.end - b.p), &used, e));
    b.p += used;
    TRY(stream_slot_load(engine, s, c, e));
    s->how = in->how;
    s->past = past;
    past = NULL;
    s->err = (struct err){0};
    s->has_event = false;
    s->state = ended ? SLOT_ENDED : SLOT_LIVE;
    in->used = (size_t)(b.p - in->bytes);
done:
    stream_past_close(past);
    cache_close(c);
    return st;
}

/* ---- memory ---- */

int64_t stream_bytes(const struct stream_config *c, const struct stream_size *s) {
    const struct arch *a = s->arch;
    const int64_t n = c->n_stream, n_row = n * (c->n_candidate > 1 ? c->n_candidate : 1);
    const int64_t key = 2 * a->n_kv * a->d_head * (int64_t)s->kv_bytes;
    int64_t sum = span_bytes(a, n_row, 0, s->kv_bytes) + n_row * a->n_vocab * 4;
    for (int64_t l = 0; l < a->n_layer; l++) {
        const struct vis_class *cls = &s->classes[s->class_of_layer[l]];
        int64_t rows = stream_kv_steady(s->rule, cls);
        const int64_t held = vis_cache_sinks(s->rule, cls) + vis_cache_most(s->rule, cls, s->n_tok);
        if (held > rows)
            rows = held + held / 4; // a dense prefill, or a stretch that has just grown
        if (c->n_key_most > 0 && rows > c->n_key_most && held > 0 && s->rule->dense)
            rows = c->n_key_most;
        sum += (n * rows + n * c->n_candidate) * key;
    }
    return sum + n * s->window * a->d_model * 4;
}

int64_t stream_weights_bytes(const struct model *m, size_t word) {
    const struct arch *a = model_arch(m);
    const int64_t params = a->n_layer * span_layer_params(a) + a->n_vocab * a->d_model;
    const bool as_stored = dtype_block(model_stored_dtype(m)) > 1;
    const int64_t kept = as_stored ? model_file_bytes(m) / 32 * 33 : params * (int64_t)word;
    return span_weights_bytes(m, word) + kept;
}
