#include "tests/support_raw.h"

#include "io/json.h"
#include "io/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct raw {
    struct st_files *files;
    int layers, d, heads, kv, hd, ff, vocab;
    double eps, theta;
    int tied;
};

static double number(const struct json *j, const char *key, double otherwise) {
    const struct jnode *v = json_get(json_root(j), key);
    if (v == NULL || json_kind_of(v) == JSON_NIL) return otherwise;
    return json_kind_of(v) == JSON_BOOL ? json_bool(v) : json_num(v);
}

static const float *tensor(const struct raw *m, const char *fmt, int layer) {
    char name[128];
    const char *mark = strstr(fmt, "%d");
    if (mark == NULL) {
        snprintf(name, sizeof name, "%s", fmt);
    } else {
        snprintf(name, sizeof name, "%.*s%d%s", (int)(mark - fmt), fmt, layer, mark + 2);
    }
    const struct st_tensor *t = st_get(m->files, name);
    if (t == NULL || t->dtype != DT_F32) abort();
    return (const float *)(const void *)t->data;
}

static void matvec(double *y, const float *w, const double *x, int n, int k) {
    for (int i = 0; i < n; i++) {
        double s = 0;
        for (int j = 0; j < k; j++) s += (double)w[(size_t)i * (size_t)k + (size_t)j] * x[j];
        y[i] = s;
    }
}

static void rms(double *y, const double *x, const float *w, int n, double eps) {
    double s = 0;
    for (int i = 0; i < n; i++) s += x[i] * x[i];
    const double r = 1 / sqrt(s / n + eps);
    for (int i = 0; i < n; i++) y[i] = x[i] * r * (double)w[i];
}

static void rotate(const struct raw *m, double *y, const double *x, int pos) {
    const int half = m->hd / 2;
    for (int k = 0; k < half; k++) {
        const double a = pos * pow(m->theta, -2.0 * k / m->hd), c = cos(a), s = sin(a);
        y[k] = x[k] * c - x[k + half] * s;
        y[k + half] = x[k + half] * c + x[k] * s;
    }
}

/* One layer's cache: raw keys and values of the tokens still in it, oldest first. */
struct raw_cache {
    double *k, *v;
    int n;
};

static void attend(const struct raw *m, const struct raw_cache *c, const double *q, double *out) {
    const size_t row = (size_t)(m->kv * m->hd);
    double *score = malloc((size_t)c->n * sizeof *score), turned[512], q_turned[512];
    for (int h = 0; h < m->heads; h++) {
        const int g = h / (m->heads / m->kv);
        rotate(m, q_turned, q + h * m->hd, c->n - 1); // the query is the last of the cache
        double top = -1e300, sum = 0;
        for (int j = 0; j < c->n; j++) {
            rotate(m, turned, c->k + (size_t)j * row + g * m->hd, j);
            double s = 0;
            for (int i = 0; i < m->hd; i++) s += q_turned[i] * turned[i];
            score[j] = s / sqrt(m->hd);
            if (score[j] > top) top = score[j];
        }
        for (int i = 0; i < m->hd; i++) out[h * m->hd + i] = 0;
        for (int j = 0; j < c->n; j++) sum += exp(score[j] - top);
        for (int j = 0; j < c->n; j++) {
            const double p = exp(score[j] - top) / sum;
            for (int i = 0; i < m->hd; i++)
                out[h * m->hd + i] += p * c->v[(size_t)j * row + (size_t)(g * m->hd + i)];
        }
    }
    free(score);
}

static void evict(const struct raw *m, struct raw_cache *c, int n_sink, int n_win) {
    if (n_win < 0 || c->n <= n_sink + n_win) return;
    const size_t row = (size_t)(m->kv * m->hd);
    const int from = c->n - n_win;
    memmove(c->k + (size_t)n_sink * row, c->k + (size_t)from * row,
            (size_t)n_win * row * sizeof(double));
    memmove(c->v + (size_t)n_sink * row, c->v + (size_t)from * row,
            (size_t)n_win * row * sizeof(double));
    c->n = n_sink + n_win;
}

static void token(const struct raw *m, struct raw_cache *caches, int32_t id, int n_sink, int n_win,
                  double *x, double *s) {
    const float *e = tensor(m, "model.embed_tokens.weight", 0) + (size_t)id * (size_t)m->d;
    double *h = s, *q = h + m->d, *o = q + m->heads * m->hd, *g = o + m->heads * m->hd,
           *u = g + m->ff;
    for (int i = 0; i < m->d; i++) x[i] = (double)e[i];
    for (int l = 0; l < m->layers; l++) {
        struct raw_cache *c = &caches[l];
        const size_t row = (size_t)(m->kv * m->hd);
        rms(h, x, tensor(m, "model.layers.%d.input_layernorm.weight", l), m->d, m->eps);
        matvec(q, tensor(m, "model.layers.%d.self_attn.q_proj.weight", l), h, m->heads * m->hd,
               m->d);
        matvec(c->k + (size_t)c->n * row, tensor(m, "model.layers.%d.self_attn.k_proj.weight", l),
               h, (int)row, m->d);
        matvec(c->v + (size_t)c->n * row, tensor(m, "model.layers.%d.self_attn.v_proj.weight", l),
               h, (int)row, m->d);
        c->n++;
        attend(m, c, q, o);
        evict(m, c, n_sink, n_win);
        matvec(h, tensor(m, "model.layers.%d.self_attn.o_proj.weight", l), o, m->d,
               m->heads * m->hd);
        for (int i = 0; i < m->d; i++) x[i] += h[i];
        rms(h, x, tensor(m, "model.layers.%d.post_attention_layernorm.weight", l), m->d, m->eps);
        matvec(g, tensor(m, "model.layers.%d.mlp.gate_proj.weight", l), h, m->ff, m->d);
        matvec(u, tensor(m, "model.layers.%d.mlp.up_proj.weight", l), h, m->ff, m->d);
        for (int i = 0; i < m->ff; i++) g[i] = g[i] / (1 + exp(-g[i])) * u[i];
        matvec(h, tensor(m, "model.layers.%d.mlp.down_proj.weight", l), g, m->d, m->ff);
        for (int i = 0; i < m->d; i++) x[i] += h[i];
    }
}

static void load(struct raw *m, const char *dir) {
    char path[512];
    struct err e = {0};
    struct json *j = NULL;
    snprintf(path, sizeof path, "%s/config.json", dir);
    if (json_open(&j, path, 1 << 20, &e) != OK || st_open(&m->files, dir, &e) != OK) {
        fprintf(stderr, "%s\n", e.msg);
        abort();
    }
    m->layers = (int)number(j, "num_hidden_layers", 0);
    m->d = (int)number(j, "hidden_size", 0);
    m->heads = (int)number(j, "num_attention_heads", 0);
    m->kv = (int)number(j, "num_key_value_heads", m->heads);
    m->hd = (int)number(j, "head_dim", m->d / m->heads);
    m->ff = (int)number(j, "intermediate_size", 0);
    m->vocab = (int)number(j, "vocab_size", 0);
    m->eps = number(j, "rms_norm_eps", 0);
    m->theta = number(j, "rope_theta", 10000);
    m->tied = number(j, "tie_word_embeddings", 0) != 0;
    json_close(j);
}

void raw_nll(const char *dir, const int32_t *ids, int n, int n_sink, int n_win, double *nll) {
    struct raw m = {0};
    load(&m, dir);
    const size_t row = (size_t)(m.kv * m.hd), most = (size_t)(n_win < 0 ? n : n_sink + n_win + 1);
    struct raw_cache *caches = calloc((size_t)m.layers, sizeof *caches);
    for (int l = 0; l < m.layers; l++) {
        caches[l].k = calloc(most * row, sizeof(double));
        caches[l].v = calloc(most * row, sizeof(double));
    }
    double *x = calloc((size_t)m.d, sizeof *x), *logits = calloc((size_t)m.vocab, sizeof *logits);
    double *scratch = calloc((size_t)(m.d + 2 * m.heads * m.hd + 2 * m.ff), sizeof *scratch);
    for (int t = 0; t + 1 < n; t++) {
        token(&m, caches, ids[t], n_sink, n_win, x, scratch);
        rms(scratch, x, tensor(&m, "model.norm.weight", 0), m.d, m.eps);
        matvec(logits, tensor(&m, m.tied ? "model.embed_tokens.weight" : "lm_head.weight", 0),
               scratch, m.vocab, m.d);
        double top = logits[0], sum = 0;
        for (int i = 1; i < m.vocab; i++) top = logits[i] > top ? logits[i] : top;
        for (int i = 0; i < m.vocab; i++) sum += exp(logits[i] - top);
        nll[t] = top + log(sum) - logits[ids[t + 1]];
    }
    for (int l = 0; l < m.layers; l++) {
        free(caches[l].k);
        free(caches[l].v);
    }
    free(caches);
    free(x);
    free(logits);
    free(scratch);
    st_close(m.files);
}
