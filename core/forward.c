#include "core/forward.h"

#include "base/mem.h"

#include <math.h>

/* ---- buffers ---- */

enum status fwd_open(struct fwd **out, const struct model_on *mo, int64_t n_row, struct err *e) {
    enum status st = OK;
    struct fwd *f = NULL;
    const struct arch *a = model_arch(mo->model);
    struct dev *d = mo->dev;
    const int64_t n_ang = a->n_rot > 0 ? a->n_rot : 1; // unused where nothing turns
    *out = NULL;
    TRY(mem_zalloc(&f, 1, sizeof *f, e));
    f->mo = mo;
    f->n_row_most = n_row;
    const struct {
        struct buf **buf;
        enum buf_kind kind;
        int64_t n_col;
    } wanted[] = {{&f->ids, BUF_ID, 1},
                  {&f->targets, BUF_ID, 1},
                  {&f->table_rows, BUF_ID, 1},
                  {&f->pos_abs, BUF_POS, 1},
                  {&f->pos_query, BUF_POS, 1},
                  {&f->ang_abs[0], BUF_ANGLE, n_ang},
                  {&f->ang_abs[1], BUF_ANGLE, mo->n_class > 1 ? n_ang : 1},
                  {&f->ang_query, BUF_ANGLE, n_ang},
                  {&f->x, BUF_ACT, a->d_model},
                  {&f->h, BUF_ACT, a->d_model},
                  {&f->y, BUF_ACT, a->d_model},
                  {&f->q, BUF_ACT, a->n_head * a->d_head},
                  {&f->q_sink, BUF_ACT, a->n_head * a->d_head},
                  {&f->o, BUF_ACT, a->n_head * a->d_head},
                  {&f->k, BUF_ACT, a->n_kv * a->d_head},
                  {&f->v, BUF_ACT, a->n_kv * a->d_head},
                  {&f->gate, BUF_ACT, a->d_ff},
                  {&f->up, BUF_ACT, a->d_ff},
                  {&f->logp, BUF_LOGP, 1}};
    for (size_t i = 0; i < COUNTOF(wanted); i++) {
        TRY(buf_new(wanted[i].buf, d, wanted[i].kind, n_row, wanted[i].n_col, e));
    }
    if (a->n_logn > 0) TRY(buf_new(&f->ang_q, d, BUF_ANGLE, n_row, n_ang, e));
    if (a->n_logn > 0 || mo->rope[0].past != NULL) {
        TRY(buf_new(&f->some_pos, d, BUF_POS, n_row, 1, e));
        TRY(buf_new(&f->some_ang, d, BUF_ANGLE, n_row, n_ang, e));
    }
    TRY(mem_zalloc(&f->classes, (size_t)mo->n_class, sizeof(struct fwd_class), e));
    TRY(mem_zalloc(&f->host_abs, (size_t)n_row, sizeof *f->host_abs, e));
    TRY(mem_zalloc(&f->host_query, (size_t)n_row, sizeof *f->host_query, e));
    TRY(mem_zalloc(&f->host_rows, (size_t)n_row, sizeof *f->host_rows, e));
    TRY(mem_zalloc(&f->host_past, (size_t)n_row, sizeof *f->host_past, e));
    *out = f;
    f = NULL;
done:
    fwd_close(f);
    return st;
}

void fwd_close(struct fwd *f) {
    if (f == NULL) return;
    struct buf *const all[] = {
        f->ids,        f->targets,   f->table_rows, f->pos_abs,  f->pos_query, f->ang_abs[0],
        f->ang_abs[1], f->ang_query, f->ang_q,      f->some_pos, f->some_ang,  f->x,
        f->h,          f->y,         f->q,          f->q_sink,   f->o,         f->k,
        f->v,          f->gate,      f->up,         f->logp,     f->logits};
    for (size_t i = 0; i < COUNTOF(all); i++) buf_free(all[i]);
    for (int c = 0; f->classes != NULL && c < f->mo->n_class; c++) {
        buf_free(f->classes[c].seg);
        mem_free(f->classes[c].host);
    }
    dev_replay_free(f->replay);
    mem_free(f->classes);
    mem_free(f->host_abs);
    mem_free(f->host_query);
    mem_free(f->host_rows);
    mem_free(f->host_past);
    mem_free(f);
}

enum status fwd_keep_logits(struct fwd *f, struct err *e) {
    if (f->logits != NULL) return OK;
    return buf_new(&f->logits, f->mo->dev, BUF_ACT, f->n_row_most,
                   model_arch(f->mo->model)->n_vocab, e);
}

enum status fwd_repeats(struct fwd *f, struct err *e) {
    // Rows that turn unlike the others are written in the middle of a block.
    if (f->some_ang != NULL || f->replay != NULL) return OK;
    return dev_replay_new(&f->replay, f->mo->dev, e);
}

/* ---- who sees what, for this block ---- */

// Whether documents under the rule turn by the angles for caches past the original context: chosen once,
// for length C + 1.
static bool turns_past(const struct model_on *mo, const struct vis_rule *r) {
    const int64_t seen = r->n_sink + r->n_win + (r->strict ? 0 : 1);
    return mo->rope[0].past != NULL && !r->dense &&
           seen > model_arch(mo->model)->rope.n_ctx_original;
}

enum status fwd_check(const struct model_on *mo, const struct vis_rule *r, int64_t pos, int64_t n,
                      struct err *e) {
    const struct arch *a = model_arch(mo->model);
    const struct vis_class any = {0};
    const bool within = mo->rope[0].past != NULL && !turns_past(mo, r);
    const int64_t seen_most = within ? a->rope.n_ctx_original : a->n_seen_most;
    if (a->positions != POS_LEARNED && seen_most == 0) return OK;
    for (int64_t t = pos; t < pos + n; t++) {
        const int64_t p = vis_query_pos(r, &any, t);
        if (a->positions == POS_LEARNED && t >= a->n_ctx_train) {
            return err_fail(e, E_ARG,
                            "the document goes on past token %lld: the %s family adds learned "
                            "positions to its embeddings, and this model has no more of them",
                            (long long)a->n_ctx_train, a->family->name);
        }
        if (a->positions == POS_LEARNED && p != t) {
            return err_fail(e, E_ARG,
                            "token %lld leaves the cache: the %s family adds learned positions to "
                            "its embeddings, so that keys cannot move in a cache; use dense mode",
                            (long long)t, a->family->name);
        }
        if (seen_most > 0 && p >= seen_most) {
            return err_fail(e, E_ARG,
                            "token %lld sees more than %lld tokens: past that this model's rotary "
                            "angles change with the length, which is not supported; use a smaller "
                            "cache%s",
                            (long long)t, (long long)seen_most,
                            within ? ", or a window that is larger from the start" : "");
        }
    }
    return OK;
}

void fwd_begin(struct fwd *f) {
    for (int c = 0; c < f->mo->n_class; c++) f->classes[c].n_seg = 0;
    f->sinks_turn = false;
}

void fwd_plan_rows(struct fwd *f, const struct fwd_rows *rows) {
    const struct arch *a = model_arch(f->mo->model);
    const struct vis_rule *r = rows->rule;
    const bool past = turns_past(f->mo, r);
    const struct vis_class any = {0}; // sinks are met by layers without a window of their own
    for (int64_t k = 0; k < rows->n; k++) {
        const int64_t t = rows->pos + k, at = rows->row + k, query = vis_query_pos(r, &any, t);
        f->host_abs[at] = t;
        f->host_query[at] = query;
        f->host_past[at] = past;
        f->host_rows[at] = a->positions == POS_LEARNED ? (int32_t)(t + a->pos_offset) : 0;
        f->sinks_turn = f->sinks_turn || (a->n_rot > 0 && r->n_sink > 0 && query != t);
    }
}

enum status fwd_plan_keys(struct fwd *f, int cls, const struct fwd_rows *rows,
                          const struct fwd_place *at, struct err *e) {
    enum status st = OK;
    struct fwd_class *fc = &f->classes[cls];
    const struct vis_class *vc = &f->mo->classes[cls];
    const int64_t n_sink = vis_cache_sinks(rows->rule, vc);
    const int64_t count = vis_count(rows->rule, vc, rows->pos, rows->n);
    TRY(mem_grow(&fc->host, &fc->host_cap, (size_t)(fc->n_seg + count), sizeof(struct dev_seg), e));
    struct dev_seg *g = fc->host + fc->n_seg;
    vis_segments(rows->rule, vc, rows->pos, rows->n, rows->row, g);
    fc->n_seg += (int)count;
    for (const struct dev_seg *end = g + count; g < end; g++) {
        g->sink_row = at->base;
        // While nothing has been dropped, sinks are seen as keys of the window by a dense prefill.
        g->old_pos = at->front == n_sink ? 0 : at->front;
        g->old_row = at->front == n_sink ? at->base : at->base + n_sink;
        g->own_row = at->own + (g->pos - rows->pos);
        if (at->aside && g->pos < g->n_sink) { // sees all there is; must not write among the sinks
            g->n_sink = 0;
            g->low = 0;
            g->moves = 0;
        }
    }
done:
    return st;
}

static enum status send_plan(struct fwd *f, int64_t n_row, struct err *e) {
    enum status st = OK;
    struct dev *d = f->mo->dev;
    for (int c = 0; c < f->mo->n_class; c++) {
        struct fwd_class *fc = &f->classes[c];
        if (fc->seg == NULL || buf_rows(fc->seg) < fc->n_seg) {
            buf_free(fc->seg);
            fc->seg = NULL;
            TRY(buf_new(&fc->seg, d, BUF_SEG, fc->n_seg + fc->n_seg / 2, 1, e));
        }
        dev_write(d, fc->seg, 0, fc->n_seg, fc->host);
    }
    dev_write(d, f->pos_abs, 0, n_row, f->host_abs);
    dev_write(d, f->pos_query, 0, n_row, f->host_query);
    dev_write(d, f->table_rows, 0, n_row, f->host_rows);
done:
    return st;
}

/* ---- the mathematics ---- */

static void norm(struct fwd *f, struct buf *y, const struct buf *x, const struct wt *weight,
                 const struct wt *bias, int64_t n_row) {
    const struct arch *a = model_arch(f->mo->model);
    const struct dev_norm p = {.kind = a->family->norm,
                               .eps = a->norm_eps,
                               .weight_offset = a->norm_offset,
                               .weight = weight,
                               .bias = bias,
                               .n_group = 1};
    dev_norm(f->mo->dev, y, x, &p, n_row);
}

// Each head of q or k by itself, where the model does that.
static void norm_heads(struct fwd *f, struct buf *x, const struct wt *weight, int64_t n_head,
                       int64_t n_row) {
    const struct arch *a = model_arch(f->mo->model);
    if (weight == NULL) return;
    const struct dev_norm p = {.kind = a->family->norm,
                               .eps = a->norm_eps,
                               .weight_offset = a->norm_offset,
                               .weight = weight,
                               .n_group = a->qk_norm_row ? 1 : (int)n_head};
    dev_norm(f->mo->dev, x, x, &p, n_row);
}

// Keys turn once, to their absolute position; queries twice, for window keys and for sinks.
static void turn(struct fwd *f, int cls, int64_t n_row) {
    const struct arch *a = model_arch(f->mo->model);
    struct dev *d = f->mo->dev;
    const struct dev_rope q = {(int)a->n_head, (int)a->d_head, (int)a->n_rot, a->rope_interleaved};
    const struct dev_rope k = {(int)a->n_kv, (int)a->d_head, (int)a->n_rot, a->rope_interleaved};
    if (a->n_rot == 0) return;
    dev_rope(d, f->k, f->k, f->ang_abs[cls], &k, n_row);
    if (f->sinks_turn && cls == 0) dev_rope(d, f->q_sink, f->q, f->ang_query, &q, n_row);
    dev_rope(d, f->q, f->q, f->ang_q != NULL ? f->ang_q : f->ang_abs[cls], &q, n_row);
}

// y = attention of h
static void attention(struct fwd *f, int64_t l, struct wt *const *w, const struct fwd_keys *keys,
                      int64_t n_row) {
    const struct arch *a = model_arch(f->mo->model);
    struct dev *d = f->mo->dev;
    const int cls = f->mo->class_of_layer[l];
    const struct fwd_class *fc = &f->classes[cls];
    struct buf *k = NULL, *v = NULL; // of all keys, old and own

    dev_linear(d, f->q, f->h, w[ARCH_Q], w[ARCH_Q_BIAS], n_row);
    dev_linear(d, f->k, f->h, w[ARCH_K], w[ARCH_K_BIAS], n_row);
    dev_linear(d, f->v, f->h, w[ARCH_V], w[ARCH_V_BIAS], n_row);
    if (a->qkv_clip > 0) {
        dev_clip(d, f->q, a->qkv_clip, n_row);
        dev_clip(d, f->k, a->qkv_clip, n_row);
        dev_clip(d, f->v, a->qkv_clip, n_row);
    }
    norm_heads(f, f->q, w[ARCH_NORM_Q], a->n_head, n_row);
    norm_heads(f, f->k, w[ARCH_NORM_K], a->n_kv, n_row);
    turn(f, cls, n_row);

    keys->open(keys->ctx, l, &k, &v);
    dev_kv_store(d, k, f->k, fc->seg, fc->n_seg);
    dev_kv_store(d, v, f->v, fc->seg, fc->n_seg);
    if (keys->stored != NULL) keys->stored(keys->ctx, l);
    const struct dev_attend at = {.out = f->o,
                                  .q_win = f->q,
                                  .q_sink = f->sinks_turn && cls == 0 ? f->q_sink : f->q,
                                  .k = k,
                                  .v = v,
                                  .seg = fc->seg,
                                  .n_seg = fc->n_seg,
                                  .n_head = (int)a->n_head,
                                  .n_kv = (int)a->n_kv,
                                  .d_head = (int)a->d_head,
                                  .scale = a->attn_scale,
                                  .softcap = a->attn_softcap,
                                  .slopes = f->mo->top[ARCH_SLOPES]};
    dev_attend(d, &at, n_row);
    dev_linear(d, f->y, f->o, w[ARCH_O], w[ARCH_O_BIAS], n_row);
}

// y = mlp of h
static void mlp(struct fwd *f, struct wt *const *w, int64_t n_row) {
    struct dev *d = f->mo->dev;
    const struct dev_mlp p = {.y = f->y,
                              .x = f->h,
                              .gate = w[ARCH_GATE],
                              .gate_bias = w[ARCH_GATE_BIAS],
                              .up = w[ARCH_UP],
                              .up_bias = w[ARCH_UP_BIAS],
                              .down = w[ARCH_DOWN],
                              .down_bias = w[ARCH_DOWN_BIAS],
                              .act = model_arch(f->mo->model)->act,
                              .gate_room = f->gate,
                              .up_room = f->up};
    dev_mlp(d, &p, n_row);
}

static void layer(struct fwd *f, int64_t l, struct wt *const *w, const struct fwd_keys *keys,
                  int64_t n_row) {
    struct dev *d = f->mo->dev;
    const bool parallel = model_arch(f->mo->model)->parallel;
    const double by = model_arch(f->mo->model)->branch_scale;
    const struct wt *post_attn = w[ARCH_NORM_ATTN_POST], *post_mlp = w[ARCH_NORM_MLP_POST];
    norm(f, f->h, f->x, w[ARCH_NORM_ATTN], w[ARCH_NORM_ATTN_BIAS], n_row);
    attention(f, l, w, keys, n_row);
    if (post_attn != NULL) norm(f, f->y, f->y, post_attn, NULL, n_row);
    if (!parallel) dev_add(d, f->x, f->y, by, n_row);
    if (w[ARCH_NORM_MLP] != NULL) {
        norm(f, f->h, f->x, w[ARCH_NORM_MLP], w[ARCH_NORM_MLP_BIAS], n_row);
    }
    if (parallel) dev_add(d, f->x, f->y, by, n_row);
    mlp(f, w, n_row);
    if (post_mlp != NULL) norm(f, f->y, f->y, post_mlp, NULL, n_row);
    dev_add(d, f->x, f->y, by, n_row);
}

static void embed(struct fwd *f, int64_t n_row) {
    const struct model_on *mo = f->mo;
    const struct wt *positions = mo->top[ARCH_POSITIONS];
    dev_embed(mo->dev, f->x, mo->top[ARCH_EMBED], f->ids, model_arch(mo->model)->embed_scale,
              n_row);
    if (positions == NULL) return;
    dev_embed(mo->dev, f->h, positions, f->table_rows, 1, n_row);
    dev_add(mo->dev, f->x, f->h, 1, n_row);
}

// Rows at .. at + n - 1 of the block turn by `freq` and `scale` instead. pos: of all rows.
static void turn_rows(struct fwd *f, struct buf *ang, const int64_t *pos, int64_t at, int64_t n,
                      const double *freq, double scale) {
    struct dev *d = f->mo->dev;
    const int n_pair = (int)(model_arch(f->mo->model)->n_rot / 2);
    dev_write(d, f->some_pos, 0, n, pos + at);
    dev_angles(d, f->some_ang, f->some_pos, freq, n_pair, scale, n);
    dev_copy(d, ang, at, f->some_ang, 0, n);
}

// Rows i and j turn alike but for their positions.
static bool alike(const struct fwd *f, int64_t i, int64_t j) {
    const int64_t n_logn = model_arch(f->mo->model)->n_logn, *query = f->host_query;
    const bool plain = n_logn == 0 || (query[i] < n_logn && query[j] < n_logn);
    return f->host_past[i] == f->host_past[j] && (plain || query[i] == query[j]);
}

// What is particular to some documents: their caches are past the original context, or queries are
// scaled by the number of keys that they see.
static void angles_apart(struct fwd *f, int64_t n_row) {
    const int64_t n_logn = model_arch(f->mo->model)->n_logn;
    const struct model_rope *rope = &f->mo->rope[0];
    const int64_t *abs = f->host_abs, *query = f->host_query;
    for (int64_t at = 0, n = 0; at < n_row; at += n) {
        const bool past = f->host_past[at], scaled = n_logn > 0 && query[at] >= n_logn;
        const double *freq = past ? rope->past : rope->freq;
        const double by = scaled ? log((double)query[at] + 1) / log((double)n_logn) : 1;
        for (n = 1; at + n < n_row && alike(f, at, at + n);) n++;
        if (past) turn_rows(f, f->ang_abs[0], abs, at, n, freq, rope->mscale);
        if (scaled) turn_rows(f, f->ang_q, abs, at, n, freq, by * rope->mscale);
        if ((scaled || past) && f->sinks_turn)
            turn_rows(f, f->ang_query, query, at, n, freq, by * rope->mscale);
    }
}

static void angles(struct fwd *f, int64_t n_row) {
    struct dev *d = f->mo->dev;
    const int n_pair = (int)(model_arch(f->mo->model)->n_rot / 2);
    const struct model_rope *rope = f->mo->rope;
    if (n_pair == 0) return;
    for (int c = 0; c < f->mo->n_class; c++) {
        dev_angles(d, f->ang_abs[c], f->pos_abs, rope[c].freq, n_pair, rope[c].mscale, n_row);
    }
    if (f->sinks_turn) {
        dev_angles(d, f->ang_query, f->pos_query, rope[0].freq, n_pair, rope[0].mscale, n_row);
    }
    CHECK(f->ang_q == NULL || rope[0].past == NULL); // no family has both
    if (f->ang_q != NULL) dev_copy(d, f->ang_q, 0, f->ang_abs[0], 0, n_row);
    if (f->some_ang != NULL) angles_apart(f, n_row);
}

void fwd_head(struct fwd *f, int64_t n_row) {
    const struct arch *a = model_arch(f->mo->model);
    struct wt *const *top = f->mo->top;
    norm(f, f->h, f->x, top[ARCH_NORM_OUT], top[ARCH_NORM_OUT_BIAS], n_row);
    const struct dev_head p = {.logp = f->logp,
                               .x = f->h,
                               .w = top[ARCH_HEAD],
                               .bias = top[ARCH_HEAD_BIAS],
                               .target = f->targets,
                               .scale = a->logit_scale,
                               .softcap = a->logit_softcap,
                               .logits = f->logits};
    dev_head(f->mo->dev, &p, n_row);
}

// What goes to the device before a block: who sees what, ids and targets.
static enum status send(struct fwd *f, const struct fwd_block *b, struct err *e) {
    const enum status st = send_plan(f, b->n_row, e);
    if (st != OK) return st;
    dev_write(f->mo->dev, f->ids, 0, b->n_row, b->ids);
    dev_write(f->mo->dev, f->targets, 0, b->n_row, b->targets);
    return OK;
}

static void begin(struct fwd *f, const struct fwd_block *b) {
    angles(f, b->n_row);
    dev_weights_prepare(f->mo->dev, f->mo->top, ARCH_ROLE_COUNT);
    f->started = true;
    embed(f, b->n_row);
}

enum status fwd_start(struct fwd *f, const struct fwd_block *b, struct err *e) {
    const enum status st = send(f, b, e);
    if (st == OK) begin(f, b);
    return st;
}

void fwd_layer(struct fwd *f, const struct fwd_block *b, int64_t l) {
    struct wt *const *w = model_layer(f->mo, l);
    dev_weights_prepare(f->mo->dev, w, ARCH_ROLE_COUNT);
    layer(f, l, w, &b->keys, b->n_row);
    dev_weights_release(f->mo->dev, w, ARCH_ROLE_COUNT);
}

void fwd_end(struct fwd *f) {
    if (f->started) dev_weights_release(f->mo->dev, f->mo->top, ARCH_ROLE_COUNT);
    f->started = false;
}

enum status fwd_stopped(const struct span_stop *stop, struct err *e) {
    const bool asked = stop != NULL && stop->asked != NULL && stop->asked(stop->ctx);
    return asked ? err_fail(e, E_CANCEL, "stopped on request") : OK;
}

static enum status operations(struct fwd *f, const struct fwd_block *b,
                              const struct span_stop *stop, struct err *e) {
    enum status st = OK;
    begin(f, b);
    for (int64_t l = 0; l < model_arch(f->mo->model)->n_layer; l++) {
        fwd_layer(f, b, l);
        TRY(fwd_stopped(stop, e));
    }
    fwd_head(f, b->n_row);
done:
    fwd_end(f);
    return st;
}

// As recorded, where the device has recorded them: one question then stands for those between layers.
static enum status repeat(struct fwd *f, const struct fwd_block *b, const struct span_stop *stop,
                          struct err *e) {
    int64_t key[2 + MODEL_MAX_CLASS] = {b->n_row, f->sinks_turn};
    for (int c = 0; c < f->mo->n_class; c++) key[2 + c] = f->classes[c].n_seg;
    enum status st = fwd_stopped(stop, e);
    if (st != OK || dev_replay_begin(f->replay, key, sizeof key)) return st;
    st = operations(f, b, stop, e);
    dev_replay_end(f->replay, st == OK);
    return st;
}

enum status fwd_run(struct fwd *f, const struct fwd_block *b, const struct span_stop *stop,
                    struct err *e) {
    const enum status st = send(f, b, e);
    if (st != OK) return st;
    return f->replay != NULL ? repeat(f, b, stop, e) : operations(f, b, stop, e);
}

enum status fwd_finish(struct fwd *f, enum status st, struct err *e) {
    const enum status synced = dev_sync(f->mo->dev, st == OK ? e : NULL);
    if (st == OK) st = synced;
    return st == OK ? model_check_files(f->mo->model, e) : st;
}
