#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void format_message(struct err *e, enum status code, const char *fmt, va_list ap) {
    e->code = code;
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
}

enum status err_fail(struct err *e, enum status code, const char *fmt, ...) {
    if (e != NULL && e->code == OK) {
        va_list ap;
        va_start(ap, fmt);
        format_message(e, code, fmt, ap);
        va_end(ap);
    }
    return code;
}

enum status err_errno(struct err *e, enum status code, int errno_value, const char *fmt, ...) {
    if (e != NULL && e->code == OK) {
        va_list ap;
        va_start(ap, fmt);
        format_message(e, code, fmt, ap);
        va_end(ap);
        char text[128];
        const char *why = strerror_r(errno_value, text, sizeof text); // the GNU form
        const size_t n = strlen(e->msg);
        snprintf(e->msg + n, sizeof e->msg - n, ": %s", why);
    }
    return code;
}

void err_prefix(struct err *e, const char *fmt, ...) {
    if (e == NULL || e->code == OK) return;
    char old[sizeof e->msg];
    memcpy(old, e->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof e->msg) {
        snprintf(e->msg + n, sizeof e->msg - (size_t)n, "%s", old);
    }
}

const char *err_name(enum status code) {
    switch (code) {
    case OK: return "ok";
    case E_ARG: return "argument";
    case E_NOMEM: return "memory";
    case E_IO: return "io";
    case E_NOINPUT: return "input";
    case E_OUTPUT: return "output";
    case E_FORMAT: return "format";
    case E_UNSUPPORTED: return "unsupported";
    case E_DEVICE: return "device";
    case E_BUSY: return "busy";
    case E_CANCEL: return "cancelled";
    case E_BUG: return "bug";
    }
    return "unknown";
}

void err_check_failed(const char *cond, const char *file, int line) {
    fprintf(stderr, "basin: internal error: %s is false at %s:%d\n", cond, file, line);
    abort();
}
