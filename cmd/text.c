#include "cmd/text.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void cmd_text_count(struct sbuf *b, int64_t n) {
    char digits[24];
    const int len =
        snprintf(digits, sizeof digits, "%" PRIu64, n < 0 ? 0 - (uint64_t)n : (uint64_t)n);
    if (n < 0) sbuf_putc(b, '-');
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0) sbuf_putc(b, ',');
        sbuf_putc(b, digits[i]);
    }
}

void cmd_text_bytes(struct sbuf *b, int64_t n) {
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
    if (n < 1024) {
        sbuf_printf(b, "%" PRId64 " bytes", n);
        return;
    }
    double v = (double)n / 1024;
    size_t u = 0;
    for (; v >= 1023.95 && u + 1 < COUNTOF(units); u++) v /= 1024;
    sbuf_printf(b, "%.1f %s", v, units[u]);
}

void cmd_text_seconds(struct sbuf *b, double s) {
    if (!(s >= 0) || s > 1e12) {
        sbuf_puts(b, "?");
    } else if (s < 59.95) {
        sbuf_printf(b, s < 1 ? "%.2f s" : "%.1f s", s);
    } else {
        const int64_t t = (int64_t)(s + 0.5), day = t / 86400;
        const int hour = (int)(t / 3600 % 24), minute = (int)(t / 60 % 60), second = (int)(t % 60);
        if (day > 0) sbuf_printf(b, "%" PRId64 "d ", day);
        if (day > 0 || hour > 0) {
            sbuf_printf(b, "%d:%02d:%02d", hour, minute, second);
        } else {
            sbuf_printf(b, "%d:%02d", minute, second);
        }
    }
}

void cmd_text_plural(struct sbuf *b, int64_t n, const char *noun) {
    cmd_text_count(b, n);
    sbuf_printf(b, " %s%s", noun, n == 1 ? "" : "s");
}

void cmd_text_shell(struct sbuf *b, const char *s) {
    static const char *const plain =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
        "_./-=,+@%:";
    if (*s != '\0' && s[strspn(s, plain)] == '\0') {
        sbuf_puts(b, s);
        return;
    }
    sbuf_putc(b, '\'');
    for (; *s != '\0'; s++) {
        if (*s == '\'') {
            sbuf_puts(b, "'\\''");
        } else {
            sbuf_putc(b, *s);
        }
    }
    sbuf_putc(b, '\'');
}

void cmd_text_key(struct sbuf *b, const char *name) {
    if (b->n > 0 && b->s[b->n - 1] != '{') sbuf_putc(b, ',');
    sbuf_printf(b, "\"%s\":", name);
}

void cmd_text_json_int(struct sbuf *b, const char *name, int64_t v) {
    cmd_text_key(b, name);
    sbuf_printf(b, "%" PRId64, v);
}

void cmd_text_json_num(struct sbuf *b, const char *name, double v) {
    cmd_text_key(b, name);
    sbuf_json_double(b, v);
}

void cmd_text_json_str(struct sbuf *b, const char *name, const char *v) {
    cmd_text_key(b, name);
    if (v == NULL) {
        sbuf_puts(b, "null");
    } else {
        sbuf_json_string(b, v, strlen(v));
    }
}

void cmd_text_json_bool(struct sbuf *b, const char *name, bool v) {
    cmd_text_key(b, name);
    sbuf_puts(b, v ? "true" : "false");
}

/* ---- tables ---- */

void cmd_table_cell(struct cmd_table *t, const char *text) {
    sbuf_add(&t->cells, text, strlen(text) + 1);
}

// Characters, not bytes: names of settings need not be ASCII.
static int width_of(const char *s) {
    int n = 0;
    for (; *s != '\0'; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

void cmd_table_print(struct cmd_table *t, struct sbuf *out) {
    int width[CMD_TABLE_COLUMNS] = {0}, col = 0;
    out->failed = out->failed || t->cells.failed;
    for (size_t at = 0; at < t->cells.n; at += strlen(t->cells.s + at) + 1) {
        const int w = width_of(t->cells.s + at);
        if (w > width[col]) width[col] = w;
        col = (col + 1) % t->n_col;
    }
    col = 0;
    for (size_t at = 0; at < t->cells.n; at += strlen(t->cells.s + at) + 1) {
        const char *cell = t->cells.s + at;
        const int pad = width[col] - width_of(cell);
        if (col > 0) sbuf_printf(out, "  %*s", pad, "");
        sbuf_puts(out, cell);
        if (col == 0 && t->n_col > 1) sbuf_printf(out, "%*s", pad, "");
        col = (col + 1) % t->n_col;
        if (col == 0) sbuf_putc(out, '\n');
    }
    sbuf_fini(&t->cells);
}
