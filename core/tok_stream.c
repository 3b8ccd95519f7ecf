#include "base/mem.h"
#include "base/utf8.h"
#include "core/tok_impl.h"

#include <string.h>

enum { SLICE = 65536, JIT_STACK = 1 << 20, MAX_KEPT = 1 << 16 };

/* ---- what comes out ---- */

static enum status add_mark(struct tok_stream *s, int64_t id, int64_t raw, struct err *e) {
    enum status st = OK;
    if (s->mark_tail > s->mark_head && s->marks[s->mark_tail - 1].id == id) {
        s->marks[s->mark_tail - 1].raw = raw;
        goto done;
    }
    TRY(mem_grow(&s->marks, &s->marks_cap, s->mark_tail + 1, sizeof *s->marks, e));
    s->marks[s->mark_tail++] = (struct tok_mark){id, raw};
done:
    return st;
}

enum status tok_emit_word(struct tok_stream *s, const int32_t *ids, size_t n, int64_t start,
                          int64_t raw, struct err *e) {
    enum status st = OK;
    TRY(mem_grow(&s->ids, &s->ids_cap, s->out_tail + n, sizeof *s->ids, e));
    if (s->out_end != start) {
        const int64_t id = s->n_taken + (int64_t)(s->out_tail - s->out_head);
        TRY(add_mark(s, id, start + s->t->pieces[ids[0]].n, e));
    }
    if (ids != s->ids + s->out_tail) memcpy(s->ids + s->out_tail, ids, n * sizeof *ids);
    s->out_tail += n;
    s->out_end = raw;
done:
    return st;
}

enum status tok_emit(struct tok_stream *s, int32_t id, int64_t raw, struct err *e) {
    return tok_emit_word(s, &id, 1, raw - s->t->pieces[id].n, raw, e);
}

enum status tok_emit_more(struct tok_stream *s, int64_t raw, struct err *e) {
    enum status st = OK;
    TRY(add_mark(s, s->n_taken + (int64_t)(s->out_tail - s->out_head) - 1, raw, e));
    s->out_end = raw;
done:
    return st;
}

// Moves what is kept to the front once it is less than what was taken: amortized O(1). A buffer
// that one long word blew up is given back.
static void settle_out(struct tok_stream *s) {
    const size_t left = s->out_tail - s->out_head, marks = s->mark_tail - s->mark_head;
    if (left <= s->out_head) {
        memmove(s->ids, s->ids + s->out_head, left * sizeof *s->ids);
        s->out_head = 0;
        s->out_tail = left;
        if (left <= 1 && s->ids_cap > MAX_KEPT) {
            struct err ignored = {0};
            int32_t *small = NULL;
            size_t cap = 0;
            if (mem_grow(&small, &cap, 16, sizeof *small, &ignored) == OK) {
                memcpy(small, s->ids, left * sizeof *small);
                mem_free(s->ids);
                s->ids = small;
                s->ids_cap = cap;
            }
        }
    }
    if (marks == 0 && s->marks_cap > MAX_KEPT) {
        mem_free(s->marks);
        s->marks = NULL;
        s->marks_cap = s->mark_head = s->mark_tail = 0;
    } else if (marks <= s->mark_head && s->mark_head > 0) {
        memmove(s->marks, s->marks + s->mark_head, marks * sizeof *s->marks);
        s->mark_head = 0;
        s->mark_tail = marks;
    }
}

// The last id waits until the next one or the end: only then is it known whether it also covers
// text that yields nothing.
size_t tok_take(struct tok_stream *s, int32_t *ids, int64_t *end_bytes, size_t cap) {
    size_t n = s->out_tail - s->out_head;
    if (!s->finished && n > 0) n--;
    if (n > cap) n = cap;
    if (n == 0) return 0;
    memcpy(ids, s->ids + s->out_head, n * sizeof *ids);
    for (size_t i = 0; i < n; i++) {
        s->taken_end += s->t->pieces[ids[i]].n;
        if (s->mark_head < s->mark_tail && s->marks[s->mark_head].id == s->n_taken) {
            s->taken_end = s->marks[s->mark_head++].raw;
        }
        s->n_taken++;
        if (end_bytes != NULL) end_bytes[i] = s->taken_end;
    }
    s->out_head += n;
    settle_out(s);
    return n;
}

int64_t tok_work(const struct tok_stream *s) {
    return s->work;
}

size_t tok_stream_bytes(const struct tok_stream *s) {
    size_t n =
        sizeof *s + tok_bpe_bytes(&s->bpe) + s->ids_cap * 4 + s->marks_cap * sizeof *s->marks;
    for (size_t i = 0; i < s->n_stages; i++) {
        const struct tok_text *t = &s->stages[i].text;
        n += sizeof s->stages[i] + t->cap + t->runs_cap * sizeof *t->runs;
    }
    return n;
}

/* ---- the chain ---- */

static enum status collect_push(struct tok_stage *g, struct tok_span v, struct err *e) {
    return tok_text_add(g->stream->collect, v, e);
}

static enum status collect_end(struct tok_stage *g, struct err *e) {
    (void)g;
    (void)e;
    return OK;
}

static const struct tok_stage_ops collect_ops = {collect_push, tok_stage_whole, collect_end};

static void add_stage(struct tok_stream *s, const struct tok_stage_ops *ops, const void *conf) {
    s->stages[s->n_stages++] = (struct tok_stage){
        .ops = ops, .conf = conf, .stream = s, .flag = -1, .last_match = SIZE_MAX};
}

static void add_norms(struct tok_stream *s, const struct tok *t) {
    for (size_t i = 0; i < t->json->n_norms; i++) {
        switch (t->json->norms[i].kind) {
        case TOKJSON_NFC:
        case TOKJSON_NFD:
        case TOKJSON_NFKC:
        case TOKJSON_NFKD: add_stage(s, &tok_form_ops, &t->forms[i]); break;
        case TOKJSON_LOWERCASE: add_stage(s, &tok_lower_ops, NULL); break;
        case TOKJSON_PREPEND: add_stage(s, &tok_prefix_ops, &t->prefixes[i]); break;
        case TOKJSON_REPLACE: add_stage(s, &tok_replace_ops, &t->json->norms[i]); break;
        case TOKJSON_CHARSMAP: add_stage(s, &tok_charsmap_ops, &t->charsmap); break;
        case TOKJSON_SQUEEZE: add_stage(s, &tok_squeeze_ops, NULL); break;
        }
    }
}

static void add_splits(struct tok_stream *s, const struct tok *t) {
    static const struct tok_prefix space = {" ", 1, true, false};
    // Behind the normalized added tokens: their texts keep U+2581, as in the file.
    static const struct tokjson_norm bars = {TOKJSON_REPLACE, {"\xE2\x96\x81", 3}, {" ", 1}};
    if (t->json->spaced) add_stage(s, &tok_replace_ops, &bars);
    if (t->space.n > 0) add_stage(s, &tok_prefix_ops, &t->space);
    for (size_t i = 0; i <= t->n_splits; i++) {
        if (t->prefix_space && i == t->prefix_before) add_stage(s, &tok_prefix_ops, &space);
        if (i == t->n_splits) break;
        const struct tok_split *p = &t->splits[i];
        add_stage(s, p->re.code != NULL ? &tok_regex_ops : &tok_class_ops, p);
    }
}

static enum status link_stages(struct tok_stream *s, pcre2_general_context *gc, struct err *e) {
    enum status st = OK;
    for (size_t i = 0; i < s->n_stages; i++) {
        struct tok_stage *g = &s->stages[i];
        g->next = i + 1 < s->n_stages ? g + 1 : NULL;
        if (g->ops != &tok_regex_ops) continue;
        g->match = pcre2_match_data_create(1, gc); // only where the match lies is asked for
        if (g->match == NULL) FAIL(e, E_NOMEM, "out of memory (pattern)");
    }
done:
    return st;
}

static enum status open_pcre(struct tok_stream *s, struct err *e) {
    enum status st = OK;
    pcre2_general_context *gc = tok_pcre_memory();
    if (gc == NULL) FAIL(e, E_NOMEM, "out of memory (pattern)");
    s->match_context = pcre2_match_context_create(gc);
    if (s->match_context == NULL) FAIL(e, E_NOMEM, "out of memory (pattern)");
    // A stretch takes a few steps a byte; what needs more is a pattern that explodes.
    pcre2_set_match_limit(s->match_context, 64u * TOK_MAX_STRETCH);
    pcre2_set_depth_limit(s->match_context, 64u * TOK_MAX_STRETCH);
    pcre2_set_heap_limit(s->match_context, 1u << 20); // KiB
    s->jit_stack = pcre2_jit_stack_create(32768, JIT_STACK, gc);
    if (s->jit_stack != NULL) pcre2_jit_stack_assign(s->match_context, NULL, s->jit_stack);
    TRY(link_stages(s, gc, e));
done:
    pcre2_general_context_free(gc);
    return st;
}

enum status tok_stream_open(struct tok_stream **out, const struct tok *t, struct err *e) {
    enum status st = OK;
    struct tok_stream *s = NULL;
    *out = NULL;
    TRY(mem_zalloc(&s, 1, sizeof *s, e));
    s->t = t;
    TRY(mem_zalloc(&s->stages, t->json->n_norms + t->n_splits + 7, sizeof *s->stages, e));
    if (t->raw_added.n_tokens > 0) add_stage(s, &tok_added_ops, &t->raw_added);
    add_norms(s, t);
    if (t->norm_added.n_tokens > 0) add_stage(s, &tok_added_ops, &t->norm_added);
    add_splits(s, t);
    if (t->drops) add_stage(s, &tok_filter_ops, NULL);
    add_stage(s, t->json->model == TOKJSON_BYTES ? &tok_bpe_ops : &tok_sp_ops, NULL);
    TRY(open_pcre(s, e));
    TRY(tok_bpe_stage_init(&s->bpe, e));
    *out = s;
    s = NULL;
done:
    tok_stream_close(s);
    return st;
}

void tok_stream_close(struct tok_stream *s) {
    if (s == NULL) return;
    for (size_t i = 0; i < s->n_stages; i++) {
        tok_text_fini(&s->stages[i].text);
        pcre2_match_data_free(s->stages[i].match);
    }
    mem_free(s->stages);
    pcre2_match_context_free(s->match_context);
    pcre2_jit_stack_free(s->jit_stack);
    tok_bpe_stage_fini(&s->bpe);
    mem_free(s->ids);
    mem_free(s->marks);
    mem_free(s);
}

void tok_stream_reset(struct tok_stream *s) {
    for (size_t i = 0; i < s->n_stages; i++) {
        struct tok_stage *g = &s->stages[i];
        tok_text_clear(&g->text);
        g->pos = g->look = g->want = 0;
        g->flag = -1;
        g->last_match = SIZE_MAX;
        g->open = g->was_word = g->swallow = g->begun = g->past = false;
    }
    s->out_head = s->out_tail = s->mark_head = s->mark_tail = 0;
    s->n_taken = s->taken_end = s->out_end = 0;
    s->fed = s->work = 0;
    s->n_held = 0;
    s->unk_last = false;
    tok_bpe_stage_reset(&s->bpe);
    s->finished = false;
    s->failed = OK;
}

enum status tok_normalize(const struct tok *t, const char *text, size_t n, struct tok_text *out,
                          struct err *e) {
    enum status st = OK;
    struct tok_stream s = {.t = t, .collect = out};
    TRY(mem_zalloc(&s.stages, t->json->n_norms + 1, sizeof *s.stages, e));
    add_norms(&s, t);
    add_stage(&s, &collect_ops, NULL);
    TRY(link_stages(&s, NULL, e));
    const struct tok_span v = {text, n, (int64_t)n, TOK_LINEAR};
    TRY(s.stages->ops->whole(s.stages, v, e));
done:
    for (size_t i = 0; i < s.n_stages; i++) tok_text_fini(&s.stages[i].text);
    mem_free(s.stages);
    return st;
}

/* ---- what goes in ---- */

static enum status bad_utf8(const struct tok_stream *s, struct err *e) {
    return err_fail(e, E_FORMAT, "byte %lld: not UTF-8", (long long)s->fed);
}

static enum status pass(struct tok_stream *s, const char *bytes, size_t n, struct err *e) {
    s->fed += (int64_t)n;
    const struct tok_span v = {bytes, n, s->fed, TOK_LINEAR};
    return s->stages->ops->push(s->stages, v, e);
}

// Completes the code point that the last feed cut; takes up to 3 bytes.
static enum status pass_held(struct tok_stream *s, const char **bytes, size_t *n, struct err *e) {
    enum status st = OK;
    bool cut = true;
    while (*n > 0 && s->n_held < sizeof s->held && cut) {
        s->held[s->n_held++] = *(*bytes)++;
        (*n)--;
        if (utf8_valid_prefix(s->held, s->n_held, &cut) == s->n_held) {
            const size_t len = s->n_held;
            s->n_held = 0;
            TRY(pass(s, s->held, len, e));
            goto done;
        }
    }
    if (!cut) st = bad_utf8(s, e);
done:
    return st;
}

enum status tok_feed(struct tok_stream *s, const char *bytes, size_t n, struct err *e) {
    enum status st = OK;
    if (s->failed != OK || s->finished) FAIL(e, E_BUG, "tok_feed after the end of a document");
    if (s->n_held > 0) TRY(pass_held(s, &bytes, &n, e));
    while (n > 0) { // in slices, so that a large piece needs no large buffers
        bool cut;
        const size_t want = n < SLICE ? n : SLICE;
        const size_t k = utf8_valid_prefix(bytes, want, &cut);
        if (k > 0) TRY(pass(s, bytes, k, e));
        if (k < want && !cut) {
            st = bad_utf8(s, e);
            goto done;
        }
        bytes += k;
        n -= k;
        if (k < want && n < sizeof s->held) { // nothing but the beginning of a code point is left
            memcpy(s->held, bytes, n);
            s->n_held = n;
            bool whole;
            if (utf8_valid_prefix(bytes, n, &whole) == 0 && whole) break;
            s->n_held = 0;
        }
    }
done:
    if (st != OK && s->failed == OK) s->failed = st;
    return st;
}

enum status tok_finish(struct tok_stream *s, struct err *e) {
    enum status st = OK;
    if (s->failed != OK || s->finished) FAIL(e, E_BUG, "tok_finish after the end of a document");
    if (s->n_held > 0) {
        st = bad_utf8(s, e);
        goto done;
    }
    TRY(s->stages->ops->end(s->stages, e));
    if (s->out_tail > s->out_head && s->out_end != s->fed) {
        TRY(add_mark(s, s->n_taken + (int64_t)(s->out_tail - s->out_head) - 1, s->fed, e));
    }
    s->finished = true;
done:
    if (st != OK && s->failed == OK) s->failed = st;
    return st;
}
