#include "cmd/out.h"

#include "cmd/exit.h"
#include "cmd/signals.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HOLD_BYTES = 1 << 16, POLL_MS = 250 };

// Writes all of s. Returns 0 or an errno; ECANCELED when nobody reads and the run is to stop.
static int write_all(int fd, const char *s, size_t n) {
    struct stat info;
    const bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
    while (n > 0) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        if (!regular && poll(&ready, 1, POLL_MS) <= 0) {
            if (cmd_signals_asked(NULL)) return ECANCELED;
            continue;
        }
        // A pipe that is ready takes PIPE_BUF bytes without blocking, but perhaps no more.
        const ssize_t k = write(fd, s, !regular && n > PIPE_BUF ? PIPE_BUF : n);
        if (k < 0 && errno != EINTR && errno != EAGAIN) return errno;
        if (k > 0) {
            s += k;
            n -= (size_t)k;
        }
    }
    return 0;
}

enum status cmd_out_flush(struct cmd_out *o, struct err *e) {
    if (o->gone || o->failed) return err_fail(e, E_CANCEL, "standard output is closed");
    if (sbuf_status(&o->held, e) != OK) return E_NOMEM;
    const int why = write_all(STDOUT_FILENO, o->held.s, o->held.n);
    sbuf_clear(&o->held);
    if (why == 0) return OK;
    o->gone = why == EPIPE || why == ECANCELED;
    if (o->gone) return err_fail(e, E_CANCEL, "standard output is closed");
    o->failed = true;
    struct err said = {.code = OK};
    err_errno(&said, E_IO, why, "cannot write to standard output");
    cmd_say("%s", said.msg);
    return err_fail(e, E_IO, "%s", said.msg);
}

enum status cmd_out_write(void *ctx, const char *bytes, size_t n, struct err *e) {
    struct cmd_out *o = ctx;
    sbuf_add(&o->held, bytes, n);
    if (!o->at_once && !o->held.failed && o->held.n < HOLD_BYTES) return OK;
    return cmd_out_flush(o, e);
}

int cmd_out_end(struct cmd_out *o, int code) {
    struct err e = {.code = OK};
    if (!o->gone && !o->failed && cmd_out_flush(o, &e) != OK && e.code == E_NOMEM) {
        code = cmd_fail(&e, CMD_FROM_OPTIONS);
    }
    sbuf_fini(&o->held);
    if (o->failed) return CMD_EXIT_IO;
    // Told to stop while nobody reads is still "stopped"; a reader that left has what it wanted.
    if (o->gone) return cmd_signals_asked(NULL) ? CMD_EXIT_STOPPED : CMD_EXIT_OK;
    return code;
}

int cmd_out_text(struct sbuf *b) {
    struct cmd_out o = {.held = *b};
    sbuf_init(b);
    return cmd_out_end(&o, CMD_EXIT_OK);
}

void cmd_out_printable(struct sbuf *b, const char *s) {
    for (; *s != '\0'; s++) {
        const unsigned char c = (unsigned char)s[0], next = (unsigned char)s[1];
        if (c == 0xC2 && next >= 0x80 && next < 0xA0) { // U+0080..U+009F
            sbuf_putc(b, '?');
            s++;
        } else {
            sbuf_putc(b, c < 0x20 || c == 0x7F ? '?' : (char)c);
        }
    }
}

void cmd_say_raw(const char *text) {
    (void)!write_all(STDERR_FILENO, text, strlen(text)); // there is nobody left to tell
}

void cmd_say(const char *fmt, ...) {
    char text[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    struct sbuf b;
    sbuf_init(&b);
    sbuf_puts(&b, "basin: ");
    cmd_out_printable(&b, text);
    sbuf_putc(&b, '\n');
    cmd_say_raw(sbuf_str(&b));
    sbuf_fini(&b);
}

void cmd_say_about(const char *id, const char *source, const char *message) {
    const size_t n = strlen(source);
    const bool placed = strncmp(message, source, n) == 0 && message[n] == ':';
    if (placed || id == NULL) {
        cmd_say("%s", message);
    } else {
        cmd_say("%s: %s", id, message);
    }
}
