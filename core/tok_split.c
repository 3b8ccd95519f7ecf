/* Pre-tokenizers: a piece is cut into parts that are matches and parts between them; what becomes
 * of two neighbouring parts depends only on which of them are matches. */
#include "base/mem.h"
#include "base/utf8.h"
#include "core/tok_impl.h"

#include <string.h>

enum { WINDOW = 4096 };

static bool border(enum tokjson_behavior b, bool before, bool after) {
    switch (b) {
    case TOKJSON_CONTIGUOUS: return before != after;
    case TOKJSON_MERGED_WITH_PREVIOUS: return before || !after;
    case TOKJSON_MERGED_WITH_NEXT: return !before || after;
    case TOKJSON_ISOLATED:
    case TOKJSON_REMOVED: break;
    }
    return true;
}

// A part begins. Whether it is a match decides about a border before it.
static enum status part_begin(struct tok_stage *g, bool match, struct err *e) {
    enum status st = OK;
    const struct tok_split *p = g->conf;
    if (g->flag >= 0 && border(p->behavior, g->flag, match)) TRY(g->next->ops->end(g->next, e));
    g->flag = match;
    g->open = true;
done:
    return st;
}

static enum status part_send(struct tok_stage *g, size_t from, size_t to, struct err *e) {
    enum status st = OK;
    const struct tok_split *p = g->conf;
    if (from == to || (p->behavior == TOKJSON_REMOVED && g->flag == 1)) goto done;
    TRY(tok_stage_send(g, from, to, e));
done:
    return st;
}

// With behaviors that always put a border there the next stage hears of it at once.
static enum status part_end(struct tok_stage *g, struct err *e) {
    enum status st = OK;
    const struct tok_split *p = g->conf;
    g->open = false;
    if (p->behavior == TOKJSON_ISOLATED || p->behavior == TOKJSON_REMOVED) {
        TRY(g->next->ops->end(g->next, e));
        g->flag = -1;
    }
done:
    return st;
}

static enum status piece_end(struct tok_stage *g, struct err *e) {
    enum status st = OK;
    TRY(g->next->ops->end(g->next, e));
    g->flag = -1;
    g->open = false;
    g->pos = g->look = g->want = 0;
    g->last_match = SIZE_MAX;
    g->text.head = g->text.tail;
    tok_text_clear(&g->text);
done:
    return st;
}

/* ---- classes of characters ---- */

void tok_class_init(struct tok_split *p) {
    for (int b = 0; b < 256; b++) {
        p->quick[b] = -1;
        if (p->bytes)
            p->quick[b] = (int8_t)tok_class_of(p->cls, tok_byte_char((unsigned char)b));
        else if (b < 0x80)
            p->quick[b] = (int8_t)tok_class_of(p->cls, (uint32_t)b);
    }
}

// The class of the character at s[i], its length in *len.
static int class_at(const struct tok_split *p, const char *s, size_t n, size_t i, size_t *len) {
    const int quick = p->quick[(unsigned char)s[i]];
    *len = 1;
    if (quick >= 0) return quick;
    uint32_t cp = 0;
    *len = utf8_decode(s + i, n - i, &cp);
    return tok_class_of(p->cls, cp);
}

// Whitespace keeps runs of word characters (1) and of others (2); white space (0) goes.
static enum status class_run(struct tok_stage *g, int cls, struct tok_span v, struct err *e) {
    enum status st = OK;
    const struct tok_split *p = g->conf;
    if (p->cls == TOK_CLASS_WORD) {
        if (g->flag >= 0 && g->flag != cls) TRY(g->next->ops->end(g->next, e));
        g->flag = cls;
        if (cls == 0) goto done;
    } else {
        // A match is one character, what lies between is one part however it arrives.
        if (cls == 1 || g->flag != 0) TRY(part_begin(g, cls == 1, e));
        if (p->behavior == TOKJSON_REMOVED && cls == 1) goto done;
    }
    TRY(g->next->ops->push(g->next, v, e));
done:
    return st;
}

static enum status class_push(struct tok_stage *g, struct tok_span v, struct err *e) {
    enum status st = OK;
    const struct tok_split *p = g->conf;
    const bool each = p->cls != TOK_CLASS_WORD && p->behavior != TOKJSON_CONTIGUOUS;
    size_t len;
    g->stream->work += (int64_t)v.n;
    for (size_t i = 0, to; i < v.n; i = to) {
        const int cls = class_at(p, v.s, v.n, i, &len);
        to = i + len;
        while (to < v.n && !(each && cls == 1) && class_at(p, v.s, v.n, to, &len) == cls) to += len;
        TRY(class_run(g, cls, tok_span_cut(v, i, to), e));
    }
done:
    return st;
}

// A word without a match, as most are, goes on as it is.
static enum status class_whole(struct tok_stage *g, struct tok_span v, struct err *e) {
    const struct tok_split *p = g->conf;
    bool one_part = p->cls != TOK_CLASS_WORD && g->flag < 0 && v.n > 0;
    for (size_t i = 0, len; i < v.n && one_part; i += len) {
        one_part = class_at(p, v.s, v.n, i, &len) == 0;
    }
    if (!one_part) return tok_stage_whole(g, v, e);
    g->stream->work += (int64_t)v.n;
    return g->next->ops->whole(g->next, v, e);
}

const struct tok_stage_ops tok_class_ops = {class_push, class_whole, piece_end};

/* ---- patterns ---- */

static enum status match_failed(struct tok_stage *g, int rc, struct err *e) {
    if (rc == PCRE2_ERROR_NOMEMORY) return err_fail(e, E_NOMEM, "out of memory (pattern)");
    char why[100];
    bool exact;
    pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
    return err_fail(e, E_UNSUPPORTED, "byte %lld: the tokenizer's pattern gave up: %s",
                    (long long)tok_text_raw(&g->text, g->look, &exact), why);
}

static int try_match(struct tok_stage *g, bool last) {
    const struct tok_split *p = g->conf;
    const uint32_t options = last ? 0 : PCRE2_PARTIAL_HARD;
    const PCRE2_SPTR s = (PCRE2_SPTR)tok_text_at(&g->text);
    const size_t n = tok_text_n(&g->text);
    pcre2_match_context *context = g->stream->match_context;
    if (p->re
            .jit) { // straight to it: pcre2_match's own checks cost as much as a short word's match
        const int rc = pcre2_jit_match(p->re.code, s, n, g->look, options, g->match, context);
        if (rc != PCRE2_ERROR_JIT_STACKLIMIT) return rc;
    }
    return pcre2_match(p->re.code, s, n, g->look, options | PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                       g->match, context);
}

// Text up to `to` matches nothing; the part it belongs to may go on.
static enum status gap(struct tok_stage *g, size_t to, struct err *e) {
    enum status st = OK;
    const struct tok_split *p = g->conf;
    if (to == g->pos) goto done;
    if (!g->open) TRY(part_begin(g, p->invert, e));
    TRY(part_send(g, g->pos, to, e));
    g->pos = to;
done:
    return st;
}

static enum status one_match(struct tok_stage *g, size_t from, size_t to, struct err *e) {
    enum status st = OK;
    const struct tok_split *p = g->conf;
    TRY(gap(g, from, e));
    if (g->open) TRY(part_end(g, e));
    TRY(part_begin(g, !p->invert, e));
    g->pos = to;
    if (p->behavior == TOKJSON_ISOLATED && to > from) {
        const struct tok_span v = tok_text_span(&g->text, from, to);
        if (v.n == to - from) { // the common case: one word, in one stroke
            g->open = false;
            g->flag = -1;
            st = g->next->ops->whole(g->next, v, e);
            goto done;
        }
    }
    TRY(part_send(g, from, to, e));
    TRY(part_end(g, e));
done:
    return st;
}

// Drops what has been passed on, but for what a match may look back at.
static void forget(struct tok_stage *g) {
    const struct tok_split *p = g->conf;
    const char *s = tok_text_at(&g->text);
    size_t keep = g->pos < g->look ? g->pos : g->look;
    for (size_t i = 0; i < p->re.look_behind && keep > 0; i++) {
        keep--;
        while (keep > 0 && ((unsigned char)s[keep] & 0xC0) == 0x80) keep--;
    }
    tok_text_drop(&g->text, keep);
    g->pos -= keep;
    g->look -= keep;
    if (g->last_match != SIZE_MAX)
        g->last_match = g->last_match >= keep ? g->last_match - keep : SIZE_MAX;
}

static enum status regex_run(struct tok_stage *g, bool last, struct err *e) {
    enum status st = OK;
    const struct tok_split *p = g->conf;
    const size_t n = tok_text_n(&g->text);
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(g->match);
    while (g->look < n && (last || n - g->look >= g->want)) {
        const int rc = try_match(g, last);
        if (rc == PCRE2_ERROR_NOMATCH) { // no match begins in what is here, whatever follows
            g->stream->work += (int64_t)(n - g->look);
            TRY(gap(g, n, e));
            g->look = n;
            g->want = WINDOW;
        } else if (rc == PCRE2_ERROR_PARTIAL) { // one may begin at at[0]; then twice as much is
            g->stream->work += (int64_t)(n - g->look); // needed, so that retries stay linear
            TRY(gap(g, at[0], e));
            g->look = at[0];
            g->want = 2 * (n - at[0]) > WINDOW ? 2 * (n - at[0]) : WINDOW;
            break;
        } else if (rc < 0) {
            st = match_failed(g, rc, e);
            goto done;
        } else if (at[0] == at[1] && at[1] == g->last_match) { // empty, right behind the last one
            uint32_t cp;
            const size_t len =
                p->bytes ? 1 : utf8_decode(tok_text_at(&g->text) + g->look, n - g->look, &cp);
            g->look += len > 0 ? len : 1;
        } else {
            g->stream->work += (int64_t)(at[1] - g->look);
            g->want = 0;
            const size_t to = at[1];
            TRY(one_match(g, at[0], to, e));
            g->look = g->last_match = to;
        }
    }
    forget(g);
    if (n - g->look > TOK_MAX_STRETCH) {
        bool unused;
        st = tok_too_long(tok_text_raw(&g->text, g->look, &unused), e);
    }
done:
    return st;
}

static enum status regex_push(struct tok_stage *g, struct tok_span v, struct err *e) {
    enum status st = OK;
    TRY(tok_text_add(&g->text, v, e));
    if (g->want == 0) g->want = WINDOW;
    if (tok_text_n(&g->text) - g->look >= g->want) TRY(regex_run(g, false, e));
done:
    return st;
}

static bool match_can_begin(const struct tok_begin *begins, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const unsigned char a = (unsigned char)s[i];
        if (a >= 0x80) return true;
        if (!begins[a].alone) continue;
        if (i + 1 == n || (s[i + 1] & 0x80) != 0 || begins[a].before[(unsigned char)s[i + 1]]) {
            return true;
        }
    }
    return false;
}

// A piece in which no match can begin is one part, and that the last: it goes on as it is.
static enum status regex_whole(struct tok_stage *g, struct tok_span v, struct err *e) {
    const struct tok_split *p = g->conf;
    const bool fresh =
        p->behavior == TOKJSON_ISOLATED && !p->invert && g->flag < 0 && tok_text_n(&g->text) == 0;
    if (fresh && p->re.begins != NULL && !match_can_begin(p->re.begins, v.s, v.n)) {
        return g->next->ops->whole(g->next, v, e);
    }
    return tok_stage_whole(g, v, e);
}

static enum status regex_end(struct tok_stage *g, struct err *e) {
    enum status st = OK;
    TRY(regex_run(g, true, e));
    TRY(gap(g, tok_text_n(&g->text), e));
    TRY(piece_end(g, e));
done:
    return st;
}

const struct tok_stage_ops tok_regex_ops = {regex_push, regex_whole, regex_end};
