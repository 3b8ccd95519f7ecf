/* SentencePiece's normalizer, as stages: a table of replacements, and the removal of spaces. */
#include "base/mem.h"
#include "base/utf8.h"
#include "core/tok_impl.h"

#include <string.h>

/* ---- the table: a double array ---- */

// A unit holds the label of the edge that leads to it and where its own edges begin, or a value.
static uint32_t unit_label(uint32_t unit) {
    return unit & (1u << 31 | 0xFF);
}

static uint32_t unit_offset(uint32_t unit) {
    return unit >> 10 << ((unit & 1u << 9) >> 6);
}

static bool unit_has_value(uint32_t unit) {
    return (unit >> 8 & 1) != 0;
}

// Follows `byte` from *node; false when no key goes on so. *value: of a key that ends here, else -1.
static bool follow(const struct tok_charsmap *c, size_t *node, unsigned char byte, int64_t *value) {
    const size_t at = *node ^ byte;
    *value = -1;
    if (at >= c->n_units || unit_label(c->units[at]) != byte) return false;
    *node = at ^ unit_offset(c->units[at]);
    if (!unit_has_value(c->units[at])) return true;
    if (*node < c->n_units) *value = c->units[*node] & 0x7FFFFFFFu;
    return true;
}

// Whether s[0..n) is the beginning of longer keys can only be told by trying all bytes.
static bool goes_on(const struct tok_charsmap *c, size_t node) {
    for (unsigned b = 1; b < 256; b++) {
        size_t next = node;
        int64_t value;
        if (follow(c, &next, (unsigned char)b, &value)) return true;
    }
    return false;
}

static size_t root_of(const struct tok_charsmap *c) {
    return c->n_units > 0 ? unit_offset(c->units[0]) : 0;
}

static bool is_plain(const struct tok_charsmap *c, unsigned char first) {
    size_t node = root_of(c);
    int64_t value;
    if (c->user->first[first]) return false;
    if (!follow(c, &node, first, &value)) return true;
    if (value >= 0) return false;
    for (unsigned b = 0; b < 128; b++) {
        size_t next = node;
        if (follow(c, &next, (unsigned char)b, &value)) return false;
    }
    return true;
}

enum status tok_charsmap_init(struct tok_charsmap *c, struct tokjson_str table,
                              const struct tok_added *user, struct err *e) {
    enum status st = OK;
    const unsigned char *p = (const unsigned char *)table.s;
    c->user = user;
    if (table.n < 4) FAIL(e, E_FORMAT, "the table of replacements is cut short");
    const size_t bytes = (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
    if (bytes > table.n - 4 || bytes % 4 != 0 || bytes == 0) {
        FAIL(e, E_FORMAT, "the table of replacements has %zu bytes, of which %zu are to be keys",
             table.n, bytes);
    }
    c->n_units = bytes / 4;
    TRY(mem_zalloc(&c->units, c->n_units, sizeof *c->units, e));
    for (size_t i = 0; i < c->n_units; i++) {
        const unsigned char *u = p + 4 + 4 * i;
        c->units[i] =
            (uint32_t)u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
    }
    c->texts = table.s + 4 + bytes;
    c->n_texts = table.n - 4 - bytes;
    if (c->n_texts == 0 || c->texts[c->n_texts - 1] != '\0') {
        FAIL(e, E_FORMAT, "the texts of the table of replacements have no end");
    }
    bool cut;
    if (utf8_valid_prefix(c->texts, c->n_texts, &cut) < c->n_texts) {
        FAIL(e, E_FORMAT, "the texts of the table of replacements are not UTF-8");
    }
    for (unsigned b = 0; b < 128; b++) c->plain[b] = is_plain(c, (unsigned char)b);
done:
    return st;
}

void tok_charsmap_fini(struct tok_charsmap *c) {
    mem_free(c->units);
}

enum found { KEY, CHAR, MORE };

// What stands at s[0..n): *len bytes, to be replaced by *value for a KEY. MORE: not known yet.
static enum found look_up(const struct tok_charsmap *c, const char *s, size_t n, bool last,
                          size_t *len, int64_t *value) {
    size_t node = root_of(c), i = 0;
    enum found found = CHAR;
    int64_t here;
    if (c->user->n_tokens > 0 && c->user->first[(unsigned char)s[0]]) {
        const int32_t hit = tok_added_longest(c->user, s, n, last, len);
        if (hit == TOK_ADDED_MORE) return MORE;
        if (hit >= 0) return CHAR; // it stays as it is
    }
    uint32_t cp;
    *len = utf8_decode(s, n, &cp);
    while (i < n && s[i] != '\0' && follow(c, &node, (unsigned char)s[i], &here)) {
        i++;
        if (here < 0) continue;
        found = KEY;
        *len = i;
        *value = here;
    }
    if (i == n && !last && goes_on(c, node)) return MORE;
    return found;
}

/* ---- the stage ---- */

static enum status replace_key(struct tok_stage *g, size_t from, size_t to, int64_t value,
                               struct err *e) {
    enum status st = OK;
    const struct tok_charsmap *c = g->conf;
    if ((uint64_t)value >= c->n_texts) {
        FAIL(e, E_FORMAT, "the table of replacements points behind its end");
    }
    const char *s = c->texts + value;
    if (((unsigned char)*s & 0xC0) == 0x80) {
        FAIL(e, E_FORMAT, "the table of replacements points into a character");
    }
    // The last text has its NUL too: checked at opening.
    TRY(tok_stage_replace(g, from, to, (struct tokjson_str){s, strlen(s)}, e));
done:
    return st;
}

static enum status charsmap_run(struct tok_stage *g, bool last, struct err *e) {
    enum status st = OK;
    const struct tok_charsmap *c = g->conf;
    const char *s = tok_text_at(&g->text);
    const size_t n = tok_text_n(&g->text);
    size_t from = 0, at = 0;
    g->stream->work += (int64_t)n;
    while (at < n) {
        const unsigned char b = (unsigned char)s[at];
        if (b < 0x80 && c->plain[b] && at + 1 < n && (unsigned char)s[at + 1] < 0x80) {
            at++;
            continue;
        }
        size_t len = 0;
        int64_t value = -1;
        const enum found found = look_up(c, s + at, n - at, last, &len, &value);
        if (found == MORE) break;
        if (found == KEY) {
            TRY(tok_stage_send(g, from, at, e));
            TRY(replace_key(g, at, at + len, value, e));
            from = at + len;
        }
        at += len;
    }
    TRY(tok_stage_send(g, from, at, e));
    tok_text_drop(&g->text, at);
done:
    return st;
}

static enum status charsmap_push(struct tok_stage *g, struct tok_span v, struct err *e) {
    enum status st = OK;
    TRY(tok_text_add(&g->text, v, e));
    TRY(charsmap_run(g, false, e));
done:
    return st;
}

static enum status charsmap_end(struct tok_stage *g, struct err *e) {
    enum status st = OK;
    TRY(charsmap_run(g, true, e));
    TRY(g->next->ops->end(g->next, e));
done:
    return st;
}

const struct tok_stage_ops tok_charsmap_ops = {charsmap_push, tok_stage_whole, charsmap_end};

/* ---- spaces: none at the ends, one in a row. U+2581 goes too at the very end ---- */

static bool is_bar(const char *s, size_t n) {
    return n >= 3 && memcmp(s, "\xE2\x96\x81", 3) == 0;
}

// What was held back because the text might have ended there.
static enum status release(struct tok_stage *g, struct err *e) {
    enum status st = OK;
    const size_t n = tok_text_n(&g->text);
    if (n == 0) goto done;
    TRY(tok_stage_send(g, 0, n, e));
    tok_text_drop(&g->text, n);
done:
    return st;
}

// g->begun: something that is no space has passed; g->was_word: the last character was no space.
static enum status squeeze_push(struct tok_stage *g, struct tok_span v, struct err *e) {
    enum status st = OK;
    g->stream->work += (int64_t)v.n;
    for (size_t i = 0, to; i < v.n; i = to) {
        const bool bar = is_bar(v.s + i, v.n - i);
        to = i + (bar ? 3 : 1);
        if (v.s[i] == ' ' || bar) { // a space behind a space goes, others wait for what follows
            if (bar || g->was_word) TRY(tok_text_add(&g->text, tok_span_cut(v, i, to), e));
            g->was_word = bar;
            continue;
        }
        // As far as single spaces go: whether one is the last can only be told by what follows.
        while (to < v.n && !is_bar(v.s + to, v.n - to)) {
            if (v.s[to] == ' ' &&
                (to + 1 >= v.n || v.s[to + 1] == ' ' || is_bar(v.s + to + 1, v.n - to - 1))) {
                break;
            }
            to++;
        }
        TRY(release(g, e));
        TRY(g->next->ops->push(g->next, tok_span_cut(v, i, to), e));
        g->was_word = true;
    }
done:
    return st;
}

static enum status squeeze_end(struct tok_stage *g, struct err *e) {
    tok_text_drop(&g->text, tok_text_n(&g->text));
    g->was_word = false;
    return g->next->ops->end(g->next, e);
}

const struct tok_stage_ops tok_squeeze_ops = {squeeze_push, tok_stage_whole, squeeze_end};
