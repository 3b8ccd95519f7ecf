#include "jobs/gen_text.h"

#include "base/utf8.h"

#include <string.h>

// Appends s[0..n) to out, each maximal ill-formed sequence as U+FFFD. What is cut short at the end is
// left unless `last`. Returns the bytes taken.
static size_t let_go(const char *s, size_t n, bool last, struct sbuf *out) {
    static const char replacement[] = "\xef\xbf\xbd";
    size_t at = 0;
    while (at < n) {
        bool cut = false;
        const size_t good = utf8_valid_prefix(s + at, n - at, &cut);
        sbuf_add(out, s + at, good);
        at += good;
        if (at == n || (cut && !last)) break;
        size_t bad = cut ? n - at : 1; // a sequence that breaks off is one mistake
        for (size_t k = n - at < 3 ? n - at : 3; !cut && k > 1; k--) {
            bool open = false;
            if (utf8_valid_prefix(s + at, k, &open) == 0 && open) {
                bad = k;
                break;
            }
        }
        sbuf_puts(out, replacement);
        at += bad;
    }
    return at;
}

static void drop_front(struct sbuf *b, size_t n) {
    memmove(b->s, b->s + n, b->n - n);
    b->n -= n;
}

// Where the first stop string begins that lies in the tail; its length when there is none.
static size_t find_stop(const struct sbuf *tail, const struct gen_stops *stops) {
    size_t first = tail->n;
    for (size_t i = 0; i < stops->n; i++) {
        const char *s = stops->s[i];
        const char *at = tail->n > 0 ? memmem(tail->s, tail->n, s, strlen(s)) : NULL;
        if (at != NULL && (size_t)(at - tail->s) < first) first = (size_t)(at - tail->s);
    }
    return first;
}

// How many bytes at the end may be the beginning of a stop string.
static size_t may_begin(const struct sbuf *tail, const struct gen_stops *stops) {
    size_t most = 0;
    for (size_t i = 0; i < stops->n; i++) {
        const char *s = stops->s[i];
        size_t k = strlen(s) - 1;
        if (k > tail->n) k = tail->n;
        while (k > most && memcmp(tail->s + tail->n - k, s, k) != 0) k--;
        if (k > most) most = k;
    }
    return most;
}

enum status gen_text_add(struct gen_text *t, const struct tok *tok, int32_t id,
                         const struct gen_stops *stops, struct sbuf *out, bool *stopped,
                         struct err *e) {
    enum status st = OK;
    size_t n = 0, held = 0;
    *stopped = false;
    const char *piece = tok_is_special(tok, id) ? NULL : tok_borrow_piece(tok, id, &n);
    if (piece != NULL) sbuf_add(&t->tail, piece, n);
    TRY(sbuf_status(&t->tail, e));
    if (stops != NULL) {
        const size_t at = find_stop(&t->tail, stops);
        *stopped = at < t->tail.n;
        if (*stopped) t->tail.n = at;
        if (!*stopped) held = may_begin(&t->tail, stops);
    }
    if (t->tail.n > held) {
        drop_front(&t->tail, let_go(t->tail.s, t->tail.n - held, *stopped, out));
    }
    TRY(sbuf_status(out, e));
done:
    return st;
}

enum status gen_text_end(struct gen_text *t, struct sbuf *out, struct err *e) {
    if (t->tail.n > 0) let_go(t->tail.s, t->tail.n, true, out);
    sbuf_clear(&t->tail);
    return sbuf_status(out, e);
}
