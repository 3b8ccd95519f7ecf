/* The pieces of which lines are made: texts, ids, messages. The line itself is scan_line.c. */
#include "io/scan_impl.h"

#include "base/utf8.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void scan_fini(struct scan *s) {
    if (s == NULL) return;
    sbuf_fini(&s->id);
    sbuf_fini(&s->names);
}

enum status scan_fail(const struct scan *s, int64_t offset, struct err *e, const char *fmt, ...) {
    char what[320], line[32] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    if (s->line_no > 0) snprintf(line, sizeof line, " (line %" PRId64 ")", s->line_no);
    return err_fail(e, E_FORMAT, "%s: byte %" PRId64 "%s: %s", s->source, offset, line, what);
}

enum status scan_space(struct scan *s, int *byte, struct err *e) {
    enum status st = OK;
    *byte = -1;
    for (;;) {
        const char *p;
        size_t n, i = 0;
        TRY(cursor_view(s->cur, &p, &n, e));
        while (i < n && (p[i] == ' ' || p[i] == '\t' || p[i] == '\r')) i++;
        cursor_skip(s->cur, i);
        if (i < n) *byte = (unsigned char)p[i];
        if (i < n || n == 0) break;
    }
done:
    return st;
}

// Length of the maximal subpart of an ill-formed sequence at p[0..n), n > 0: what one U+FFFD stands
// for (Unicode 3.9, D93b; Python's errors="replace" counts the same way).
static size_t bad_length(const char *p, size_t n) {
    for (size_t k = n < 3 ? n : 3; k > 1; k--) {
        bool cut = false;
        if (utf8_valid_prefix(p, k, &cut) == 0 && cut) return k;
    }
    return 1;
}

static int hex4(const char *p) {
    int v = 0;
    for (int i = 0; i < 4; i++) {
        const char c = p[i];
        if (c >= '0' && c <= '9') {
            v = v * 16 + (c - '0');
        } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
            v = v * 16 + ((c | 0x20) - 'a' + 10);
        } else {
            return -1;
        }
    }
    return v;
}

// Decodes the escape p[0..n), p[0] a backslash. Returns its length, 0 with *why when it is not one.
static size_t escape(const char *p, size_t n, bool replace, uint32_t *cp, const char **why) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    *why = "not an escape sequence of JSON";
    if (n < 2) return 0;
    const char *simple = p[1] != '\0' ? strchr(from, p[1]) : NULL;
    if (simple != NULL) {
        *cp = (unsigned char)to[simple - from];
        return 2;
    }
    const int v = p[1] == 'u' && n >= 6 ? hex4(p + 2) : -1;
    if (v < 0) return 0;
    *cp = (uint32_t)v;
    if (v < 0xD800 || v > 0xDFFF) return 6;
    const int low = v < 0xDC00 && n >= 12 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8) : -1;
    if (low >= 0xDC00 && low <= 0xDFFF) {
        *cp = 0x10000u + ((uint32_t)(v - 0xD800) << 10) + (uint32_t)(low - 0xDC00);
        return 12;
    }
    *why = "a surrogate without its other half";
    *cp = 0xFFFD;
    return replace ? 6 : 0;
}

static enum status not_utf8(const struct scan *s, const char *p, size_t n, struct err *e) {
    const unsigned char *u = (const unsigned char *)p;
    const int64_t at = s->cur->pos;
    const bool utf16 = at == 0 && n >= 2 && (u[0] ^ u[1]) == 1 && u[0] >= 0xFE;
    return scan_fail(s, at, e, "not UTF-8 (0x%02x)%s", u[0], utf16 ? "; is this UTF-16?" : "");
}

// What stands at p[0..n) when it is not a run of plain code points: an escape (quoted texts only),
// a control character, or something that is not UTF-8.
static enum status special(struct scan *s, bool quoted, const char *p, size_t n, uint32_t *cp,
                           size_t *length, struct err *e) {
    const unsigned char c = (unsigned char)p[0];
    const char *why = NULL;
    *cp = 0xFFFD;
    if (quoted && c == '\\') {
        *length = escape(p, n, s->replace, cp, &why);
        return *length > 0 ? OK : scan_fail(s, s->cur->pos, e, "%s", why);
    }
    if (quoted && c == '\n') return scan_fail(s, s->cur->pos, e, "the line ends inside a string");
    if (quoted && c < 0x20) {
        return scan_fail(s, s->cur->pos, e, "control character 0x%02x inside a string", c);
    }
    *length = bad_length(p, n);
    return s->replace ? OK : not_utf8(s, p, n, e);
}

static size_t plain_run(const char *p, size_t n) {
    size_t i = 0;
    while (i < n && (unsigned char)p[i] >= 0x20 && p[i] != '"' && p[i] != '\\') i++;
    return i;
}

enum status scan_text(struct scan *s, bool quoted, char *out, size_t cap, size_t *n, bool *done,
                      struct err *e) {
    enum status st = OK;
    *n = 0;
    *done = false;
    for (;;) {
        const char *p;
        size_t left;
        TRY(cursor_view(s->cur, &p, &left, e));
        const size_t room = out != NULL ? cap - *n : SIZE_MAX;
        const size_t most = left < room ? left : room;
        bool cut = false;
        const size_t run = quoted ? plain_run(p, most) : most;
        const size_t good = utf8_valid_prefix(p, run, &cut);
        if (good > 0) {
            if (out != NULL) memcpy(out + *n, p, good);
            *n += good;
            cursor_skip(s->cur, good);
            continue;
        }
        if (left == 0 && quoted) {
            st = scan_fail(s, s->cur->pos, e, "the file ends inside a string");
            goto done;
        }
        if (left == 0 || (quoted && p[0] == '"')) {
            cursor_skip(s->cur, left > 0);
            *done = true;
            break;
        }
        if (room < 4) break; // what comes may need four bytes, or is cut for want of room only
        // A view is never cut inside a code point unless the file ends there.
        uint32_t cp = 0;
        size_t length = 0;
        TRY(special(s, quoted, p, left, &cp, &length, e));
        char bytes[4];
        const size_t k = utf8_encode(cp, bytes);
        if (out != NULL) memcpy(out + *n, bytes, k);
        *n += k;
        cursor_skip(s->cur, length);
    }
done:
    return st;
}

void scan_ids_begin(struct scan *s) {
    s->ids_begun = false;
}

// One id from p[0..n); n shows all of any integer that fits, and the byte behind it.
static enum status one_id(struct scan *s, const char *p, size_t n, int32_t *id, size_t *length,
                          struct err *e) {
    const int64_t at = s->cur->pos;
    int64_t v = 0;
    size_t k = 0;
    if (n > 1 && p[0] == '-' && p[1] >= '0' && p[1] <= '9') {
        return scan_fail(s, at, e, "a negative token id");
    }
    while (k < n && k < 11 && p[k] >= '0' && p[k] <= '9') v = v * 10 + (p[k++] - '0');
    if (k == 0) return scan_fail(s, at, e, "expected a token id, an integer");
    if (k > 1 && p[0] == '0') return scan_fail(s, at, e, "a number that begins with 0");
    if (v > INT32_MAX) return scan_fail(s, at, e, "a token id above %d", INT32_MAX);
    if (k < n && (p[k] == '.' || p[k] == 'e' || p[k] == 'E')) {
        return scan_fail(s, at, e, "a token id that is not an integer");
    }
    *id = (int32_t)v;
    *length = k;
    return OK;
}

enum status scan_ids(struct scan *s, int32_t *out, size_t cap, size_t *n, bool *done,
                     struct err *e) {
    enum status st = OK;
    *n = 0;
    *done = false;
    if (!s->ids_begun) cursor_skip(s->cur, 1);
    for (;;) {
        int c = 0;
        TRY(scan_space(s, &c, e));
        if (c == ']') {
            cursor_skip(s->cur, 1);
            *done = true;
            break;
        }
        if (out != NULL && *n == cap) break;
        if (s->ids_begun) {
            if (c != ',') {
                st = scan_fail(s, s->cur->pos, e,
                               c == '\n' || c < 0 ? "the line ends inside the array of ids"
                                                  : "expected , or ] behind a token id");
                goto done;
            }
            cursor_skip(s->cur, 1);
            TRY(scan_space(s, &c, e));
        }
        const char *p;
        size_t left, length = 0;
        int32_t id = 0;
        TRY(cursor_view(s->cur, &p, &left, e));
        TRY(one_id(s, p, left, &id, &length, e));
        s->ids_begun = true;
        if (out != NULL) out[*n] = id;
        *n += 1;
        cursor_skip(s->cur, length);
    }
done:
    return st;
}

enum status scan_json(struct scan *s, char *out, size_t cap, size_t *n, struct err *e) {
    enum status st = OK;
    *n = 0;
    while (*n < cap && s->cur->pos < s->value_end) {
        const char *p;
        size_t have, left = (size_t)(s->value_end - s->cur->pos);
        TRY(cursor_view(s->cur, &p, &have, e));
        if (have == 0) {
            st = scan_fail(s, s->cur->pos, e, "the file ends inside a value");
            goto done;
        }
        if (left > cap - *n) left = cap - *n;
        if (left > have) left = have;
        memcpy(out + *n, p, left);
        *n += left;
        cursor_skip(s->cur, left);
    }
done:
    return st;
}
