#include "cmd/progress.h"

#include "base/clock.h"
#include "cmd/signals.h"
#include "cmd/text.h"

#include <math.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { BAR_CELLS = 24, LEAST_COLUMNS = 20 };

void cmd_progress_init(struct cmd_progress *p, const struct cmd_env *env, bool quiet,
                       struct cmd_out *events) {
    const bool terminal = isatty(STDERR_FILENO) == 1 && !env->dumb_terminal;
    *p = (struct cmd_progress){
        .kind = events != NULL ? CMD_PROGRESS_JSON
                : quiet        ? CMD_PROGRESS_NONE
                : terminal     ? CMD_PROGRESS_BAR
                               : CMD_PROGRESS_LINES,
        .quiet = quiet || events != NULL,
        .color = terminal && !env->no_color,
        .events = events,
        .begun_ns = clock_ns(),
        .shown_ns = events != NULL ? INT64_MIN / 2 : clock_ns(), // the first event comes at once
    };
}

void cmd_progress_fini(struct cmd_progress *p) {
    cmd_progress_clear(p);
    sbuf_fini(&p->text);
}

void cmd_progress_clear(struct cmd_progress *p) {
    if (p->drawn) cmd_say_raw("\r\x1b[K");
    p->drawn = false;
}

/* ---- what there is to say ---- */

// Of the bytes this run was given, what it had not found done already.
static double share_done(const struct cmd_progress *p) {
    const struct run_progress *l = &p->last;
    return l->bytes_total > 0 ? (double)l->bytes_done / (double)l->bytes_total : NAN;
}

// Seconds to go, from this run's own pace: bytes that an earlier run had done took no time.
static double seconds_left(const struct cmd_progress *p) {
    const struct run_progress *l = &p->last;
    const double done = (double)(l->bytes_done - p->first.bytes_done);
    const double took = l->seconds - p->first.seconds;
    if (l->bytes_total < 0 || done <= 0 || took <= 0) return NAN;
    return took / done * (double)(l->bytes_total - l->bytes_done);
}

static double tokens_per_second(const struct cmd_progress *p) {
    return p->last.seconds > 0 ? (double)p->last.tokens / p->last.seconds : NAN;
}

static double running_nll(const struct cmd_progress *p) {
    return p->last.num_scored > 0 ? -p->last.sum_logprob / (double)p->last.num_scored : NAN;
}

static void put_facts(struct cmd_progress *p) {
    struct sbuf *b = &p->text;
    const struct run_progress *l = &p->last;
    cmd_text_plural(b, l->documents, "document");
    if (l->failed > 0) {
        sbuf_puts(b, p->color ? ", \x1b[31m" : ", ");
        cmd_text_count(b, l->failed);
        sbuf_puts(b, p->color ? " failed\x1b[0m" : " failed");
    }
    const double pace = tokens_per_second(p), nll = running_nll(p), left = seconds_left(p);
    sbuf_puts(b, ", ");
    cmd_text_plural(b, l->tokens, "token");
    if (isfinite(pace)) {
        sbuf_puts(b, " (");
        cmd_text_count(b, (int64_t)(pace + 0.5));
        sbuf_puts(b, "/s)");
    }
    if (isfinite(nll)) sbuf_printf(b, ", nll %.4f", nll);
    if (isfinite(left)) {
        sbuf_puts(b, ", ETA ");
        cmd_text_seconds(b, left);
    }
}

/* ---- the three ways to say it ---- */

static void put_event(struct cmd_progress *p, const char *json, size_t n) {
    // A reader of events that has gone is no reason to stop computing.
    if (p->events->gone || p->events->failed) return;
    if (cmd_out_write(p->events, json, n, NULL) != OK) return;
    if (cmd_out_write(p->events, "\n", 1, NULL) != OK) return;
    (void)!cmd_out_flush(p->events, NULL);
}

static void send_progress(struct cmd_progress *p) {
    struct sbuf *b = &p->text;
    const struct run_progress *l = &p->last;
    sbuf_clear(b);
    sbuf_puts(b, "{");
    cmd_text_json_str(b, "event", "progress");
    cmd_text_json_int(b, "documents", l->documents);
    cmd_text_json_int(b, "failed", l->failed);
    cmd_text_json_int(b, "tokens", l->tokens);
    cmd_text_json_num(b, "tokens_per_second", tokens_per_second(p));
    cmd_text_json_num(b, "nll", running_nll(p));
    cmd_text_json_int(b, "bytes_done", l->bytes_done);
    cmd_text_key(b, "bytes_total");
    if (l->bytes_total < 0) {
        sbuf_puts(b, "null");
    } else {
        sbuf_printf(b, "%lld", (long long)l->bytes_total);
    }
    cmd_text_json_int(b, "parts_done", l->parts_done);
    cmd_text_json_int(b, "parts", l->parts);
    cmd_text_json_num(b, "seconds", l->seconds);
    cmd_text_json_num(b, "eta_seconds", seconds_left(p));
    sbuf_puts(b, "}");
    put_event(p, sbuf_str(b), b->n);
}

static void say_line(struct cmd_progress *p) {
    struct sbuf *b = &p->text;
    const double share = share_done(p);
    sbuf_clear(b);
    if (isfinite(share)) sbuf_printf(b, "%.0f%%, ", 100 * share);
    put_facts(p);
    cmd_say("%s", sbuf_str(b));
}

// Cuts the text to `columns` characters; colours take none.
static void cut_to(struct sbuf *b, int columns) {
    size_t i = 0;
    for (int width = 0; i < b->n; i++) {
        if (b->s[i] == '\x1b') {
            while (i < b->n && b->s[i] != 'm') i++;
        } else if (((unsigned char)b->s[i] & 0xC0) != 0x80 && ++width > columns) {
            break;
        }
    }
    b->n = i;
}

static void draw_bar(struct cmd_progress *p) {
    struct sbuf *b = &p->text;
    struct winsize size = {.ws_col = 0};
    const double share = share_done(p);
    const bool sized = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0;
    const int columns = sized && size.ws_col >= LEAST_COLUMNS ? size.ws_col : 80;
    sbuf_clear(b);
    if (isfinite(share)) {
        const int full = (int)(share * BAR_CELLS);
        sbuf_printf(b, "%3.0f%% ", 100 * share);
        if (columns >= 80) {
            sbuf_putc(b, '[');
            for (int i = 0; i < BAR_CELLS; i++) sbuf_putc(b, i < full ? '#' : '.');
            sbuf_puts(b, "] ");
        }
    }
    put_facts(p);
    cut_to(b, columns - 1); // a full last column would wrap and leave the line behind
    // A terminal that is held (Ctrl-S) must not hold the run.
    struct pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&ready, 1, 0) <= 0) return;
    struct sbuf line;
    sbuf_init(&line);
    sbuf_putc(&line, '\r');
    sbuf_add(&line, b->s, b->n);
    sbuf_puts(&line, p->color ? "\x1b[0m\x1b[K" : "\x1b[K");
    cmd_say_raw(sbuf_str(&line));
    sbuf_fini(&line);
    p->drawn = true;
}

static void on_progress(void *ctx, const struct run_progress *now) {
    struct cmd_progress *p = ctx;
    if (!p->any) p->first = *now;
    p->any = true;
    p->last = *now;
    p->first.source = p->last.source = NULL; // borrowed for the call
    static const int64_t every_ns[] = {
        [CMD_PROGRESS_NONE] = INT64_MAX,
        [CMD_PROGRESS_BAR] = 100000000,
        [CMD_PROGRESS_LINES] = 5000000000,
        [CMD_PROGRESS_JSON] = 1000000000,
    };
    const int64_t t = clock_ns();
    if (t - p->shown_ns < every_ns[p->kind]) return;
    p->shown_ns = t;
    switch (p->kind) {
    case CMD_PROGRESS_NONE: break;
    case CMD_PROGRESS_BAR: draw_bar(p); break;
    case CMD_PROGRESS_LINES: say_line(p); break;
    case CMD_PROGRESS_JSON: send_progress(p); break;
    }
}

static void on_event(void *ctx, const char *json) {
    struct cmd_progress *p = ctx;
    if (p->events != NULL) put_event(p, json, strlen(json));
}

void cmd_progress_note(void *progress, enum run_note kind, const char *text) {
    struct cmd_progress *p = progress;
    if (p->events != NULL) {
        sbuf_clear(&p->text);
        sbuf_puts(&p->text, "{");
        cmd_text_json_str(&p->text, "event", kind == RUN_WARNING ? "warning" : "info");
        cmd_text_json_str(&p->text, "message", text);
        sbuf_puts(&p->text, "}");
        put_event(p, sbuf_str(&p->text), p->text.n);
    }
    if (p->quiet) return;
    cmd_progress_clear(p);
    cmd_say("%s%s", kind == RUN_WARNING ? "warning: " : "", text);
}

void cmd_progress_hooks(struct cmd_progress *p, struct run_hooks *h) {
    *h = (struct run_hooks){
        .ctx = p,
        .stop = cmd_signals_asked,
        .note = cmd_progress_note,
        .progress = on_progress,
        .event = on_event,
    };
}
