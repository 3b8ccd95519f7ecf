#include "base/mem.h"
#include "core/tok_impl.h"

#include <string.h>

void tok_text_fini(struct tok_text *t) {
    mem_free(t->s);
    mem_free(t->runs);
    memset(t, 0, sizeof *t);
}

void tok_text_clear(struct tok_text *t) {
    t->head = t->tail = 0;
    t->run_head = t->run_at = t->n_runs = 0;
    t->dropped = 0;
    if (t->cap > 1 << 20) { // a stretch of one document must not stay for all that follow
        mem_free(t->s);
        t->s = NULL;
        t->cap = 0;
    }
    if (t->runs_cap > 1 << 14) {
        mem_free(t->runs);
        t->runs = NULL;
        t->runs_cap = 0;
    }
}

enum status tok_too_long(int64_t raw, struct err *e) {
    return err_fail(e, E_UNSUPPORTED,
                    "byte %lld: the tokenizer cannot split the text that follows within %d bytes",
                    (long long)raw, TOK_MAX_STRETCH);
}

// Moves what is kept to the front once that is at most as much as was dropped: amortized O(1).
static void settle(struct tok_text *t) {
    if (t->head > 0 && t->tail - t->head <= t->head) {
        memmove(t->s, t->s + t->head, t->tail - t->head);
        t->tail -= t->head;
        t->head = 0;
    }
    if (t->run_head > 0 && t->n_runs - t->run_head <= t->run_head) {
        memmove(t->runs, t->runs + t->run_head, (t->n_runs - t->run_head) * sizeof *t->runs);
        t->n_runs -= t->run_head;
        t->run_at = t->run_at > t->run_head ? t->run_at - t->run_head : 0;
        t->run_head = 0;
    }
}

// Lets the newest run take the span in, if it goes on in the same way.
static bool extend(struct tok_text *t, struct tok_span v, uint64_t end) {
    if (t->n_runs == t->run_head) return false;
    struct tok_run *r = &t->runs[t->n_runs - 1];
    if (r->place != v.place || v.place == TOK_LOOSE) return false;
    const int64_t step = v.raw - r->raw;
    if (v.place == TOK_LINEAR) {
        if (step != (int64_t)v.n) return false;
    } else {
        if (v.n != r->unit || step <= 0 || step > UINT32_MAX) return false;
        if (r->raw_unit != 0 && r->raw_unit != step) return false;
        r->raw_unit = (uint32_t)step;
    }
    r->end = end;
    r->raw = v.raw;
    return true;
}

enum status tok_text_add(struct tok_text *t, struct tok_span v, struct err *e) {
    enum status st = OK;
    if (v.n == 0) goto done;
    settle(t);
    if (tok_text_n(t) + v.n > TOK_MAX_STRETCH + 65536u) {
        bool exact;
        st = tok_too_long(tok_text_n(t) > 0 ? tok_text_raw(t, 0, &exact) : v.raw - (int64_t)v.n, e);
        goto done;
    }
    TRY(mem_grow(&t->s, &t->cap, t->tail + v.n, 1, e));
    TRY(mem_grow(&t->runs, &t->runs_cap, t->n_runs + 1, sizeof *t->runs, e));
    memcpy(t->s + t->tail, v.s, v.n);
    t->tail += v.n;
    const uint64_t end = t->dropped + tok_text_n(t);
    if (!extend(t, v, end)) {
        t->runs[t->n_runs++] = (struct tok_run){end, v.raw, v.place, (uint32_t)v.n, 0};
    }
done:
    return st;
}

void tok_text_drop(struct tok_text *t, size_t n) {
    t->head += n;
    t->dropped += n;
    // The run that ends exactly here stays: it knows where the document stood.
    while (t->run_head + 1 < t->n_runs && t->runs[t->run_head].end < t->dropped) t->run_head++;
}

// The run that holds the byte at absolute position `at`; reads move forward, so it is near run_at.
static const struct tok_run *find_run(struct tok_text *t, uint64_t at) {
    if (t->run_at < t->run_head || t->run_at >= t->n_runs) t->run_at = t->run_head;
    while (t->run_at > t->run_head && t->runs[t->run_at - 1].end > at) t->run_at--;
    while (t->runs[t->run_at].end <= at) t->run_at++;
    return &t->runs[t->run_at];
}

// How many whole blocks lie between the one that holds the byte before `at` and the run's end.
static uint64_t blocks_behind(const struct tok_run *r, uint64_t at) {
    return r->raw_unit > 0 ? (r->end - at) / r->unit : 0;
}

struct tok_span tok_text_span(struct tok_text *t, size_t from, size_t to) {
    const struct tok_run *r = find_run(t, t->dropped + from);
    const uint64_t behind = blocks_behind(r, t->dropped + from + 1);
    const uint64_t run_end = r->end - behind * r->unit, end = t->dropped + to;
    const int64_t raw = r->raw - (int64_t)(behind * r->raw_unit);
    struct tok_span v = {tok_text_at(t) + from, to - from, raw, r->place};
    if (run_end <= end) {
        v.n = (size_t)(run_end - t->dropped) - from;
    } else if (r->place == TOK_LINEAR) {
        v.raw = raw - (int64_t)(run_end - end);
    } else {
        v.place = TOK_LOOSE;
    }
    return v;
}

int64_t tok_text_raw(struct tok_text *t, size_t i, bool *exact) {
    const uint64_t at = t->dropped + i;
    const struct tok_run *r = &t->runs[t->run_head];
    if (at == 0) { // nothing before: only the start of a linear run is known
        *exact = r->place == TOK_LINEAR;
        return *exact ? r->raw - (int64_t)r->end : r->raw;
    }
    if (r->end < at) r = find_run(t, at - 1);
    const uint64_t behind = blocks_behind(r, at);
    *exact = r->place == TOK_LINEAR || (r->place == TOK_BLOCK && r->end - behind * r->unit == at);
    return r->place == TOK_LINEAR ? r->raw - (int64_t)(r->end - at)
                                  : r->raw - (int64_t)(behind * r->raw_unit);
}

struct tok_span tok_text_joined(struct tok_text *t, size_t from, size_t to) {
    struct tok_span v = tok_text_span(t, from, to);
    if (v.n < to - from) {
        bool exact;
        v.n = to - from;
        v.raw = tok_text_raw(t, to, &exact);
        v.place = exact ? TOK_BLOCK : TOK_LOOSE;
    }
    return v;
}

struct tok_span tok_span_cut(struct tok_span v, size_t from, size_t to) {
    struct tok_span w = {v.s + from, to - from, v.raw, v.place};
    if (v.place == TOK_LINEAR) {
        w.raw = v.raw - (int64_t)(v.n - to);
    } else if (to < v.n) {
        w.place = TOK_LOOSE;
    }
    return w;
}

/* ---- what stages share ---- */

enum status tok_stage_replace(struct tok_stage *g, size_t from, size_t to, struct tokjson_str by,
                              struct err *e) {
    struct tok_span v = tok_text_joined(&g->text, from, to);
    v.s = by.s;
    v.n = by.n;
    v.place = v.place == TOK_LINEAR ? TOK_BLOCK : v.place;
    return v.n > 0 ? g->next->ops->push(g->next, v, e) : OK;
}

enum status tok_stage_pass_end(struct tok_stage *g, struct err *e) {
    return g->next->ops->end(g->next, e);
}

enum status tok_stage_whole(struct tok_stage *g, struct tok_span v, struct err *e) {
    enum status st = OK;
    TRY(g->ops->push(g, v, e));
    TRY(g->ops->end(g, e));
done:
    return st;
}

enum status tok_stage_send(struct tok_stage *g, size_t from, size_t to, struct err *e) {
    enum status st = OK;
    while (from < to) {
        const struct tok_span v = tok_text_span(&g->text, from, to);
        TRY(g->next->ops->push(g->next, v, e));
        from += v.n;
    }
done:
    return st;
}
