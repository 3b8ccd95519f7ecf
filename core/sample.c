#include "core/sample.h"

#include "base/hash.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

/* ---- parameters ---- */

static const double MOST_BIAS = 1e6; // finite in float, whatever the logit

void samp_neutral(struct samp_params *p) {
    *p = (struct samp_params){.top_p = 1, .repetition_penalty = 1};
}

static enum status check_lists(const struct samp_params *p, int64_t n_vocab, struct err *e) {
    for (int i = 0; i < p->n_bias; i++) {
        const struct samp_bias *b = &p->bias[i];
        if (b->id < 0 || b->id >= n_vocab)
            return err_fail(e, E_ARG, "logit_bias: token id %d is outside the vocabulary of %lld",
                            (int)b->id, (long long)n_vocab);
        if (!(fabs(b->add) <= MOST_BIAS))
            return err_fail(e, E_ARG, "logit_bias of token id %d must be within %g of 0",
                            (int)b->id, MOST_BIAS);
    }
    for (int i = 0; i < p->n_bad; i++) {
        const struct samp_word *w = &p->bad[i];
        if (w->n_id < 1 || w->n_id > SAMP_MOST_WORD)
            return err_fail(e, E_ARG, "bad_words: entry %d has %d tokens, must have 1 to %d", i,
                            w->n_id, SAMP_MOST_WORD);
        for (int k = 0; k < w->n_id; k++)
            if (w->ids[k] < 0 || w->ids[k] >= n_vocab)
                return err_fail(e, E_ARG,
                                "bad_words: token id %d is outside the vocabulary of %lld",
                                (int)w->ids[k], (long long)n_vocab);
    }
    return OK;
}

enum status samp_check(const struct samp_params *p, int64_t n_vocab, struct err *e) {
    if (!(p->temperature >= 0 && p->temperature <= 1000))
        return err_fail(e, E_ARG, "temperature must be 0 to 1000, is %g", p->temperature);
    if (p->top_k < 0) return err_fail(e, E_ARG, "top_k must be at least 0, is %d", (int)p->top_k);
    if (!(p->top_p > 0 && p->top_p <= 1))
        return err_fail(e, E_ARG, "top_p must be above 0 and at most 1, is %g", p->top_p);
    if (!(p->min_p >= 0 && p->min_p <= 1))
        return err_fail(e, E_ARG, "min_p must be 0 to 1, is %g", p->min_p);
    if (!(p->repetition_penalty >= 0.001 && p->repetition_penalty <= 1000))
        return err_fail(e, E_ARG, "repetition_penalty must be 0.001 to 1000, is %g",
                        p->repetition_penalty);
    if (!(fabs(p->presence_penalty) <= 2))
        return err_fail(e, E_ARG, "presence_penalty must be -2 to 2, is %g", p->presence_penalty);
    if (!(fabs(p->frequency_penalty) <= 2))
        return err_fail(e, E_ARG, "frequency_penalty must be -2 to 2, is %g", p->frequency_penalty);
    return check_lists(p, n_vocab, e);
}

/* ---- random numbers ---- */

struct samp_key samp_key(uint64_t seed, const char *source, size_t n, int64_t offset) {
    uint64_t of_source[2], key[2];
    hash_words(source, n, seed, of_source);
    const uint64_t both[4] = {of_source[0], of_source[1], seed, (uint64_t)offset};
    hash_words(both, sizeof both, 0, key);
    return (struct samp_key){key[0], key[1]};
}

double samp_uniform(const struct samp_key *key, int64_t step) {
    uint64_t words[2];
    const uint64_t all[3] = {key->lo, key->hi, (uint64_t)step};
    hash_words(all, sizeof all, 0, words);
    return (double)(words[0] >> 11) * 0x1p-53;
}

/* ---- what has been seen ---- */

enum { TAIL = SAMP_MOST_WORD - 1 };

// `counts`, `ids` and what they count are there when the parameters have penalties.
struct samp_seen {
    int64_t n_vocab;
    struct samp_count {
        int32_t prompt; // 1: it is in the prompt
        int32_t output; // times in the output
    } * counts;         // owned [n_vocab]; NULL: not kept
    int32_t *ids;       // owned [n_vocab]: ids with a count, in order of appearance
    int64_t n_id;
    int32_t tail[TAIL]; // the last ids, oldest first
    int n_tail;
};

static bool has_penalties(const struct samp_params *p) {
    return p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

enum status samp_seen_open(struct samp_seen **out, const struct samp_params *p, int64_t n_vocab,
                           struct err *e) {
    enum status st = OK;
    struct samp_seen *s = NULL;
    *out = NULL;
    TRY(mem_zalloc(&s, 1, sizeof *s, e));
    s->n_vocab = n_vocab;
    if (has_penalties(p)) {
        TRY(mem_zalloc(&s->counts, (size_t)n_vocab, sizeof *s->counts, e));
        TRY(mem_zalloc(&s->ids, (size_t)n_vocab, sizeof *s->ids, e));
    }
    *out = s;
    s = NULL;
done:
    samp_seen_close(s);
    return st;
}

void samp_seen_close(struct samp_seen *s) {
    if (s == NULL) return;
    mem_free(s->counts);
    mem_free(s->ids);
    mem_free(s);
}

static struct samp_count *count_of(struct samp_seen *s, int32_t id) {
    struct samp_count *c = &s->counts[id];
    if (c->prompt == 0 && c->output == 0) s->ids[s->n_id++] = id;
    return c;
}

static void add_tail(struct samp_seen *s, const int32_t *ids, int64_t n) {
    const int64_t take = n < TAIL ? n : TAIL;
    const int keep = s->n_tail + (int)take > TAIL ? TAIL - (int)take : s->n_tail;
    memmove(s->tail, s->tail + s->n_tail - keep, (size_t)keep * sizeof *ids);
    memcpy(s->tail + keep, ids + (n - take), (size_t)take * sizeof *ids);
    s->n_tail = keep + (int)take;
}

void samp_seen_prompt(struct samp_seen *s, const int32_t *ids, int64_t n) {
    for (int64_t i = 0; s->counts != NULL && i < n; i++) {
        CHECK(ids[i] >= 0 && ids[i] < s->n_vocab);
        count_of(s, ids[i])->prompt = 1;
    }
    if (n > 0) add_tail(s, ids, n);
}

void samp_seen_output(struct samp_seen *s, int32_t id) {
    CHECK(id >= 0 && id < s->n_vocab);
    if (s->counts != NULL) {
        struct samp_count *c = count_of(s, id);
        if (c->output < INT32_MAX) c->output++;
    }
    add_tail(s, &id, 1);
}

void samp_seen_turn(struct samp_seen *s) {
    for (int64_t i = 0; i < s->n_id; i++) s->counts[s->ids[i]] = (struct samp_count){1, 0};
}

/* ---- saved: int64 n_tail, tail; int64 n_id, then per id: i32 id, prompt, output ---- */

void samp_seen_save(const struct samp_seen *s, struct sbuf *out) {
    const int64_t n_tail = s->n_tail;
    sbuf_add(out, &n_tail, sizeof n_tail);
    sbuf_add(out, s->tail, (size_t)n_tail * sizeof *s->tail);
    sbuf_add(out, &s->n_id, sizeof s->n_id);
    for (int64_t i = 0; i < s->n_id; i++) {
        sbuf_add(out, &s->ids[i], sizeof s->ids[i]);
        sbuf_add(out, &s->counts[s->ids[i]], sizeof *s->counts);
    }
}

static bool take(void *dst, size_t n, const char **p, const char *end) {
    if ((size_t)(end - *p) < n) return false;
    memcpy(dst, *p, n);
    *p += n;
    return true;
}

enum status samp_seen_restore(struct samp_seen *s, const char *bytes, size_t n, size_t *used,
                              struct err *e) {
    enum status st = OK;
    const char *p = bytes, *end = bytes + n;
    int64_t n_tail = 0, n_id = 0;
    if (!take(&n_tail, sizeof n_tail, &p, end) || n_tail < 0 || n_tail > TAIL ||
        !take(s->tail, (size_t)n_tail * sizeof *s->tail, &p, end) ||
        !take(&n_id, sizeof n_id, &p, end) || n_id < 0 || n_id > s->n_vocab ||
        (n_id > 0 && s->counts == NULL))
        FAIL(e, E_FORMAT, "saved stream: bad counts");
    s->n_tail = (int)n_tail;
    for (int64_t i = 0; i < n_id; i++) {
        int32_t id = 0;
        struct samp_count c = {0};
        if (!take(&id, sizeof id, &p, end) || !take(&c, sizeof c, &p, end) || id < 0 ||
            id >= s->n_vocab || c.prompt < 0 || c.prompt > 1 || c.output < 0 ||
            (c.prompt == 0 && c.output == 0) || s->counts[id].prompt || s->counts[id].output)
            FAIL(e, E_FORMAT, "saved stream: bad count of an id");
        *count_of(s, id) = c;
    }
    *used = (size_t)(p - bytes);
done:
    return st;
}

/* ---- changes to logits ---- */

struct samp_table {
    struct dev_adjust *entries; /* owned [cap] */
    size_t n, cap;
    int32_t *
        at; /* owned [n_vocab]: entry of the id in the row at work, behind `first`, plus 1; 0: none */
};

enum status samp_table_open(struct samp_table **out, int64_t n_vocab, struct err *e) {
    enum status st = OK;
    struct samp_table *t = NULL;
    *out = NULL;
    TRY(mem_zalloc(&t, 1, sizeof *t, e));
    TRY(mem_zalloc(&t->at, (size_t)n_vocab, sizeof *t->at, e));
    *out = t;
    t = NULL;
done:
    samp_table_close(t);
    return st;
}

void samp_table_close(struct samp_table *t) {
    if (t == NULL) return;
    mem_free(t->entries);
    mem_free(t->at);
    mem_free(t);
}

void samp_table_clear(struct samp_table *t) {
    t->n = 0;
}

const struct dev_adjust *samp_table_entries(const struct samp_table *t, int64_t *n) {
    *n = (int64_t)t->n;
    return t->entries;
}

// The row's entry of an id. There is room.
static struct dev_adjust *entry_of(struct samp_table *t, size_t first, int32_t id) {
    if (t->at[id] == 0) {
        t->entries[t->n++] = (struct dev_adjust){.id = id, .scale = 1};
        t->at[id] = (int32_t)(t->n - first);
    }
    return &t->entries[first + (size_t)t->at[id] - 1];
}

// Whether the tail ends with all of the word but its last id.
static bool about_to_say(const struct samp_seen *s, const struct samp_word *w) {
    const int n = w->n_id - 1;
    return n <= s->n_tail &&
           memcmp(s->tail + (s->n_tail - n), w->ids, (size_t)n * sizeof *w->ids) == 0;
}

enum status samp_table_add(struct samp_table *t, const struct samp_params *p,
                           const struct samp_seen *s, const struct samp_ban ban[2],
                           struct dev_sample_row *row, struct err *e) {
    enum status st = OK;
    const size_t first = t->n;
    const int64_t n_id = has_penalties(p) && s->counts != NULL ? s->n_id : 0;
    TRY(mem_grow(&t->entries, &t->cap,
                 first + (size_t)n_id + (size_t)p->n_bias + (size_t)p->n_bad + (size_t)ban[0].n +
                     (size_t)ban[1].n,
                 sizeof *t->entries, e));
    for (int i = 0; i < p->n_bias; i++) entry_of(t, first, p->bias[i].id)->before = p->bias[i].add;
    for (int64_t i = 0; i < n_id; i++) {
        const struct samp_count *c = &s->counts[s->ids[i]];
        if (p->repetition_penalty == 1 && c->output == 0) continue;
        struct dev_adjust *a = entry_of(t, first, s->ids[i]);
        a->scale = p->repetition_penalty;
        if (c->output > 0)
            a->after = -(p->presence_penalty + p->frequency_penalty * (double)c->output);
    }
    for (int i = 0; i < p->n_bad; i++)
        if (about_to_say(s, &p->bad[i]))
            entry_of(t, first, p->bad[i].ids[p->bad[i].n_id - 1])->after = -INFINITY;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < ban[k].n; i++) entry_of(t, first, ban[k].ids[i])->after = -INFINITY;
    for (size_t i = first; i < t->n; i++) t->at[t->entries[i].id] = 0;
    row->temperature = p->temperature < 1e-5 ? 0 : p->temperature;
    row->top_k = p->top_k;
    row->top_p = p->top_p;
    row->min_p = p->min_p;
    row->adjust = (int64_t)first;
    row->n_adjust = (int64_t)(t->n - first);
done:
    return st;
}
