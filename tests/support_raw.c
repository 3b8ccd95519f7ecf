#include "tests/support_raw.h"

#include "core/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* One layer's list: raw keys and values of the tokens still in it, oldest first. */
struct raw_list {
    double *k, *v; /* owned [cap][n_kv * d_head] */
    int64_t n, cap;
    int64_t window; /* the layer's own; 0: none */
    int cls;
};

struct raw {
    struct model *model;
    struct dev *dev;
    struct model_on *on;
    const struct arch *a;
    struct buf *id, *target, *x, *h, *y, *q, *k, *v, *gate, *up, *logp;
    struct raw_list *list; /* owned [n_layer] */
    double *slopes;        /* owned [n_head] */
    double *row;           /* owned scratch: a row of q, k or v */
    struct raw_rule rule;
};

static void must(enum status st, const struct err *e) {
    if (st != OK) fail_msg("%s: %s", err_name(st), e->msg);
}

static void *zalloc(int64_t n, size_t size) {
    void *p = calloc((size_t)(n > 0 ? n : 1), size);
    assert_non_null(p);
    return p;
}

static void open_buffers(struct raw *m) {
    const struct arch *a = m->a;
    const int64_t heads = a->n_head * a->d_head, kv = a->n_kv * a->d_head;
    const struct {
        struct buf **buf;
        enum buf_kind kind;
        int64_t n_col;
    } wanted[] = {
        {&m->id, BUF_ID, 1},          {&m->target, BUF_ID, 1},      {&m->x, BUF_ACT, a->d_model},
        {&m->h, BUF_ACT, a->d_model}, {&m->y, BUF_ACT, a->d_model}, {&m->q, BUF_ACT, heads},
        {&m->k, BUF_ACT, kv},         {&m->v, BUF_ACT, kv},         {&m->gate, BUF_ACT, a->d_ff},
        {&m->up, BUF_ACT, a->d_ff},   {&m->logp, BUF_LOGP, 1}};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        struct err e = {0};
        must(buf_new(wanted[i].buf, m->dev, wanted[i].kind, 1, wanted[i].n_col, &e), &e);
    }
}

static void raw_open(struct raw *m, const char *path, const struct raw_rule *rule) {
    struct err e = {0};
    const struct dev_config c = {.n_thread = 1, .isa = CPU_PORTABLE, .compute = DT_F32};
    *m = (struct raw){.rule = *rule};
    must(model_open(&m->model, path, &e), &e);
    must(dev_open_ref(&m->dev, &c, &e), &e);
    must(model_on_open(&m->on, m->model, m->dev, &e), &e);
    const struct arch *a = m->a = model_arch(m->model);
    assert_int_not_equal(a->positions, POS_LEARNED);
    open_buffers(m);
    m->slopes = zalloc(a->n_head, sizeof(double));
    if (a->positions == POS_ALIBI) arch_slopes(a, m->slopes);
    m->row = zalloc(a->n_head * a->d_head, sizeof(double));
    m->list = zalloc(a->n_layer, sizeof(struct raw_list));
    for (int64_t l = 0; l < a->n_layer; l++) {
        const bool local = a->family->window == WINDOW_LOCAL && arch_is_local(a, l);
        const bool dense = a->family->window == WINDOW_DENSE && rule->n_win < 0;
        m->list[l].cls = local ? 1 : 0;
        m->list[l].window = local || dense ? a->window : 0;
        dev_weights_prepare(m->dev, model_layer(m->on, l), ARCH_ROLE_COUNT);
    }
    dev_weights_prepare(m->dev, m->on->top, ARCH_ROLE_COUNT);
}

static void raw_close(struct raw *m) {
    struct buf *const all[] = {m->id, m->target, m->x,    m->h,  m->y,   m->q,
                               m->k,  m->v,      m->gate, m->up, m->logp};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) buf_free(all[i]);
    for (int64_t l = 0; l < m->a->n_layer; l++) {
        free(m->list[l].k);
        free(m->list[l].v);
    }
    free(m->list);
    free(m->slopes);
    free(m->row);
    model_on_close(m->on);
    dev_close(m->dev);
    model_close(m->model);
}

/* ---- the rule ---- */

static void append(struct raw *m, struct raw_list *c) {
    const int64_t row = m->a->n_kv * m->a->d_head;
    if (c->n == c->cap) {
        c->cap = c->cap > 0 ? 2 * c->cap : 64;
        c->k = realloc(c->k, (size_t)(c->cap * row) * sizeof(double));
        c->v = realloc(c->v, (size_t)(c->cap * row) * sizeof(double));
        assert_true(c->k != NULL && c->v != NULL);
    }
    dev_read(m->dev, m->k, 0, 1, c->k + c->n * row);
    dev_read(m->dev, m->v, 0, 1, c->v + c->n * row);
    c->n++;
}

// After a token: what the next one will still see.
static void evict(const struct raw *m, struct raw_list *c) {
    const int64_t row = m->a->n_kv * m->a->d_head;
    const int64_t sink = c->window > 0 ? 0 : m->rule.n_sink;
    const int64_t win = c->window > 0 ? c->window - 1 : m->rule.n_win;
    if (win < 0 || c->n <= sink + win) return;
    const size_t bytes = (size_t)(win * row) * sizeof(double);
    memmove(c->k + sink * row, c->k + (c->n - win) * row, bytes);
    memmove(c->v + sink * row, c->v + (c->n - win) * row, bytes);
    c->n = sink + win;
}

// One head, turned to position pos.
static void turn(const struct raw *m, int cls, double *y, const double *x, int64_t pos) {
    const int64_t half = m->a->n_rot / 2;
    const struct model_rope *r = &m->on->rope[cls];
    const bool past = r->past != NULL && m->rule.n_win >= 0 &&
                      m->rule.n_sink + m->rule.n_win + 1 > m->a->rope.n_ctx_original;
    const double *freq = past ? r->past : r->freq;
    memcpy(y, x, (size_t)m->a->d_head * sizeof *y);
    for (int64_t k = 0; k < half; k++) {
        const int64_t i = m->a->rope_interleaved ? 2 * k : k;
        const int64_t j = m->a->rope_interleaved ? 2 * k + 1 : k + half;
        const double c = r->mscale * cos((double)pos * freq[k]);
        const double s = r->mscale * sin((double)pos * freq[k]);
        y[i] = x[i] * c - x[j] * s;
        y[j] = x[j] * c + x[i] * s;
    }
}

static double to_bf16(double x) {
    const float f = (float)x;
    uint32_t u = 0;
    memcpy(&u, &f, sizeof u);
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
    float back = 0;
    memcpy(&back, &u, sizeof back);
    return (double)back;
}

// Softmax takes no notice of what all keys have in common: slope * index does as well as -slope * distance.
static double bias(const struct raw *m, int64_t h, int64_t j, int64_t n) {
    const double slope = m->slopes[h], scale = m->a->alibi_scale;
    if (m->rule.bf16_bias) return scale * to_bf16(to_bf16(slope / scale) * (double)j);
    return -slope * (double)(n - 1 - j);
}

// out[d_head] of head h, whose query q is the last of the list.
static void attend_head(const struct raw *m, const struct raw_list *c, int64_t h, const double *q,
                        double *out) {
    const int64_t hd = m->a->d_head, row = m->a->n_kv * hd;
    const int64_t g = h / (m->a->n_head / m->a->n_kv);
    double *score = zalloc(c->n, sizeof(double)), *turned = zalloc(2 * hd, sizeof(double));
    double top = -INFINITY, sum = 0;
    turn(m, c->cls, turned + hd, q, c->n - 1);
    for (int64_t j = 0; j < c->n; j++) {
        turn(m, c->cls, turned, c->k + j * row + g * hd, j);
        double s = 0;
        for (int64_t i = 0; i < hd; i++) s += turned[hd + i] * turned[i];
        s *= m->a->attn_scale;
        if (m->a->n_logn > 0 && c->n > m->a->n_logn)
            s *= log((double)c->n) / log((double)m->a->n_logn);
        if (m->a->attn_softcap > 0) s = m->a->attn_softcap * tanh(s / m->a->attn_softcap);
        score[j] = s + bias(m, h, j, c->n);
        top = fmax(top, score[j]);
    }
    for (int64_t j = 0; j < c->n; j++) sum += exp(score[j] - top);
    memset(out, 0, (size_t)hd * sizeof *out);
    for (int64_t j = 0; j < c->n; j++) {
        const double p = exp(score[j] - top) / sum;
        for (int64_t i = 0; i < hd; i++) out[i] += p * c->v[j * row + g * hd + i];
    }
    free(score);
    free(turned);
}

/* ---- the rest ---- */

static void norm(struct raw *m, struct buf *y, struct buf *x, const struct wt *w,
                 const struct wt *b, int64_t n_group) {
    const struct dev_norm p = {.kind = m->a->family->norm,
                               .eps = m->a->norm_eps,
                               .weight_offset = m->a->norm_offset,
                               .weight = w,
                               .bias = b,
                               .n_group = (int)n_group};
    if (w != NULL) dev_norm(m->dev, y, x, &p, 1);
}

static void attention(struct raw *m, struct raw_list *c, struct wt *const *w) {
    const struct arch *a = m->a;
    dev_linear(m->dev, m->q, m->h, w[ARCH_Q], w[ARCH_Q_BIAS], 1);
    dev_linear(m->dev, m->k, m->h, w[ARCH_K], w[ARCH_K_BIAS], 1);
    dev_linear(m->dev, m->v, m->h, w[ARCH_V], w[ARCH_V_BIAS], 1);
    if (a->qkv_clip > 0) {
        dev_clip(m->dev, m->q, a->qkv_clip, 1);
        dev_clip(m->dev, m->k, a->qkv_clip, 1);
        dev_clip(m->dev, m->v, a->qkv_clip, 1);
    }
    norm(m, m->q, m->q, w[ARCH_NORM_Q], NULL, a->qk_norm_row ? 1 : a->n_head);
    norm(m, m->k, m->k, w[ARCH_NORM_K], NULL, a->qk_norm_row ? 1 : a->n_kv);
    append(m, c);
    double *q = zalloc(a->n_head * a->d_head, sizeof(double));
    struct err e = {0};
    dev_read(m->dev, m->q, 0, 1, q);
    must(dev_sync(m->dev, &e), &e);
    for (int64_t h = 0; h < a->n_head; h++) {
        attend_head(m, c, h, q + h * a->d_head, m->row + h * a->d_head);
    }
    free(q);
    dev_write(m->dev, m->q, 0, 1, m->row);
    dev_linear(m->dev, m->y, m->q, w[ARCH_O], w[ARCH_O_BIAS], 1);
    evict(m, c);
}

static void layer(struct raw *m, int64_t l) {
    struct wt *const *w = model_layer(m->on, l);
    const bool gated = w[ARCH_GATE] != NULL;
    norm(m, m->h, m->x, w[ARCH_NORM_ATTN], w[ARCH_NORM_ATTN_BIAS], 1);
    attention(m, &m->list[l], w);
    norm(m, m->y, m->y, w[ARCH_NORM_ATTN_POST], NULL, 1);
    if (!m->a->parallel) dev_add(m->dev, m->x, m->y, m->a->branch_scale, 1);
    norm(m, m->h, m->x, w[ARCH_NORM_MLP], w[ARCH_NORM_MLP_BIAS], 1);
    if (m->a->parallel) dev_add(m->dev, m->x, m->y, m->a->branch_scale, 1);
    if (gated) dev_linear(m->dev, m->gate, m->h, w[ARCH_GATE], w[ARCH_GATE_BIAS], 1);
    dev_linear(m->dev, m->up, m->h, w[ARCH_UP], w[ARCH_UP_BIAS], 1);
    dev_act(m->dev, m->up, gated ? m->gate : m->up, gated ? m->up : NULL, m->a->act, 1);
    dev_linear(m->dev, m->y, m->up, w[ARCH_DOWN], w[ARCH_DOWN_BIAS], 1);
    norm(m, m->y, m->y, w[ARCH_NORM_MLP_POST], NULL, 1);
    dev_add(m->dev, m->x, m->y, m->a->branch_scale, 1);
}

void raw_nll(const char *path, const struct raw_rule *rule, const int32_t *ids, int64_t n,
             double *nll) {
    struct raw m;
    struct err e = {0};
    raw_open(&m, path, rule);
    struct wt *const *top = m.on->top;
    for (int64_t t = 0; t + 1 < n; t++) {
        dev_write(m.dev, m.id, 0, 1, &ids[t]);
        dev_write(m.dev, m.target, 0, 1, &ids[t + 1]);
        dev_embed(m.dev, m.x, top[ARCH_EMBED], m.id, m.a->embed_scale, 1);
        for (int64_t l = 0; l < m.a->n_layer; l++) layer(&m, l);
        norm(&m, m.h, m.x, top[ARCH_NORM_OUT], top[ARCH_NORM_OUT_BIAS], 1);
        const struct dev_head head = {.logp = m.logp,
                                      .x = m.h,
                                      .w = top[ARCH_HEAD],
                                      .bias = top[ARCH_HEAD_BIAS],
                                      .target = m.target,
                                      .scale = m.a->logit_scale,
                                      .softcap = m.a->logit_softcap};
        dev_head(m.dev, &head, 1);
        dev_read(m.dev, m.logp, 0, 1, &nll[t]);
        must(dev_sync(m.dev, &e), &e);
        nll[t] = -nll[t];
    }
    raw_close(&m);
}
