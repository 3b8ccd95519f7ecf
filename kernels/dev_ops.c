/* The operations: shapes are checked here, once for all backends, and time is taken per stage. */
#include "kernels/dev_impl.h"

#include "base/clock.h"
#include "base/mem.h"

// Begins an operation. False when an earlier failure sticks: the operation then does nothing.
static bool begin(struct dev *d, const char *op) {
    if (d->err.code != OK) return false;
    d->op = op;
    return true;
}

static bool need(struct dev *d, bool cond, const char *what) {
    if (!cond) dev_fail(d, E_BUG, "%s", what);
    return cond;
}

// A buffer of this device and kind with room for n_row rows of n_col elements (0: any).
static bool is_buf(struct dev *d, const struct buf *b, enum buf_kind kind, int64_t n_row,
                   int64_t n_col, const char *name) {
    if (b == NULL || b->dev != d || b->kind != kind) {
        dev_fail(d, E_BUG, "%s is not a buffer of the right device and kind", name);
        return false;
    }
    if (n_row < 0 || n_row > b->n_row || (n_col != 0 && n_col != b->n_col)) {
        dev_fail(d, E_BUG, "%s is [%lld, %lld], need [%lld, %lld]", name, (long long)b->n_row,
                 (long long)b->n_col, (long long)n_row, (long long)n_col);
        return false;
    }
    return true;
}

static bool is_wt(struct dev *d, const struct wt *w, enum wt_use use, int64_t n_out, int64_t n_in,
                  const char *name) {
    if (w == NULL || w->dev != d || w->use != use) {
        dev_fail(d, E_BUG, "%s is not a weight of the right device and use", name);
        return false;
    }
    if ((n_out != 0 && w->src.n_out != n_out) || (n_in != 0 && w->src.n_in != n_in)) {
        dev_fail(d, E_BUG, "%s is [%lld, %lld], need [%lld, %lld]", w->src.name,
                 (long long)w->src.n_out, (long long)w->src.n_in, (long long)n_out,
                 (long long)n_in);
        return false;
    }
    if (w->n_prepared == 0) {
        dev_fail(d, E_BUG, "%s is not prepared", w->src.name);
        return false;
    }
    return true;
}

static void took(struct dev *d, enum dev_stage stage, int64_t since) {
    d->seconds[stage] += 1e-9 * (double)(clock_ns() - since);
}

// ---- data and weights

void dev_write(struct dev *d, struct buf *dst, int64_t row, int64_t n, const void *host) {
    if (!begin(d, "write")) return;
    if (!need(d, dst != NULL && dst->dev == d && (host != NULL || n == 0), "no buffer or data"))
        return;
    if (!need(d, row >= 0 && n >= 0 && row <= dst->n_row && n <= dst->n_row - row,
              "rows outside the buffer"))
        return;
    d->ops->write(d, dst, row, n, host);
}

void dev_read(struct dev *d, const struct buf *src, int64_t row, int64_t n, void *host) {
    if (!begin(d, "read")) return;
    if (!need(d, src != NULL && src->dev == d && (host != NULL || n == 0), "no buffer or data"))
        return;
    if (!need(d, row >= 0 && n >= 0 && row <= src->n_row && n <= src->n_row - row,
              "rows outside the buffer"))
        return;
    d->ops->read(d, src, row, n, host);
}

void dev_weights_prepare(struct dev *d, struct wt *const *list, int n) {
    if (!begin(d, "weights_prepare")) return;
    const int64_t t0 = clock_ns();
    for (int i = 0; i < n; i++) {
        struct wt *w = list[i];
        if (w == NULL) continue;
        if (!need(d, w->dev == d, "a weight of another device")) break;
        if (w->n_prepared == 0) d->ops->wt_prepare(d, w);
        if (d->err.code != OK) break;
        w->n_prepared++;
    }
    took(d, DEV_PREPARE, t0);
}

// Works after a failure, too: what was prepared is let go.
void dev_weights_release(struct dev *d, struct wt *const *list, int n) {
    for (int i = 0; i < n; i++) {
        struct wt *w = list[i];
        if (w == NULL || w->dev != d || w->n_prepared == 0) continue;
        if (--w->n_prepared == 0) d->ops->wt_release(w);
    }
}

// ---- row by row

void dev_embed(struct dev *d, struct buf *y, const struct wt *table, const struct buf *ids,
               double scale, int64_t n_row) {
    if (!begin(d, "embed") || !is_wt(d, table, WT_TABLE, 0, 0, "table") ||
        !is_buf(d, y, BUF_ACT, n_row, table->src.n_in, "y") ||
        !is_buf(d, ids, BUF_ID, n_row, 1, "ids"))
        return;
    const int64_t t0 = clock_ns();
    d->ops->embed(d, y, table, ids, scale, n_row);
    took(d, DEV_ROWS, t0);
}

void dev_norm(struct dev *d, struct buf *y, const struct buf *x, const struct dev_norm *p,
              int64_t n_row) {
    if (!begin(d, "norm") || !is_buf(d, x, BUF_ACT, n_row, 0, "x") ||
        !is_buf(d, y, BUF_ACT, n_row, x->n_col, "y") ||
        !need(d, p->n_group >= 1 && x->n_col % p->n_group == 0, "groups do not divide the row"))
        return;
    const int64_t n = x->n_col / p->n_group;
    if (!is_wt(d, p->weight, WT_VECTOR, n, 1, "weight")) return;
    if (p->bias != NULL && !is_wt(d, p->bias, WT_VECTOR, n, 1, "bias")) return;
    const int64_t t0 = clock_ns();
    d->ops->norm(d, y, x, p, n_row);
    took(d, DEV_ROWS, t0);
}

void dev_linear(struct dev *d, struct buf *y, const struct buf *x, const struct wt *w,
                const struct wt *bias, int64_t n_row) {
    if (!begin(d, "linear") || !is_wt(d, w, WT_MATRIX, 0, 0, "w") ||
        !is_buf(d, x, BUF_ACT, n_row, w->src.n_in, "x") ||
        !is_buf(d, y, BUF_ACT, n_row, w->src.n_out, "y") || !need(d, x != y, "y is x"))
        return;
    if (bias != NULL && !is_wt(d, bias, WT_VECTOR, w->src.n_out, 1, "bias")) return;
    const int64_t t0 = clock_ns();
    d->ops->linear(d, y, x, w, bias, n_row);
    took(d, DEV_LINEAR, t0);
}

void dev_angles(struct dev *d, struct buf *ang, const struct buf *pos, const double *freq,
                int n_pair, double mscale, int64_t n_row) {
    if (!begin(d, "angles") || !need(d, n_pair > 0 && freq != NULL, "no frequencies") ||
        !is_buf(d, ang, BUF_ANGLE, n_row, 2 * (int64_t)n_pair, "ang") ||
        !is_buf(d, pos, BUF_POS, n_row, 1, "pos"))
        return;
    const int64_t t0 = clock_ns();
    d->ops->angles(d, ang, pos, freq, n_pair, mscale, n_row);
    took(d, DEV_ROWS, t0);
}

void dev_rope(struct dev *d, struct buf *y, const struct buf *x, const struct buf *ang,
              const struct dev_rope *p, int64_t n_row) {
    if (!begin(d, "rope") ||
        !need(d, p->n_head > 0 && p->n_rot > 0 && p->n_rot % 2 == 0 && p->n_rot <= p->d_head,
              "shape"))
        return;
    const int64_t n_col = (int64_t)p->n_head * p->d_head;
    if (!is_buf(d, x, BUF_ACT, n_row, n_col, "x") || !is_buf(d, y, BUF_ACT, n_row, n_col, "y") ||
        !is_buf(d, ang, BUF_ANGLE, n_row, p->n_rot, "ang"))
        return;
    const int64_t t0 = clock_ns();
    d->ops->rope(d, y, x, ang, p, n_row);
    took(d, DEV_ROWS, t0);
}

void dev_act(struct dev *d, struct buf *y, const struct buf *g, const struct buf *u,
             enum act_kind kind, int64_t n_row) {
    if (!begin(d, "act") || !is_buf(d, g, BUF_ACT, n_row, 0, "g") ||
        !is_buf(d, y, BUF_ACT, n_row, g->n_col, "y"))
        return;
    if (u != NULL && !is_buf(d, u, BUF_ACT, n_row, g->n_col, "u")) return;
    const int64_t t0 = clock_ns();
    d->ops->act(d, y, g, u, kind, n_row);
    took(d, DEV_ROWS, t0);
}

void dev_add(struct dev *d, struct buf *y, const struct buf *x, double scale, int64_t n_row) {
    if (!begin(d, "add") || !is_buf(d, x, BUF_ACT, n_row, 0, "x") ||
        !is_buf(d, y, BUF_ACT, n_row, x->n_col, "y"))
        return;
    const int64_t t0 = clock_ns();
    d->ops->add(d, y, x, scale, n_row);
    took(d, DEV_ROWS, t0);
}

void dev_clip(struct dev *d, struct buf *y, double most, int64_t n_row) {
    if (!begin(d, "clip") || !is_buf(d, y, BUF_ACT, n_row, 0, "y") ||
        !need(d, most > 0, "nothing is left"))
        return;
    const int64_t t0 = clock_ns();
    d->ops->clip(d, y, most, n_row);
    took(d, DEV_ROWS, t0);
}

static bool is_linear(struct dev *d, const struct wt *w, const struct wt *bias, int64_t n_out,
                      int64_t n_in, const char *what) {
    return is_wt(d, w, WT_MATRIX, n_out, n_in, what) &&
           (bias == NULL || is_wt(d, bias, WT_VECTOR, n_out, 1, "bias"));
}

void dev_mlp(struct dev *d, const struct dev_mlp *p, int64_t n_row) {
    if (!begin(d, "mlp") || !is_wt(d, p->up, WT_MATRIX, 0, 0, "up")) return;
    const int64_t n_ff = p->up->src.n_out, n = p->up->src.n_in;
    if (!is_linear(d, p->up, p->up_bias, n_ff, n, "up") ||
        !is_linear(d, p->down, p->down_bias, n, n_ff, "down") ||
        (p->gate != NULL && !is_linear(d, p->gate, p->gate_bias, n_ff, n, "gate")) ||
        !is_buf(d, p->x, BUF_ACT, n_row, n, "x") || !is_buf(d, p->y, BUF_ACT, n_row, n, "y") ||
        !need(d, p->x != p->y, "y is x"))
        return;
    const int64_t t0 = clock_ns();
    const bool done = d->ops->mlp != NULL && d->ops->mlp(d, p, n_row);
    took(d, DEV_LINEAR, t0);
    if (done) return;
    if (p->gate != NULL) dev_linear(d, p->gate_room, p->x, p->gate, p->gate_bias, n_row);
    dev_linear(d, p->up_room, p->x, p->up, p->up_bias, n_row);
    dev_act(d, p->up_room, p->gate != NULL ? p->gate_room : p->up_room,
            p->gate != NULL ? p->up_room : NULL, p->act, n_row);
    dev_linear(d, p->y, p->up_room, p->down, p->down_bias, n_row);
}

// ---- attention and head

void dev_kv_store(struct dev *d, struct buf *kv, const struct buf *x, const struct buf *seg,
                  int n_seg) {
    if (!begin(d, "kv_store") || !is_buf(d, x, BUF_ACT, 0, 0, "x") ||
        !is_buf(d, kv, BUF_KV, 0, x->n_col, "kv") || !is_buf(d, seg, BUF_SEG, n_seg, 1, "seg"))
        return;
    const int64_t t0 = clock_ns();
    d->ops->kv_store(d, kv, x, seg, n_seg);
    took(d, DEV_ATTEND, t0);
}

void dev_attend(struct dev *d, const struct dev_attend *a, int64_t n_row) {
    if (!begin(d, "attend") ||
        !need(d, a->n_head > 0 && a->n_kv > 0 && a->d_head > 0 && a->n_head % a->n_kv == 0,
              "shape"))
        return;
    const int64_t q_col = (int64_t)a->n_head * a->d_head, kv_col = (int64_t)a->n_kv * a->d_head;
    if (!is_buf(d, a->out, BUF_ACT, n_row, q_col, "out") ||
        !is_buf(d, a->q_win, BUF_ACT, n_row, q_col, "q_win") ||
        !is_buf(d, a->q_sink, BUF_ACT, n_row, q_col, "q_sink") ||
        !is_buf(d, a->k, BUF_KV, 0, kv_col, "k") ||
        !is_buf(d, a->v, BUF_KV, a->k->n_row, kv_col, "v") ||
        !is_buf(d, a->seg, BUF_SEG, a->n_seg, 1, "seg") ||
        !need(d, a->out != a->q_win && a->out != a->q_sink, "out is a query"))
        return;
    if (a->slopes != NULL && !is_wt(d, a->slopes, WT_VECTOR, a->n_head, 1, "slopes")) return;
    const int64_t t0 = clock_ns();
    d->ops->attend(d, a, n_row);
    took(d, DEV_ATTEND, t0);
}

void dev_head(struct dev *d, const struct dev_head *a, int64_t n_row) {
    if (!begin(d, "head") || !is_wt(d, a->w, WT_MATRIX, 0, 0, "w") ||
        !is_buf(d, a->x, BUF_ACT, n_row, a->w->src.n_in, "x") ||
        !is_buf(d, a->logp, BUF_LOGP, n_row, 1, "logp") ||
        !is_buf(d, a->target, BUF_ID, n_row, 1, "target"))
        return;
    if (a->bias != NULL && !is_wt(d, a->bias, WT_VECTOR, a->w->src.n_out, 1, "bias")) return;
    if (a->logits != NULL && !is_buf(d, a->logits, BUF_ACT, n_row, a->w->src.n_out, "logits"))
        return;
    const int64_t t0 = clock_ns();
    d->ops->head(d, a, n_row);
    took(d, DEV_HEAD, t0);
}

// The three buffers of top lists, or none of them.
static bool top_ok(struct dev *d, const struct dev_sample *a, int64_t n_row) {
    if (a->n_top == 0) return true;
    if (!need(d, a->n_top > 0 && n_row <= INT64_MAX / a->n_top, "n_top")) return false;
    const int64_t n = n_row * a->n_top;
    return is_buf(d, a->top_id, BUF_ID, n, 1, "top_id") &&
           is_buf(d, a->top_logp, BUF_LOGP, n, 1, "top_logp") &&
           is_buf(d, a->top_adjusted, BUF_LOGP, n, 1, "top_adjusted") &&
           need(d, a->top_logp != a->top_adjusted, "two lists in one buffer");
}

void dev_sample(struct dev *d, const struct dev_sample *a, int64_t n_row) {
    if (!begin(d, "sample") || !is_buf(d, a->logits, BUF_ACT, 0, 0, "logits") ||
        !is_buf(d, a->rows, BUF_SAMPLE, n_row, 1, "rows") ||
        !is_buf(d, a->id, BUF_ID, n_row, 1, "id") ||
        !is_buf(d, a->logp, BUF_LOGP, n_row, 1, "logp") || !top_ok(d, a, n_row))
        return;
    if (a->adjust != NULL && !is_buf(d, a->adjust, BUF_ADJUST, 0, 1, "adjust")) return;
    const int64_t t0 = clock_ns();
    d->ops->sample(d, a, n_row);
    took(d, DEV_HEAD, t0);
}

void dev_similar(struct dev *d, const struct dev_similar *a, int64_t n_row) {
    if (!begin(d, "similar") || !is_buf(d, a->y, BUF_ACT, a->n_y, 0, "y") ||
        !need(d,
              a->n_y >= 1 && n_row >= 0 && a->row >= 0 && a->out_row >= 0 &&
                  n_row <= INT64_MAX - a->row && n_row <= INT64_MAX - a->out_row,
              "rows") ||
        !is_buf(d, a->x, BUF_ACT, a->row + n_row, a->y->n_col, "x") ||
        !is_buf(d, a->out, BUF_LOGP, a->out_row + n_row, 1, "out"))
        return;
    const int64_t t0 = clock_ns();
    d->ops->similar(d, a, n_row);
    took(d, DEV_OTHER, t0);
}

// ---- copies and events

static bool copy_ok(struct dev *d, const struct buf *dst, int64_t dst_row, const struct buf *src,
                    int64_t src_row, int64_t n) {
    if (!need(d, dst != NULL && src != NULL, "no buffer") ||
        !need(d, dst->kind == src->kind && dst->dtype == src->dtype && dst->n_col == src->n_col,
              "buffers differ in kind, type or width"))
        return false;
    const bool dst_ok = dst_row >= 0 && dst_row <= dst->n_row && n <= dst->n_row - dst_row;
    const bool src_ok = src_row >= 0 && src_row <= src->n_row && n <= src->n_row - src_row;
    return need(d, n >= 0 && dst_ok && src_ok, "rows outside the buffers") &&
           need(d, dst != src || dst_row + n <= src_row || src_row + n <= dst_row, "rows overlap");
}

void dev_copy(struct dev *d, struct buf *dst, int64_t dst_row, const struct buf *src,
              int64_t src_row, int64_t n) {
    if (!begin(d, "copy") || !copy_ok(d, dst, dst_row, src, src_row, n) ||
        !need(d, dst->dev == d && src->dev == d, "buffers of another device"))
        return;
    const int64_t t0 = clock_ns();
    d->ops->copy(d, dst, dst_row, src, src_row, n);
    took(d, DEV_OTHER, t0);
}

struct between {
    struct dev *to;
    struct buf *dst;
    int64_t dst_row;
    struct dev *from;
    const struct buf *src;
    int64_t src_row, n;
};

// Between backends of different kinds rows pass through host memory.
static void copy_staged(const struct between *b) {
    void *host = NULL;
    struct err e = {0};
    if (mem_alloc64(&host, (size_t)b->n, b->src->row_bytes, &e) != OK) {
        dev_fail(b->to, e.code, "%s", e.msg);
        return;
    }
    b->from->ops->read(b->from, b->src, b->src_row, b->n, host);
    b->from->ops->sync(b->from);
    if (b->from->err.code == OK) b->to->ops->write(b->to, b->dst, b->dst_row, b->n, host);
    mem_free(host);
}

// In one of the receiver's queues.
static void copy_between(const struct between *b, enum dev_queue q) {
    const char *op = q == DEV_FETCHES ? "fetch" : "copy_peer";
    struct dev *to = b->to, *from = b->from;
    if (!begin(from, op) || !begin(to, op) ||
        !copy_ok(to, b->dst, b->dst_row, b->src, b->src_row, b->n) ||
        !need(to, b->dst->dev == to && b->src->dev == from, "buffers of another device"))
        return;
    const int64_t t0 = clock_ns();
    if (to->ops != from->ops)
        copy_staged(b);
    else if (q == DEV_FETCHES)
        to->ops->fetch(to, b->dst, b->dst_row, from, b->src, b->src_row, b->n);
    else
        to->ops->copy_peer(to, b->dst, b->dst_row, from, b->src, b->src_row, b->n);
    // A source that failed must not leave the receiver believing its rows.
    if (from->err.code != OK && from != to)
        dev_fail(to, from->err.code, "source: %s", from->err.msg);
    took(to, DEV_OTHER, t0);
}

void dev_copy_peer(struct dev *dst_dev, struct buf *dst, int64_t dst_row, struct dev *src_dev,
                   const struct buf *src, int64_t src_row, int64_t n) {
    const struct between b = {dst_dev, dst, dst_row, src_dev, src, src_row, n};
    copy_between(&b, DEV_QUEUE);
}

void dev_fetch(struct dev *dst_dev, struct buf *dst, int64_t dst_row, struct dev *src_dev,
               const struct buf *src, int64_t src_row, int64_t n) {
    const struct between b = {dst_dev, dst, dst_row, src_dev, src, src_row, n};
    copy_between(&b, DEV_FETCHES);
}

enum status dev_replay_new(struct dev_replay **out, struct dev *d, struct err *e) {
    struct dev_replay *r = NULL;
    *out = NULL;
    if (d->ops->replay_open == NULL) return OK;
    enum status st = mem_zalloc(&r, 1, sizeof *r, e);
    if (st != OK) return st;
    r->dev = d;
    st = d->ops->replay_open(r, e);
    if (st == OK)
        *out = r;
    else
        mem_free(r);
    return st;
}

void dev_replay_free(struct dev_replay *r) {
    if (r == NULL) return;
    r->dev->ops->replay_close(r);
    mem_free(r);
}

bool dev_replay_begin(struct dev_replay *r, const void *key, size_t n) {
    return r != NULL && begin(r->dev, "replay") && r->dev->ops->replay_begin(r, key, n);
}

void dev_replay_end(struct dev_replay *r, bool whole) {
    if (r != NULL) r->dev->ops->replay_end(r, whole);
}

enum status dev_event_new(struct dev_event **out, struct dev *d, struct err *e) {
    struct dev_event *ev = NULL;
    *out = NULL;
    enum status st = mem_zalloc(&ev, 1, sizeof *ev, e);
    if (st != OK) return st;
    ev->dev = d;
    st = d->ops->event_open(ev, e);
    if (st != OK) {
        mem_free(ev);
        return st;
    }
    *out = ev;
    return OK;
}

void dev_event_free(struct dev_event *ev) {
    if (ev == NULL) return;
    ev->dev->ops->event_close(ev);
    mem_free(ev);
}

void dev_event_record(struct dev *d, enum dev_queue q, struct dev_event *ev) {
    if (begin(d, "event_record") && need(d, ev->dev == d, "an event of another device"))
        d->ops->event_record(d, q, ev);
}

void dev_event_wait(struct dev *d, enum dev_queue q, const struct dev_event *ev) {
    if (!begin(d, "event_wait")) return;
    if (ev->dev->ops == d->ops)
        d->ops->event_wait(d, q, ev);
    else
        ev->dev->ops->sync(ev->dev); // what another kind of device queues, its own queue only knows
}
