#include "core/stream_impl.h"

#include "base/mem.h"

#include <string.h>

/* ---- opening ---- */

static enum status open_slots(struct stream *st, struct err *e) {
    enum status status = OK;
    const size_t n_cand = (size_t)st->cfg.n_candidate, n_top = (size_t)st->cfg.n_logprob;
    for (int i = 0; i < st->cfg.n_stream && status == OK; i++) {
        struct stream_slot *s = &st->slots[i];
        const struct {
            void *at;
            size_t n, size;
        } wanted[] = {{&s->cand, n_cand, sizeof *s->cand},
                      {&s->cand_logp, n_cand, sizeof *s->cand_logp},
                      {&s->cand_log_p, n_cand, sizeof *s->cand_log_p},
                      {&s->next_id, n_top, sizeof *s->next_id},
                      {&s->next_logp, n_top, sizeof *s->next_logp},
                      {&s->top_id, n_top, sizeof *s->top_id},
                      {&s->top_logp, n_top, sizeof *s->top_logp}};
        for (size_t k = 0; k < COUNTOF(wanted) && status == OK; k++)
            status = mem_zalloc(wanted[k].at, wanted[k].n, wanted[k].size, e);
    }
    return status;
}

static enum status open_sampling(struct stream *st, int64_t n_row, struct err *e) {
    enum status status = OK;
    const int64_t n = 2 * (int64_t)st->cfg.n_stream, n_top = n * st->n_top;
    const struct {
        struct buf **buf;
        enum buf_kind kind;
        int64_t n_row;
    } bufs[] = {{&st->b_rows, BUF_SAMPLE, n},       {&st->b_id, BUF_ID, n},
                {&st->b_logp, BUF_LOGP, n},         {&st->b_top_id, BUF_ID, n_top},
                {&st->b_top_logp, BUF_LOGP, n_top}, {&st->b_top_adjusted, BUF_LOGP, n_top},
                {&st->b_similar, BUF_LOGP, n_row}};
    const struct {
        void *at;
        int64_t n;
        size_t size;
    } host[] = {{&st->rows, n, sizeof *st->rows},
                {&st->row_slot, n, sizeof *st->row_slot},
                {&st->id, n, sizeof *st->id},
                {&st->logp, n, sizeof *st->logp},
                {&st->top_id, n_top, sizeof *st->top_id},
                {&st->top_logp, n_top, sizeof *st->top_logp},
                {&st->top_adjusted, n_top, sizeof *st->top_adjusted},
                {&st->similar, n_row, sizeof *st->similar}};
    for (size_t i = 0; i < COUNTOF(bufs) && status == OK; i++)
        status = buf_new(bufs[i].buf, st->mo->dev, bufs[i].kind, bufs[i].n_row, 1, e);
    for (size_t i = 0; i < COUNTOF(host) && status == OK; i++)
        status = mem_zalloc(host[i].at, (size_t)host[i].n, host[i].size, e);
    if (status == OK) status = samp_table_open(&st->table, model_arch(st->mo->model)->n_vocab, e);
    return status;
}

static void prepare(struct stream *st) {
    const struct model_on *mo = st->mo;
    for (int64_t l = 0; l < model_arch(mo->model)->n_layer; l++)
        dev_weights_prepare(mo->dev, model_layer(mo, l), ARCH_ROLE_COUNT);
    dev_weights_prepare(mo->dev, mo->top, ARCH_ROLE_COUNT);
    st->prepared = true;
}

static enum status check_config(const struct stream_config *c, struct err *e) {
    if (c->n_stream < 1 || c->n_stream > 1 << 16)
        return err_fail(e, E_ARG, "streams must be 1 to %d, is %d", 1 << 16, c->n_stream);
    if (c->n_candidate < 0 || c->n_candidate > SAMP_MOST_TOP || c->n_logprob < 0 ||
        c->n_logprob > SAMP_MOST_TOP || c->n_key_most < 0)
        return err_fail(e, E_ARG,
                        "a stream engine of %d candidates, %d log-probabilities, %lld keys",
                        c->n_candidate, c->n_logprob, (long long)c->n_key_most);
    return OK;
}

enum status stream_open(struct stream **out, const struct model_on *mo,
                        const struct stream_config *c, struct err *e) {
    enum status status = check_config(c, e);
    struct stream *s = NULL;
    *out = NULL;
    if (status != OK) return status;
    const int64_t n_row = (int64_t)c->n_stream * (c->n_candidate > 1 ? c->n_candidate : 1);
    const size_t n_layer = (size_t)model_arch(mo->model)->n_layer;
    status = mem_zalloc(&s, 1, sizeof *s, e);
    if (status != OK) return status;
    s->mo = mo;
    s->cfg = *c;
    s->n_top = c->n_logprob > c->n_candidate ? c->n_logprob : c->n_candidate;
    status = fwd_open(&s->fwd, mo, n_row, e);
    if (status == OK) status = fwd_keep_logits(s->fwd, e);
    if (status == OK) status = fwd_repeats(s->fwd, e);
    if (status == OK) status = mem_zalloc(&s->slots, (size_t)c->n_stream, sizeof *s->slots, e);
    if (status == OK) status = mem_zalloc(&s->k, n_layer, sizeof *s->k, e);
    if (status == OK) status = mem_zalloc(&s->v, n_layer, sizeof *s->v, e);
    if (status == OK) status = mem_zalloc(&s->ids, (size_t)n_row, sizeof *s->ids, e);
    if (status == OK) status = mem_zalloc(&s->targets, (size_t)n_row, sizeof *s->targets, e);
    if (status == OK) status = mem_zalloc(&s->events, (size_t)c->n_stream, sizeof *s->events, e);
    if (status == OK) status = open_slots(s, e);
    if (status == OK) status = open_sampling(s, n_row, e);
    if (status == OK) {
        for (int64_t i = 0; i < n_row; i++) s->targets[i] = -1;
        prepare(s);
        status = dev_sync(mo->dev, e);
    }
    if (status == OK) status = model_check_files(mo->model, e);
    if (status == OK)
        *out = s;
    else
        stream_close(s);
    return status;
}

static void close_slot(struct stream_slot *s) {
    stream_past_close(s->past);
    mem_free(s->feed);
    mem_free(s->cand);
    mem_free(s->cand_logp);
    mem_free(s->cand_log_p);
    mem_free(s->next_id);
    mem_free(s->next_logp);
    mem_free(s->top_id);
    mem_free(s->top_logp);
}

void stream_close(struct stream *st) {
    if (st == NULL) return;
    const struct model_on *mo = st->mo;
    const int64_t n_layer = model_arch(mo->model)->n_layer;
    for (int64_t l = 0; l < n_layer; l++) {
        if (st->prepared) dev_weights_release(mo->dev, model_layer(mo, l), ARCH_ROLE_COUNT);
        if (st->k != NULL) buf_free(st->k[l]);
        if (st->v != NULL) buf_free(st->v[l]);
    }
    if (st->prepared) dev_weights_release(mo->dev, mo->top, ARCH_ROLE_COUNT);
    for (int i = 0; st->slots != NULL && i < st->cfg.n_stream; i++) close_slot(&st->slots[i]);
    fwd_close(st->fwd);
    struct buf *const bufs[] = {st->b_rows,   st->b_adjust,   st->b_id,           st->b_logp,
                                st->b_top_id, st->b_top_logp, st->b_top_adjusted, st->b_similar};
    for (size_t i = 0; i < COUNTOF(bufs); i++) buf_free(bufs[i]);
    void *const host[] = {
        st->slots,    st->k,  st->v,    st->ids,    st->targets,  st->events,       st->rows,
        st->row_slot, st->id, st->logp, st->top_id, st->top_logp, st->top_adjusted, st->similar};
    for (size_t i = 0; i < COUNTOF(host); i++) mem_free(host[i]);
    samp_table_close(st->table);
    mem_free(st);
}

/* ---- slots ---- */

int stream_room(const struct stream *st) {
    int n = 0;
    for (int i = 0; i < st->cfg.n_stream; i++) n += st->slots[i].state == SLOT_FREE;
    return n;
}

int stream_live(const struct stream *st) {
    int n = 0;
    for (int i = 0; i < st->cfg.n_stream; i++) n += st->slots[i].state == SLOT_LIVE;
    return n;
}

static const struct stream_slot *slot_at(const struct stream *st, int slot) {
    CHECK(slot >= 0 && slot < st->cfg.n_stream && st->slots[slot].state != SLOT_FREE);
    return &st->slots[slot];
}

static struct stream_slot *slot_of(struct stream *st, int slot) {
    CHECK(slot >= 0 && slot < st->cfg.n_stream && st->slots[slot].state != SLOT_FREE);
    return &st->slots[slot];
}

struct stream_slot *stream_slot_free(struct stream *st, int *index) {
    int i = 0;
    while (i < st->cfg.n_stream && st->slots[i].state != SLOT_FREE) i++;
    CHECK(i < st->cfg.n_stream);
    *index = i;
    return &st->slots[i];
}

enum status stream_slot_check(const struct stream *st, const struct stream_how *how,
                              struct err *e) {
    const enum status status = stream_how_check(how, model_arch(st->mo->model)->n_vocab, e);
    if (status != OK) return status;
    if (how->n_logprob > st->cfg.n_logprob)
        return err_fail(e, E_ARG, "logprobs: %d, and the engine was opened for %d", how->n_logprob,
                        st->cfg.n_logprob);
    if (stream_contrastive(how) && how->samp.top_k > st->cfg.n_candidate)
        return err_fail(e, E_ARG, "top_k: %d candidates, and the engine was opened for %d",
                        (int)how->samp.top_k, st->cfg.n_candidate);
    return OK;
}

enum status stream_slot_feed(struct stream *st, struct stream_slot *s, const int32_t *ids,
                             int64_t n, struct err *e) {
    enum status status = OK;
    const int64_t n_vocab = model_arch(st->mo->model)->n_vocab;
    CHECK(n >= 1);
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= n_vocab)
            return err_fail(e, E_ARG, "token id %d is outside the vocabulary of %lld", (int)ids[i],
                            (long long)n_vocab);
    status = mem_grow(&s->feed, &s->feed_cap, (size_t)n, sizeof *ids, e);
    if (status != OK) return status;
    memcpy(s->feed, ids, (size_t)n * sizeof *ids);
    s->n_feed = n;
    s->feed_at = 0;
    return OK;
}

// Positions are set; free as long as the state is not.
enum status stream_slot_load(struct stream *st, struct stream_slot *s, const struct cache *c,
                             struct err *e) {
    s->rule = *cache_rule(c);
    s->pos = cache_pos(c);
    for (int i = 0; i < st->mo->n_class; i++)
        s->lie[i].front = vis_cache_low(&s->rule, &st->mo->classes[i], s->pos);
    const enum status status = stream_kv_room(st, s, e);
    if (status != OK) return status;
    for (int64_t l = 0; l < model_arch(st->mo->model)->n_layer; l++) {
        const struct cache_spot to = stream_kv_spot(st, s, l);
        cache_give(c, l, &to);
    }
    return dev_sync(st->mo->dev, e);
}

enum status stream_slot_store(const struct stream *st, const struct stream_slot *s,
                              struct cache *into, struct err *e) {
    const enum status status = cache_take_begin(into, s->pos, e);
    if (status != OK) return status;
    for (int64_t l = 0; l < model_arch(st->mo->model)->n_layer; l++) {
        const struct cache_spot from = stream_kv_spot(st, s, l);
        cache_take(into, l, &from);
    }
    return dev_sync(st->mo->dev, e);
}

enum status stream_enter(struct stream *st, const struct stream_entry *in, int *slot,
                         struct err *e) {
    enum status status = OK;
    CHECK(!st->broken);
    struct stream_slot *s = stream_slot_free(st, slot);
    CHECK((*in->past)->mo == st->mo);
    CHECK(!stream_contrastive(in->how) || (*in->past)->window > 0);
    status = stream_slot_check(st, in->how, e);
    if (status == OK)
        status = fwd_check(st->mo, cache_rule(in->cache), cache_pos(in->cache), in->n, e);
    if (status == OK) status = stream_slot_feed(st, s, in->ids, in->n, e);
    if (status == OK) status = stream_slot_load(st, s, in->cache, e);
    if (status != OK) {
        st->broken = st->broken || status != E_ARG;
        return status;
    }
    s->how = in->how;
    s->past = *in->past;
    *in->past = NULL;
    samp_seen_turn(s->past->seen);
    s->generated = 0;
    s->unfed = false;
    s->n_cand = 0;
    s->err = (struct err){0};
    s->has_event = false;
    s->state = SLOT_LIVE;
    return OK;
}

enum status stream_turn(struct stream *st, int slot, const struct stream_how *how,
                        const int32_t *ids, int64_t n, struct err *e) {
    enum status status = OK;
    CHECK(!st->broken);
    struct stream_slot *s = slot_of(st, slot);
    CHECK(!stream_contrastive(how) || s->past->window > 0);
    status = stream_slot_check(st, how, e);
    if (status == OK) status = fwd_check(st->mo, &s->rule, s->pos, n, e);
    if (status == OK) status = stream_slot_feed(st, s, ids, n, e);
    if (status != OK) return status;
    samp_seen_turn(s->past->seen);
    s->how = how;
    s->generated = 0;
    s->unfed = false;
    s->n_cand = 0;
    s->err = (struct err){0};
    s->state = SLOT_LIVE;
    return OK;
}

enum status stream_rule(struct stream *st, int slot, const struct vis_rule *rule, struct err *e) {
    CHECK(!st->broken);
    struct stream_slot *s = slot_of(st, slot);
    CHECK(rule->dense == s->rule.dense && rule->n_sink == s->rule.n_sink);
    for (int c = 0; c < st->mo->n_class; c++) {
        // What lies in front of the rule's lowest key may or may not be there any more.
        const int64_t have = vis_cache_low(&s->rule, &st->mo->classes[c], s->pos);
        const int64_t need = vis_cache_low(rule, &st->mo->classes[c], s->pos);
        if (need >= have) continue;
        return err_fail(e, E_ARG, "token %lld: key %lld is needed, those from %lld on are there",
                        (long long)s->pos, (long long)need, (long long)have);
    }
    s->rule = *rule;
    return OK;
}

void stream_hold(struct stream *st, int slot) {
    slot_of(st, slot)->state = SLOT_ENDED;
}

enum status stream_leave(struct stream *st, int slot, struct cache *into, struct stream_past **past,
                         struct err *e) {
    enum status status = OK;
    CHECK(!st->broken);
    struct stream_slot *s = slot_of(st, slot);
    if (into != NULL) status = stream_slot_store(st, s, into, e);
    if (past != NULL)
        *past = s->past;
    else
        stream_past_close(s->past);
    s->past = NULL;
    s->how = NULL;
    s->has_event = false;
    s->state = SLOT_FREE;
    return status;
}

int64_t stream_pos(const struct stream *st, int slot) {
    return slot_at(st, slot)->pos;
}

int64_t stream_generated(const struct stream *st, int slot) {
    return slot_at(st, slot)->generated;
}

bool stream_unfed(const struct stream *st, int slot, int32_t *id) {
    const struct stream_slot *s = slot_at(st, slot);
    if (s->unfed) *id = s->last;
    return s->unfed;
}

int stream_events(const struct stream *st) {
    return st->n_event;
}

const struct stream_event *stream_event(const struct stream *st, int i) {
    CHECK(i >= 0 && i < st->n_event);
    return &st->events[i];
}
