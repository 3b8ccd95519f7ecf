#include "cmd/bench_out.h"

#include "cmd/out.h"
#include "cmd/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

// What products reach at most in a dtype and on all threads.
static double limit_flops(const struct cmd_bench *r, const char *dtype) {
    for (int i = 0; i < r->n_peak; i++) {
        const struct bench_peak *p = &r->peaks[i];
        if (strcmp(p->dtype, dtype) == 0 && p->n_thread == r->on.n_thread) return p->flops;
    }
    return 0;
}

static double flops_of(const struct bench_speed *s) {
    return s->flops[DEV_LINEAR] + s->flops[DEV_ATTEND] + s->flops[DEV_HEAD];
}

// Share of the peak, of `flops` a token in `seconds`.
static double share(const struct cmd_bench *r, const struct bench_speed *s, double flops,
                    double seconds) {
    return flops * (double)s->tokens / seconds / limit_flops(r, bench_dtype(r->bench));
}

// Bytes a second that the machine reads at most, on all threads.
static double limit_read(const struct cmd_bench *r) {
    double most = 0;
    for (int i = 0; i < r->n_peak; i++) {
        const struct bench_peak *p = &r->peaks[i];
        if (p->n_thread == r->on.n_thread && p->read_bytes > most) most = p->read_bytes;
    }
    return most;
}

// Share of the bound: reading what a step has to read, and then computing what it has to compute.
static double share_of_bound(const struct cmd_bench *r, const struct bench_steps *s) {
    const double step = s->seconds * s->n_stream / (double)s->tokens;
    const double flops = limit_flops(r, bench_step_dtype(r->bench));
    return (s->read_bytes / limit_read(r) + s->flops / flops) / step;
}

/* ---- for machines ---- */

static const char *const stage_names[DEV_STAGE_COUNT] = {"linear",  "attention", "head",
                                                         "prepare", "rows",      "other"};

static void put_speed_json(struct sbuf *b, const struct cmd_bench *r, const struct bench_speed *s,
                           int64_t length) {
    sbuf_puts(b, "{");
    cmd_text_json_int(b, "sink_tokens", s->n_sink);
    cmd_text_json_int(b, "window_tokens", s->n_win);
    if (length > 0) cmd_text_json_int(b, "document_tokens", length);
    cmd_text_json_int(b, "tokens", s->tokens);
    cmd_text_json_num(b, "seconds", s->seconds);
    cmd_text_json_num(b, "tokens_per_second", (double)s->tokens / s->seconds);
    cmd_text_json_num(b, "flops_per_token", flops_of(s));
    cmd_text_json_num(b, "share_of_peak", share(r, s, flops_of(s), s->seconds));
    cmd_text_key(b, "stages");
    sbuf_puts(b, "{");
    for (int i = 0; i < DEV_STAGE_COUNT; i++) {
        cmd_text_key(b, stage_names[i]);
        sbuf_puts(b, "{");
        cmd_text_json_num(b, "seconds", s->stage[i]);
        cmd_text_json_num(b, "share_of_time", s->stage[i] / s->seconds);
        if (s->flops[i] > 0) {
            cmd_text_json_num(b, "flops_per_token", s->flops[i]);
            cmd_text_json_num(b, "share_of_peak", share(r, s, s->flops[i], s->stage[i]));
        }
        sbuf_puts(b, "}");
    }
    sbuf_puts(b, "}}");
}

static void put_speeds_json(struct sbuf *b, const struct cmd_bench *r,
                            const struct bench_speed *speeds, int n, const int64_t *length) {
    for (int i = 0; i < n; i++) {
        sbuf_puts(b, i == 0 ? "[" : ",");
        put_speed_json(b, r, &speeds[i], length != NULL ? length[i] : 0);
    }
    sbuf_puts(b, "]");
}

static void put_steps_json(struct sbuf *b, const struct cmd_bench *r) {
    cmd_text_key(b, "decoding");
    if (r->no_steps.code != OK) {
        sbuf_puts(b, "null");
        cmd_text_json_str(b, "decoding_refused", r->no_steps.msg);
        return;
    }
    for (int i = 0; i < BENCH_SIZES; i++) {
        const struct bench_steps *s = &r->steps[i];
        sbuf_puts(b, i == 0 ? "[{" : ",{");
        cmd_text_json_int(b, "streams", s->n_stream);
        cmd_text_json_num(b, "tokens_per_second", (double)s->tokens / s->seconds);
        cmd_text_json_num(b, "read_bytes_per_step", s->read_bytes);
        cmd_text_json_num(b, "flops_per_step", s->flops);
        cmd_text_json_num(b, "share_of_bound", share_of_bound(r, s));
        sbuf_puts(b, "}");
    }
    sbuf_puts(b, "]");
}

static void put_model_json(struct sbuf *b, const struct cmd_bench *r) {
    cmd_text_json_str(b, "identity", model_identity(bench_model(r->bench)));
    cmd_text_json_int(b, "parameters", model_params(bench_model(r->bench)));
    cmd_text_json_str(b, "dtype", bench_dtype(r->bench));
    cmd_text_json_str(b, "decoding_dtype", bench_step_dtype(r->bench));
    cmd_text_json_int(b, "span_tokens", bench_span_rows(r->bench));
    cmd_text_key(b, "scoring");
    put_speeds_json(b, r, r->speeds, r->n_speed, NULL);
    cmd_text_key(b, "documents");
    put_speeds_json(b, r, r->documents, BENCH_SIZES, bench_lengths);
    put_steps_json(b, r);
    cmd_text_json_num(b, "tokenizer_bytes_per_second", r->text.tokenizer_bytes);
    cmd_text_json_num(b, "tokenizer_tokens_per_second", r->text.tokenizer_tokens);
    cmd_text_json_num(b, "row_tokens_per_second", r->text.row_tokens);
}

void cmd_bench_json(struct sbuf *b, const struct cmd_bench *r) {
    char cpu[128];
    cpu_model(cpu, sizeof cpu);
    sbuf_puts(b, "{");
    cmd_text_json_str(b, "version", BASIN_VERSION);
    cmd_text_json_str(b, "cpu", cpu);
    cmd_text_json_str(b, "isa", cpu_isa_name(r->on.isa));
    cmd_text_json_int(b, "threads", r->on.n_thread);
    cmd_text_json_str(b, "devices", r->devices);
    cmd_text_key(b, "peaks");
    for (int i = 0; i < r->n_peak; i++) {
        const struct bench_peak *p = &r->peaks[i];
        sbuf_puts(b, i == 0 ? "[{" : ",{");
        cmd_text_json_str(b, "dtype", p->dtype);
        if (r->on.gpu < 0) cmd_text_json_int(b, "threads", p->n_thread);
        cmd_text_json_str(b, "device", p->device);
        cmd_text_json_num(b, "flops_per_second", p->flops);
        cmd_text_json_num(b, "read_bytes_per_second", p->read_bytes);
        sbuf_puts(b, "}");
    }
    sbuf_puts(b, "]");
    cmd_text_json_str(b, "model", r->path);
    cmd_text_json_str(b, "shape", r->shape);
    if (r->bench != NULL) put_model_json(b, r);
    sbuf_puts(b, "}\n");
}

/* ---- for people ---- */

static void cell(struct cmd_table *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void cell(struct cmd_table *t, const char *fmt, ...) {
    char text[96];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cmd_table_cell(t, text);
}

static void put_peaks(struct sbuf *b, const struct cmd_bench *r) {
    const int n = r->on.gpu < 0 && r->on.n_thread > 1 ? 2 : 1; // on one and on all threads
    struct cmd_table t = {.n_col = 1 + n};
    cmd_table_cell(&t, r->on.gpu < 0 ? "limits of this machine" : "limits of the GPU");
    for (int k = 0; k < n; k++) {
        if (r->on.gpu >= 0) {
            cmd_table_cell(&t, "");
        } else {
            cell(&t, "%d thread%s", r->peaks[k].n_thread, r->peaks[k].n_thread == 1 ? "" : "s");
        }
    }
    for (int i = 0; i < r->n_peak; i += n) {
        cell(&t, "%s products, GFLOP/s", r->peaks[i].dtype);
        for (int k = 0; k < n; k++) cell(&t, "%.1f", r->peaks[i + k].flops * 1e-9);
    }
    cmd_table_cell(&t, r->on.gpu < 0 ? "memory read, GB/s" : "memory copied, GB/s");
    for (int k = 0; k < n; k++) {
        const double a = r->peaks[k].read_bytes, z = r->peaks[n + k].read_bytes;
        cell(&t, "%.1f", (a > z ? a : z) * 1e-9);
    }
    cmd_table_print(&t, b);
}

static void put_steps(struct sbuf *b, const struct cmd_bench *r) {
    struct cmd_table t = {.n_col = 4};
    struct sbuf text;
    sbuf_init(&text);
    cell(&t, "writing on, %s", bench_step_dtype(r->bench));
    cmd_table_cell(&t, "tokens/s");
    cmd_table_cell(&t, "MB/step");
    cmd_table_cell(&t, "of bound");
    for (int i = 0; i < BENCH_SIZES; i++) {
        const struct bench_steps *s = &r->steps[i];
        cell(&t, "%d stream%s", s->n_stream, s->n_stream == 1 ? "" : "s");
        sbuf_clear(&text);
        cmd_text_count(&text, (int64_t)((double)s->tokens / s->seconds + 0.5));
        cmd_table_cell(&t, sbuf_str(&text));
        cell(&t, "%.1f", s->read_bytes * 1e-6);
        cell(&t, "%.0f %%", 100 * share_of_bound(r, s));
    }
    sbuf_fini(&text);
    cmd_table_print(&t, b);
}

// What one thread spends on a token before and after the model, against all threads inside it.
static void put_text(struct sbuf *b, const struct cmd_bench *r) {
    const struct bench_speed *s = &r->speeds[1];
    const double token = s->seconds / (double)s->tokens;
    if (r->text.tokenizer_bytes > 0) {
        sbuf_printf(b, "tokenizer: %.1f MB/s, %.2f %% of the time at %d + %d\n",
                    r->text.tokenizer_bytes * 1e-6, 100 / r->text.tokenizer_tokens / token,
                    (int)s->n_sink, (int)s->n_win);
    }
    sbuf_printf(b, "token rows: %.2f %%\n", 100 / r->text.row_tokens / token);
}

static void put_speeds(struct sbuf *b, const struct cmd_bench *r, const struct bench_speed *speeds,
                       int n_speed, const int64_t *length) {
    struct cmd_table t = {.n_col = 4 + DEV_STAGE_COUNT};
    struct sbuf text;
    sbuf_init(&text);
    cmd_table_cell(&t, length != NULL ? "documents of" : "S + W");
    cmd_table_cell(&t, "tokens/s");
    cmd_table_cell(&t, "MFLOP/token");
    cmd_table_cell(&t, "of peak");
    for (int i = 0; i < DEV_STAGE_COUNT; i++) cmd_table_cell(&t, stage_names[i]);
    for (int k = 0; k < n_speed; k++) {
        const struct bench_speed *s = &speeds[k];
        if (length != NULL) {
            cell(&t, "%d tokens", (int)length[k]);
        } else {
            cell(&t, "%d + %d", (int)s->n_sink, (int)s->n_win);
        }
        sbuf_clear(&text);
        cmd_text_count(&text, (int64_t)((double)s->tokens / s->seconds + 0.5));
        cmd_table_cell(&t, sbuf_str(&text));
        cell(&t, "%.1f", flops_of(s) * 1e-6);
        cell(&t, "%.0f %%", 100 * share(r, s, flops_of(s), s->seconds));
        for (int i = 0; i < DEV_STAGE_COUNT; i++) {
            const double time = 100 * s->stage[i] / s->seconds;
            if (s->flops[i] > 0) {
                cell(&t, "%.0f %% (%.0f %%)", time, 100 * share(r, s, s->flops[i], s->stage[i]));
            } else {
                cell(&t, "%.0f %%", time);
            }
        }
    }
    sbuf_fini(&text);
    cmd_table_print(&t, b);
}

void cmd_bench_people(struct sbuf *b, const struct cmd_bench *r) {
    char cpu[128];
    cpu_model(cpu, sizeof cpu);
    sbuf_printf(b, "%s, %s, ", cpu, cpu_isa_name(r->on.isa));
    cmd_text_plural(b, r->on.n_thread, "thread");
    if (r->on.gpu >= 0) sbuf_printf(b, "\n%s", r->peaks[0].device);
    sbuf_puts(b, "\n\n");
    put_peaks(b, r);
    if (r->bench == NULL) return;
    sbuf_puts(b, "\nscoring with ");
    cmd_out_printable(b, r->shape != NULL ? r->shape : r->path);
    sbuf_puts(b, r->shape != NULL ? ", made up: " : ": ");
    cmd_text_plural(b, model_params(bench_model(r->bench)), "parameter");
    sbuf_printf(b, ", %s, ", bench_dtype(r->bench));
    if (r->on.gpu < 0) {
        cmd_text_plural(b, r->on.n_thread, "thread");
    } else {
        sbuf_puts(b, r->devices);
    }
    sbuf_puts(b, ", spans of ");
    cmd_text_plural(b, bench_span_rows(r->bench), "token");
    sbuf_puts(b, "\n\n");
    put_speeds(b, r, r->speeds, r->n_speed, NULL);
    sbuf_puts(b, "\n");
    put_speeds(b, r, r->documents, BENCH_SIZES, bench_lengths);
    sbuf_puts(b, "\nstages: share of the time (and of the peak, while they run)\n\n");
    if (r->no_steps.code == OK) {
        put_steps(b, r);
        sbuf_puts(b, "\nbound: weights and caches read at the limit, then products at theirs\n");
    } else {
        sbuf_printf(b, "writing on: not measured: %s\n\n", r->no_steps.msg);
    }
    put_text(b, r);
}
