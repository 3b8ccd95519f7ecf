#include "jobs/gen_ask.h"

#include "base/mem.h"
#include "base/num.h"

#include <math.h>
#include <string.h>

enum { MAX_CONFIG_BYTES = 1 << 20, MAX_EOS = 64, MAX_STOPS = 64, MAX_STOP_BYTES = 1024 };

void gen_ask_fini(struct gen_ask *a) {
    for (size_t i = 0; a->own_stop != NULL && i < a->n_stop; i++) mem_free(a->own_stop[i]);
    mem_free(a->own_stop);
    mem_free(a->eos);
    mem_free(a->word_ids);
    mem_free(a->bad);
    mem_free(a->bias);
    memset(a, 0, sizeof *a);
}

/* ---- of a job ---- */

static enum status add_eos(struct gen_ask *a, int32_t id, struct err *e) {
    enum status st = OK;
    if (id < 0) goto done;
    for (int i = 0; i < a->how.n_eos; i++) {
        if (a->eos[i] == id) goto done;
    }
    if (a->how.n_eos == MAX_EOS) FAIL(e, E_FORMAT, "more than %d EOS ids", MAX_EOS);
    a->eos[a->how.n_eos++] = id;
done:
    return st;
}

// The ids of a text, appended to a list. The text is what a stream would read in the middle of others.
static enum status add_ids(const struct tok *tok, const char *text, int32_t **ids, size_t *n,
                           size_t *cap, struct err *e) {
    enum status st = OK;
    struct tok_stream *s = NULL;
    TRY(tok_stream_open(&s, tok, e));
    TRY(tok_feed(s, text, strlen(text), e));
    TRY(tok_finish(s, e));
    for (size_t got = 1; got > 0; *n += got) {
        TRY(mem_grow(ids, cap, *n + 64, sizeof **ids, e));
        got = tok_take(s, *ids + *n, NULL, 64);
    }
done:
    tok_stream_close(s);
    return st;
}

static enum status set_bad_words(struct gen_ask *a, const struct man_generate *g,
                                 const struct tok *tok, struct err *e) {
    enum status st = OK;
    size_t n = 0, cap = 0;
    if (g->n_bad_words == 0) return OK;
    TRY(mem_zalloc(&a->bad, g->n_bad_words, sizeof *a->bad, e));
    for (size_t i = 0; i < g->n_bad_words; i++) {
        const size_t begin = n;
        TRY(add_ids(tok, g->bad_words[i], &a->word_ids, &n, &cap, e));
        if (n == begin || n - begin > SAMP_MOST_WORD) {
            FAIL(e, E_FORMAT, "$.generate.bad_words[%zu]: is %zu tokens; 1 to %d can be kept out",
                 i, n - begin, SAMP_MOST_WORD);
        }
        a->bad[i].n_id = (int)(n - begin);
    }
    const int32_t *at = a->word_ids;
    for (size_t i = 0; i < g->n_bad_words; at += a->bad[i++].n_id) a->bad[i].ids = at;
    a->how.samp.bad = a->bad;
    a->how.samp.n_bad = (int)g->n_bad_words;
done:
    return st;
}

static enum status set_bias(struct gen_ask *a, const struct man_generate *g, struct err *e) {
    enum status st = OK;
    if (g->n_bias == 0) return OK;
    TRY(mem_zalloc(&a->bias, g->n_bias, sizeof *a->bias, e));
    for (size_t i = 0; i < g->n_bias; i++) {
        a->bias[i] = (struct samp_bias){g->bias[i].id, g->bias[i].bias};
    }
    a->how.samp.bias = a->bias;
    a->how.samp.n_bias = (int)g->n_bias;
done:
    return st;
}

// A token that is one of the tokenizer's own by name; -1: it has none such.
static int32_t special_id(const struct tok *tok, const char *text) {
    int32_t *ids = NULL, id = -1;
    size_t n = 0, cap = 0;
    if (add_ids(tok, text, &ids, &n, &cap, NULL) == OK && n > 0 &&
        tok_is_special(tok, ids[n - 1])) {
        size_t length = 0;
        const char *piece = tok_borrow_piece(tok, ids[n - 1], &length);
        if (length == strlen(text) && memcmp(piece, text, length) == 0) id = ids[n - 1];
    }
    mem_free(ids);
    return id;
}

static enum status set_ends(struct gen_ask *a, const struct man_generate *g,
                            const struct gen_model *m, struct err *e) {
    enum status st = OK;
    TRY(mem_zalloc(&a->eos, MAX_EOS, sizeof *a->eos, e));
    TRY(add_eos(a, tok_eos(m->tok), e));
    for (const char *const *s = m->chat != NULL ? chat_stops(m->chat) : NULL;
         s != NULL && *s != NULL; s++) {
        TRY(add_eos(a, special_id(m->tok, *s), e));
    }
    for (size_t i = 0; i < g->n_stop_ids; i++) {
        if (g->stop_ids[i] < m->n_vocab) continue;
        FAIL(e, E_FORMAT, "$.generate.stop_token_ids[%zu]: %d is outside the vocabulary of %lld", i,
             g->stop_ids[i], (long long)m->n_vocab);
    }
    a->how.eos = a->eos;
    a->how.stop = g->stop_ids;
    a->how.n_stop = (int)g->n_stop_ids;
done:
    return st;
}

/* ---- generation_config.json ---- */

static bool number_in(const struct jnode *root, const char *key, double *out) {
    const struct jnode *v = json_get(root, key);
    if (v == NULL || (json_kind_of(v) != JSON_INT && json_kind_of(v) != JSON_NUM)) return false;
    *out = json_num(v);
    return true;
}

static bool says_true(const struct jnode *root, const char *key) {
    const struct jnode *v = json_get(root, key);
    return v != NULL && json_kind_of(v) == JSON_BOOL && json_bool(v);
}

static enum status config_eos(struct gen_ask *a, const struct jnode *v, struct err *e) {
    enum status st = OK;
    const bool list = v != NULL && json_kind_of(v) == JSON_ARR;
    const size_t n = v == NULL || json_kind_of(v) == JSON_NIL ? 0 : list ? json_len(v) : 1;
    for (size_t i = 0; i < n; i++) {
        const struct jnode *one = list ? json_at(v, i) : v;
        if (json_kind_of(one) != JSON_INT || json_int(one) < 0 || json_int(one) > INT32_MAX) {
            FAIL(e, E_FORMAT, "eos_token_id: not a token id");
        }
        TRY(add_eos(a, (int32_t)json_int(one), e));
    }
done:
    return st;
}

// What the manifest does not say itself.
static enum status apply_config(struct gen_ask *a, const struct man_generate *g, const char *model,
                                struct err *e) {
    enum status st = OK;
    struct json *doc = NULL;
    struct sbuf path;
    double x = 0;
    sbuf_init(&path);
    sbuf_printf(&path, "%s/generation_config.json", model);
    TRY(sbuf_status(&path, e));
    TRY(json_open(&doc, path.s, MAX_CONFIG_BYTES, e));
    const struct jnode *root = json_root(doc);
    struct samp_params *p = &a->how.samp;
    if (json_kind_of(root) != JSON_OBJ) FAIL(e, E_FORMAT, "%s: not an object", path.s);
    if (!g->given[MAN_GIVEN_TEMPERATURE]) {
        p->temperature = says_true(root, "do_sample") ? 1 : 0;
        if (p->temperature > 0 && number_in(root, "temperature", &x)) p->temperature = x;
    }
    // Of a greedy model these say nothing.
    if (p->temperature > 0) {
        if (!g->given[MAN_GIVEN_TOP_K] && number_in(root, "top_k", &x) && x >= 0 &&
            x <= INT32_MAX) {
            p->top_k = (int32_t)x;
        }
        if (!g->given[MAN_GIVEN_TOP_P] && number_in(root, "top_p", &x)) p->top_p = x;
        if (!g->given[MAN_GIVEN_MIN_P] && number_in(root, "min_p", &x)) p->min_p = x;
    }
    if (!g->given[MAN_GIVEN_REPETITION] && number_in(root, "repetition_penalty", &x)) {
        p->repetition_penalty = x;
    }
    st = config_eos(a, json_get(root, "eos_token_id"), e);
    if (st != OK) err_prefix(e, "%s: ", path.s);
done:
    json_close(doc);
    sbuf_fini(&path);
    return st;
}

enum status gen_ask_of_job(struct gen_ask *a, const struct manifest *man, const struct gen_model *m,
                           struct err *e) {
    enum status st = OK;
    const struct man_generate *g = &man->generate;
    memset(a, 0, sizeof *a);
    stream_how_init(&a->how);
    a->how.max_new = g->max_new_tokens;
    a->how.min_new = g->min_new_tokens;
    a->how.ignore_eos = g->ignore_eos;
    a->how.n_logprob = g->logprobs > 0 ? (int)g->logprobs : 0;
    a->how.penalty_alpha = g->penalty_alpha;
    a->how.contrastive_window = g->contrastive_window;
    struct samp_params *p = &a->how.samp;
    p->temperature = g->temperature;
    p->top_k = (int32_t)g->top_k;
    p->top_p = g->top_p;
    p->min_p = g->min_p;
    p->repetition_penalty = g->repetition_penalty;
    p->presence_penalty = g->presence_penalty;
    p->frequency_penalty = g->frequency_penalty;
    a->seed = (uint64_t)g->seed;
    a->logprobs = g->logprobs;
    a->token_ids = g->token_ids;
    a->stop = g->stop;
    a->n_stop = g->n_stop;
    TRY(set_ends(a, g, m, e));
    TRY(set_bias(a, g, e));
    TRY(set_bad_words(a, g, m->tok, e));
    if (g->use_generation_config) TRY(apply_config(a, g, m->path, e));
    struct err why = {.code = OK};
    if (stream_how_check(&a->how, m->n_vocab, &why) != OK) {
        FAIL(e, E_FORMAT, "$.generate: %s", why.msg);
    }
done:
    if (st != OK) gen_ask_fini(a);
    return st;
}

/* ---- of a line of an OpenAI batch ---- */

struct reading {
    struct gen_ask *a;
    const struct gen_ask *job;
    struct err *e;
};

static enum status want_number(struct reading *r, const char *key, const struct jnode *v, double lo,
                               double hi, double *out) {
    const enum json_kind k = json_kind_of(v);
    if (k != JSON_INT && k != JSON_NUM) {
        return err_fail(r->e, E_FORMAT, "body.%s: must be a number, found %s", key,
                        json_kind_name(k));
    }
    const double x = json_num(v);
    if (!(x >= lo && x <= hi)) {
        return err_fail(r->e, E_FORMAT, "body.%s: %.17g is out of range %g..%.17g", key, x, lo, hi);
    }
    *out = x;
    return OK;
}

static enum status want_count(struct reading *r, const char *key, const struct jnode *v, int64_t lo,
                              int64_t hi, int64_t *out) {
    double x = 0;
    const enum status st = want_number(r, key, v, (double)lo, (double)hi, &x);
    if (st == OK && x != floor(x)) {
        return err_fail(r->e, E_FORMAT, "body.%s: must be an integer, found %g", key, x);
    }
    if (st == OK) *out = (int64_t)x;
    return st;
}

static enum status body_stop(struct reading *r, const struct jnode *v) {
    enum status st = OK;
    struct err *e = r->e;
    const bool list = json_kind_of(v) == JSON_ARR;
    const size_t n = list ? json_len(v) : 1;
    if (n > MAX_STOPS)
        FAIL(e, E_FORMAT, "body.stop: %zu strings; at most %d are read", n, MAX_STOPS);
    r->a->n_stop = 0;
    TRY(mem_zalloc(&r->a->own_stop, n, sizeof *r->a->own_stop, e));
    r->a->stop = r->a->own_stop;
    for (size_t i = 0; i < n; i++) {
        const struct jnode *one = list ? json_at(v, i) : v;
        size_t length = 0;
        const char *s = json_kind_of(one) == JSON_STR ? json_str(one, &length) : NULL;
        if (s == NULL) FAIL(e, E_FORMAT, "body.stop: must be a string, or a list of strings");
        if (length == 0 || length > MAX_STOP_BYTES || strlen(s) != length) {
            FAIL(e, E_FORMAT, "body.stop: must be 1 to %d bytes without NUL", MAX_STOP_BYTES);
        }
        TRY(mem_dup(&r->a->own_stop[i], s, length, e));
        r->a->n_stop++;
    }
done:
    return st;
}

static enum status body_bias(struct reading *r, const struct jnode *v, int64_t n_vocab) {
    enum status st = OK;
    struct err *e = r->e;
    if (json_kind_of(v) != JSON_OBJ) FAIL(e, E_FORMAT, "body.logit_bias: must be an object");
    TRY(mem_zalloc(&r->a->bias, json_len(v), sizeof *r->a->bias, e));
    r->a->how.samp.bias = r->a->bias;
    r->a->how.samp.n_bias = 0;
    for (struct json_iter it = json_iter(v); it.key != NULL; json_next(&it)) {
        int64_t id = 0;
        double x = 0;
        if (!num_parse_int(it.key, n_vocab - 1, &id)) {
            FAIL(e, E_FORMAT, "body.logit_bias: \"%.32s\" is not a token id", it.key);
        }
        TRY(want_number(r, "logit_bias", it.value, -100, 100, &x));
        for (int i = 0; i < r->a->how.samp.n_bias; i++) {
            if (r->a->bias[i].id == id) FAIL(e, E_FORMAT, "body.logit_bias: an id twice");
        }
        r->a->bias[r->a->how.samp.n_bias++] = (struct samp_bias){(int32_t)id, x};
    }
done:
    return st;
}

// logprobs: true with top_logprobs (chat), or a number (completions).
static enum status body_logprobs(struct reading *r, const char *key, const struct jnode *v) {
    const bool is_bool = json_kind_of(v) == JSON_BOOL;
    if (is_bool && !json_bool(v)) {
        r->a->logprobs = -1;
    } else if (is_bool) {
        r->a->logprobs = r->a->logprobs > 0 ? r->a->logprobs : 0;
    } else {
        const enum status st = want_count(r, key, v, 0, 20, &r->a->logprobs);
        if (st != OK) return st;
    }
    r->a->how.n_logprob = r->a->logprobs > 0 ? (int)r->a->logprobs : 0;
    if (r->a->how.n_logprob > r->job->how.n_logprob) {
        return err_fail(r->e, E_FORMAT, "body.%s: %d, but the job's generate.logprobs allows %d",
                        key, r->a->how.n_logprob, r->job->how.n_logprob);
    }
    return OK;
}

static enum status body_count(struct reading *r, const char *key, const struct jnode *v) {
    struct stream_how *h = &r->a->how;
    int64_t one = 1;
    if (strcmp(key, "max_tokens") == 0 || strcmp(key, "max_completion_tokens") == 0) {
        return want_count(r, key, v, 1, r->job->how.max_new, &h->max_new);
    }
    if (strcmp(key, "min_tokens") == 0)
        return want_count(r, key, v, 0, r->job->how.max_new, &h->min_new);
    if (strcmp(key, "n") == 0 || strcmp(key, "best_of") == 0)
        return want_count(r, key, v, 1, 1, &one);
    if (strcmp(key, "top_k") == 0) {
        int64_t k = 0;
        const enum status st = want_count(r, key, v, -1, INT32_MAX, &k);
        h->samp.top_k = k > 0 ? (int32_t)k : 0;
        return st;
    }
    int64_t seed = 0;
    const enum status st = want_count(r, key, v, 0, (int64_t)1 << 53, &seed);
    r->a->seed = (uint64_t)seed;
    return st;
}

static enum status body_real(struct reading *r, const char *key, const struct jnode *v) {
    struct samp_params *p = &r->a->how.samp;
    const struct {
        const char *key;
        double lo, hi, *out;
    } reals[] = {{"temperature", 0, 100, &p->temperature},
                 {"top_p", 0, 1, &p->top_p},
                 {"min_p", 0, 1, &p->min_p},
                 {"repetition_penalty", 0, 100, &p->repetition_penalty},
                 {"presence_penalty", -2, 2, &p->presence_penalty},
                 {"frequency_penalty", -2, 2, &p->frequency_penalty}};
    for (size_t i = 0; i < COUNTOF(reals); i++) {
        if (strcmp(reals[i].key, key) == 0) {
            return want_number(r, key, v, reals[i].lo, reals[i].hi, reals[i].out);
        }
    }
    return err_fail(r->e, E_FORMAT, "body.%s: not a member this program reads", key);
}

static bool is_one_of(const char *key, const char *const *list) {
    for (; *list != NULL; list++) {
        if (strcmp(key, *list) == 0) return true;
    }
    return false;
}

static enum status body_member(struct reading *r, const char *key, const struct jnode *v,
                               int64_t n_vocab) {
    // The prompt itself, and what says nothing about it.
    static const char *const passed[] = {"messages", "prompt", "model", "user",
                                         "metadata", "store",  NULL};
    static const char *const counts[] = {
        "max_tokens", "max_completion_tokens", "min_tokens", "n", "best_of", "top_k", "seed", NULL};
    static const char *const flags[] = {"stream", "echo", NULL};
    if (is_one_of(key, passed) || json_kind_of(v) == JSON_NIL) return OK;
    if (is_one_of(key, counts)) return body_count(r, key, v);
    if (strcmp(key, "stop") == 0) return body_stop(r, v);
    if (strcmp(key, "logit_bias") == 0) return body_bias(r, v, n_vocab);
    if (strcmp(key, "logprobs") == 0) return body_logprobs(r, key, v);
    if (strcmp(key, "top_logprobs") == 0) {
        return json_kind_of(v) == JSON_BOOL
                   ? err_fail(r->e, E_FORMAT, "body.top_logprobs: must be a number")
                   : body_logprobs(r, key, v);
    }
    if (strcmp(key, "ignore_eos") == 0) {
        r->a->how.ignore_eos = json_kind_of(v) == JSON_BOOL && json_bool(v);
        return OK;
    }
    if (is_one_of(key, flags)) {
        if (json_kind_of(v) == JSON_BOOL && !json_bool(v)) return OK;
        return err_fail(r->e, E_FORMAT, "body.%s: only false is understood in a batch", key);
    }
    return body_real(r, key, v);
}

enum status gen_ask_of_body(struct gen_ask *a, const struct gen_ask *job, const struct jnode *body,
                            int64_t n_vocab, struct err *e) {
    enum status st = OK;
    *a = *job;
    a->eos = a->word_ids = NULL; // the job's
    a->bad = NULL;
    a->bias = NULL;
    a->own_stop = NULL;
    struct reading r = {a, job, e};
    for (struct json_iter it = json_iter(body); it.key != NULL; json_next(&it)) {
        TRY(body_member(&r, it.key, it.value, n_vocab));
    }
    struct err why = {.code = OK};
    if (a->how.min_new > a->how.max_new) FAIL(e, E_FORMAT, "body.min_tokens: more than max_tokens");
    if (stream_how_check(&a->how, n_vocab, &why) != OK) FAIL(e, E_FORMAT, "body: %s", why.msg);
done:
    if (st != OK) gen_ask_fini(a);
    return st;
}
