#include "base/utf8.h"

#include <string.h>

static bool is_cont(unsigned char c) {
    return (c & 0xC0) == 0x80;
}

// Length a lead byte announces, and the range its first continuation byte must lie in (Unicode
// table 3-7).
static size_t lead(unsigned char c, unsigned char *lo, unsigned char *hi) {
    *lo = 0x80;
    *hi = 0xBF;
    if (c < 0x80) return 1;
    if (c >= 0xC2 && c <= 0xDF) return 2;
    if (c >= 0xE0 && c <= 0xEF) {
        if (c == 0xE0) *lo = 0xA0;
        if (c == 0xED) *hi = 0x9F;
        return 3;
    }
    if (c >= 0xF0 && c <= 0xF4) {
        if (c == 0xF0) *lo = 0x90;
        if (c == 0xF4) *hi = 0x8F;
        return 4;
    }
    return 0;
}

size_t utf8_decode(const char *s, size_t n, uint32_t *cp) {
    if (n == 0) return 0;
    const unsigned char *u = (const unsigned char *)s;
    unsigned char lo, hi;
    const size_t len = lead(u[0], &lo, &hi);
    if (len == 0 || len > n) return 0;
    if (len == 1) {
        *cp = u[0];
        return 1;
    }
    if (u[1] < lo || u[1] > hi) return 0;
    uint32_t v = u[0] & (0xFFu >> (len + 1));
    for (size_t i = 1; i < len; i++) {
        if (!is_cont(u[i])) return 0;
        v = v << 6 | (u[i] & 0x3Fu);
    }
    *cp = v;
    return len;
}

size_t utf8_encode(uint32_t cp, char out[4]) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

size_t utf8_valid_prefix(const char *s, size_t n, bool *cut) {
    size_t i = 0;
    *cut = false;
    while (i < n) {
        if (i + 8 <= n) { // eight ASCII bytes at a time
            uint64_t w;
            memcpy(&w, s + i, 8);
            if ((w & 0x8080808080808080ull) == 0) {
                i += 8;
                continue;
            }
        }
        uint32_t cp;
        const size_t len = utf8_decode(s + i, n - i, &cp);
        if (len == 0) {
            unsigned char lo, hi;
            const unsigned char *u = (const unsigned char *)s + i;
            const size_t left = n - i, want = lead(u[0], &lo, &hi);
            bool prefix = want > left;
            if (prefix && left > 1) prefix = u[1] >= lo && u[1] <= hi;
            if (prefix && left > 2) prefix = is_cont(u[2]);
            *cut = prefix;
            return i;
        }
        i += len;
    }
    return i;
}

bool utf8_is_space(uint32_t cp) {
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13) || (cp >= 0x1C && cp <= 0x1F);
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

static void count_one(struct utf8_counts *c, uint32_t cp) {
    const bool space = utf8_is_space(cp);
    c->chars++;
    c->space_runs += space && !c->in_space;
    c->in_space = space;
}

void utf8_count(struct utf8_counts *c, const char *s, size_t n) {
    c->bytes += (int64_t)n;
    size_t i = 0;
    while (i < n) {
        uint32_t cp = 0;
        if (c->n_held > 0) { // finish the code point that the last piece cut
            c->held[c->n_held++] = s[i++];
            if (utf8_decode(c->held, (size_t)c->n_held, &cp) == 0 && c->n_held < 4) continue;
            c->n_held = 0;
            count_one(c, cp);
            continue;
        }
        const size_t len = utf8_decode(s + i, n - i, &cp);
        if (len > 0) {
            count_one(c, cp);
            i += len;
        } else {
            bool cut = false;
            utf8_valid_prefix(s + i, n - i, &cut);
            if (cut) {
                c->n_held = (int)(n - i);
                memcpy(c->held, s + i, n - i);
                return;
            }
            count_one(c, 0xFFFD); // callers validate first; a stray byte still counts once
            i++;
        }
    }
}

int64_t utf8_words(const struct utf8_counts *c) {
    return c->space_runs + 1;
}
