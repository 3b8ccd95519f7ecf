#include "base/sbuf.h"

#include "base/mem.h"
#include "base/num.h"
#include "base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void sbuf_init(struct sbuf *b) {
    memset(b, 0, sizeof *b);
}

void sbuf_fini(struct sbuf *b) {
    if (b == NULL) return;
    mem_free(b->s);
    sbuf_init(b);
}

void sbuf_clear(struct sbuf *b) {
    b->n = 0;
    if (b->s != NULL) b->s[0] = '\0';
}

static bool reserve(struct sbuf *b, size_t extra) {
    if (b->failed || extra > SIZE_MAX - b->n - 1 ||
        mem_grow(&b->s, &b->cap, b->n + extra + 1, 1, NULL) != OK) {
        b->failed = true;
    }
    return !b->failed;
}

void sbuf_add(struct sbuf *b, const void *bytes, size_t n) {
    if (n == 0 || !reserve(b, n)) return;
    memcpy(b->s + b->n, bytes, n);
    b->n += n;
    b->s[b->n] = '\0';
}

void sbuf_puts(struct sbuf *b, const char *s) {
    sbuf_add(b, s, strlen(s));
}

void sbuf_putc(struct sbuf *b, char c) {
    sbuf_add(b, &c, 1);
}

void sbuf_printf(struct sbuf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 || !reserve(b, (size_t)n)) return;
    va_start(ap, fmt);
    vsnprintf(b->s + b->n, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->n += (size_t)n;
}

void sbuf_json_string(struct sbuf *b, const char *s, size_t n) {
    sbuf_putc(b, '"');
    size_t i = 0;
    while (i < n) {
        const unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            size_t j = i + 1; // a run of plain ASCII in one copy
            while (j < n && (unsigned char)s[j] >= 0x20 && (unsigned char)s[j] < 0x80 &&
                   s[j] != '"' && s[j] != '\\') {
                j++;
            }
            sbuf_add(b, s + i, j - i);
            i = j;
        } else if (c >= 0x80) {
            uint32_t cp = 0;
            const size_t len = utf8_decode(s + i, n - i, &cp);
            if (len == 0) {
                sbuf_puts(b, "\xef\xbf\xbd");
                i++;
            } else {
                sbuf_add(b, s + i, len);
                i += len;
            }
        } else {
            switch (c) {
            case '"': sbuf_puts(b, "\\\""); break;
            case '\\': sbuf_puts(b, "\\\\"); break;
            case '\n': sbuf_puts(b, "\\n"); break;
            case '\r': sbuf_puts(b, "\\r"); break;
            case '\t': sbuf_puts(b, "\\t"); break;
            default: sbuf_printf(b, "\\u%04x", c);
            }
            i++;
        }
    }
    sbuf_putc(b, '"');
}

void sbuf_json_double(struct sbuf *b, double x) {
    char text[NUM_TEXT];
    sbuf_puts(b, num_shortest(x, text) ? text : "null");
}

const char *sbuf_str(struct sbuf *b) {
    if (b->s == NULL) return "";
    b->s[b->n] = '\0';
    return b->s;
}

enum status sbuf_status(const struct sbuf *b, struct err *e) {
    return b->failed ? err_fail(e, E_NOMEM, "out of memory for a text of %zu bytes", b->n) : OK;
}
