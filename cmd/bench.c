#include "cmd/cmd.h"
#include "cmd/env.h"
#include "cmd/exit.h"
#include "cmd/out.h"
#include "cmd/text.h"
#include "jobs/bench.h"

#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SINKS = 4, MOST_PEAKS = 4 };

static const int64_t cache_sizes[] = {256, 1024, 4096};
static const int streams[] = {1, 8, 32};          /* under the second size */
static const int64_t lengths[] = {64, 512, 2048}; /* of documents, under the second size */

struct options {
    const char *dtype;
    int64_t threads; /* 0: not given */
    double seconds;
    bool json;
};

static const char *const dtypes[] = {"auto", "f32", "bf16", NULL};

#define AT(member) offsetof(struct options, member)
static const struct cmd_option table[] = {
    {.name = "threads",
     .value = "N",
     .kind = CMD_INT,
     .lo = 1,
     .hi = 4096,
     .offset = AT(threads),
     .help = "CPU threads (else what affinity, cgroup, Slurm and\nOMP_NUM_THREADS allow)"},
    {.name = "seconds",
     .value = "T",
     .kind = CMD_DURATION,
     .offset = AT(seconds),
     .help = "time for each measurement (default 3s)"},
    {.name = "dtype",
     .value = "NAME",
     .kind = CMD_WORD,
     .words = dtypes,
     .offset = AT(dtype),
     .help = "auto (default: as a job has it), f32 or bf16"},
    {.name = "json", .kind = CMD_FLAG, .offset = AT(json), .help = "as a JSON object"},
};

struct results {
    const char *path; /* of the model; NULL without one */
    enum cpu_isa isa;
    int n_thread;
    struct bench_peak peaks[MOST_PEAKS];
    int n_peak;
    struct bench *bench; /* owned; NULL without a model */
    struct bench_speed speeds[COUNTOF(cache_sizes)];
    int n_speed;
    struct bench_speed documents[COUNTOF(lengths)];
    struct bench_steps steps[COUNTOF(streams)];
    struct bench_text text;
};

/* ---- measuring ---- */

// The demo model: in the source tree, or where `make install` puts it.
static bool find_demo(char *path, size_t cap) {
    static const char *const places[] = {"examples/demo/model", "../../examples/demo/model",
                                         "../share/basin/demo/model"};
    char self[PATH_MAX] = "";
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash = n > 0 ? strrchr(self, '/') : NULL;
    if (slash != NULL) *slash = '\0';
    for (size_t i = 0; i < COUNTOF(places); i++) {
        struct sbuf b;
        sbuf_init(&b);
        if (i > 0) sbuf_printf(&b, "%s/", self);
        sbuf_puts(&b, places[i]);
        const bool fits = !b.failed && b.n < cap;
        if (fits) memcpy(path, b.s, b.n + 1);
        sbuf_puts(&b, "/config.json");
        const bool found = fits && access(sbuf_str(&b), R_OK) == 0;
        sbuf_fini(&b);
        if (found) return true;
    }
    return false;
}

static enum status measure_peaks(struct results *r, double seconds, struct err *e) {
    enum status st = OK;
    const double brief = seconds < 0.3 ? seconds : 0.3;
    for (int i = 0; i < MOST_PEAKS; i++) {
        const int n_thread = i % 2 == 0 ? 1 : r->n_thread;
        if (i % 2 == 1 && r->n_thread == 1) continue;
        TRY(bench_peak(&r->peaks[r->n_peak], i < 2 ? DT_F32 : DT_BF16, r->isa, n_thread, brief, e));
        r->n_peak++;
    }
done:
    return st;
}

// The model is opened first: one that is refused should be said at once.
static enum status measure(struct results *r, const struct options *o, struct err *e) {
    enum status st = OK;
    if (r->path != NULL) {
        TRY(bench_open(&r->bench, r->path, o->dtype, r->isa, r->n_thread, e));
    }
    TRY(measure_peaks(r, o->seconds, e));
    for (size_t i = 0; r->bench != NULL && i < COUNTOF(cache_sizes); i++) {
        TRY(bench_score(r->bench, SINKS, cache_sizes[i] - SINKS, o->seconds, &r->speeds[i], e));
        r->n_speed++;
    }
    for (size_t i = 0; r->bench != NULL && i < COUNTOF(lengths); i++) {
        TRY(bench_documents(r->bench, SINKS, cache_sizes[1] - SINKS, lengths[i], o->seconds,
                            &r->documents[i], e));
    }
    for (size_t i = 0; r->bench != NULL && i < COUNTOF(streams); i++) {
        TRY(bench_steps(r->bench, streams[i], SINKS, cache_sizes[1] - SINKS, o->seconds,
                        &r->steps[i], e));
    }
    if (r->bench != NULL) {
        TRY(bench_text(r->bench, o->seconds < 0.3 ? o->seconds : 0.3, &r->text, e));
    }
done:
    return st;
}

// What products reach at most in the model's dtype and on all threads.
static double limit_flops(const struct results *r) {
    for (int i = 0; i < r->n_peak; i++) {
        const struct bench_peak *p = &r->peaks[i];
        if (p->dtype == bench_dtype(r->bench) && p->n_thread == r->n_thread) return p->flops;
    }
    return 0;
}

static double flops_of(const struct bench_speed *s) {
    return s->flops[DEV_LINEAR] + s->flops[DEV_ATTEND] + s->flops[DEV_HEAD];
}

// Share of the peak, of `flops` a token in `seconds`.
static double share(const struct results *r, const struct bench_speed *s, double flops,
                    double seconds) {
    return flops * (double)s->tokens / seconds / limit_flops(r);
}

// Bytes a second that the machine reads at most, on all threads.
static double limit_read(const struct results *r) {
    double most = 0;
    for (int i = 0; i < r->n_peak; i++) {
        const struct bench_peak *p = &r->peaks[i];
        if (p->n_thread == r->n_thread && p->read_bytes > most) most = p->read_bytes;
    }
    return most;
}

// Share of the bound: reading what a step has to read, and then computing what it has to compute.
static double share_of_bound(const struct results *r, const struct bench_steps *s) {
    const double step = s->seconds * s->n_stream / (double)s->tokens;
    return (s->read_bytes / limit_read(r) + s->flops / limit_flops(r)) / step;
}

/* ---- for machines ---- */

static const char *const stage_names[DEV_STAGE_COUNT] = {"linear",  "attention", "head",
                                                         "prepare", "rows",      "other"};

static void put_speed_json(struct sbuf *b, const struct results *r, const struct bench_speed *s,
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

static void put_json(struct sbuf *b, const struct results *r) {
    char cpu[128];
    cpu_model(cpu, sizeof cpu);
    sbuf_puts(b, "{");
    cmd_text_json_str(b, "version", BASIN_VERSION);
    cmd_text_json_str(b, "cpu", cpu);
    cmd_text_json_str(b, "isa", cpu_isa_name(r->isa));
    cmd_text_json_int(b, "threads", r->n_thread);
    cmd_text_key(b, "peaks");
    for (int i = 0; i < r->n_peak; i++) {
        const struct bench_peak *p = &r->peaks[i];
        sbuf_puts(b, i == 0 ? "[{" : ",{");
        cmd_text_json_str(b, "dtype", dtype_name(p->dtype));
        cmd_text_json_int(b, "threads", p->n_thread);
        cmd_text_json_str(b, "device", p->device);
        cmd_text_json_num(b, "flops_per_second", p->flops);
        cmd_text_json_num(b, "read_bytes_per_second", p->read_bytes);
        sbuf_puts(b, "}");
    }
    sbuf_puts(b, "]");
    cmd_text_json_str(b, "model", r->path);
    if (r->bench != NULL) {
        cmd_text_json_str(b, "identity", model_identity(bench_model(r->bench)));
        cmd_text_json_int(b, "parameters", model_params(bench_model(r->bench)));
        cmd_text_json_str(b, "dtype", dtype_name(bench_dtype(r->bench)));
        cmd_text_json_int(b, "span_tokens", bench_span_rows(r->bench));
        cmd_text_key(b, "scoring");
        for (int i = 0; i < r->n_speed; i++) {
            sbuf_puts(b, i == 0 ? "[" : ",");
            put_speed_json(b, r, &r->speeds[i], 0);
        }
        sbuf_puts(b, "]");
        cmd_text_key(b, "documents");
        for (size_t i = 0; i < COUNTOF(lengths); i++) {
            sbuf_puts(b, i == 0 ? "[" : ",");
            put_speed_json(b, r, &r->documents[i], lengths[i]);
        }
        sbuf_puts(b, "]");
        cmd_text_key(b, "decoding");
        for (size_t i = 0; i < COUNTOF(streams); i++) {
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
        cmd_text_json_num(b, "tokenizer_bytes_per_second", r->text.tokenizer_bytes);
        cmd_text_json_num(b, "tokenizer_tokens_per_second", r->text.tokenizer_tokens);
        cmd_text_json_num(b, "row_tokens_per_second", r->text.row_tokens);
    }
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

static void put_peaks(struct sbuf *b, const struct results *r) {
    const int n = r->n_thread > 1 ? 2 : 1; // measured on one and on all threads
    struct cmd_table t = {.n_col = 1 + n};
    cmd_table_cell(&t, "limits of this machine");
    for (int k = 0; k < n; k++) {
        cell(&t, "%d thread%s", r->peaks[k].n_thread, r->peaks[k].n_thread == 1 ? "" : "s");
    }
    for (int i = 0; i < r->n_peak; i += n) {
        cell(&t, "%s products, GFLOP/s", dtype_name(r->peaks[i].dtype));
        for (int k = 0; k < n; k++) cell(&t, "%.1f", r->peaks[i + k].flops * 1e-9);
    }
    cmd_table_cell(&t, "memory read, GB/s");
    for (int k = 0; k < n; k++) {
        const double a = r->peaks[k].read_bytes, z = r->peaks[n + k].read_bytes;
        cell(&t, "%.1f", (a > z ? a : z) * 1e-9);
    }
    cmd_table_print(&t, b);
}

static void put_steps(struct sbuf *b, const struct results *r) {
    struct cmd_table t = {.n_col = 4};
    struct sbuf text;
    sbuf_init(&text);
    cmd_table_cell(&t, "writing on");
    cmd_table_cell(&t, "tokens/s");
    cmd_table_cell(&t, "MB/step");
    cmd_table_cell(&t, "of bound");
    for (size_t i = 0; i < COUNTOF(streams); i++) {
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
static void put_text(struct sbuf *b, const struct results *r) {
    const struct bench_speed *s = &r->speeds[1];
    const double token = s->seconds / (double)s->tokens;
    if (r->text.tokenizer_bytes > 0) {
        sbuf_printf(b, "tokenizer: %.1f MB/s, %.2f %% of the time at %d + %d\n",
                    r->text.tokenizer_bytes * 1e-6, 100 / r->text.tokenizer_tokens / token,
                    (int)s->n_sink, (int)s->n_win);
    }
    sbuf_printf(b, "token rows: %.2f %%\n", 100 / r->text.row_tokens / token);
}

static void put_speeds(struct sbuf *b, const struct results *r, const struct bench_speed *speeds,
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

static void put_people(struct sbuf *b, const struct results *r) {
    char cpu[128];
    cpu_model(cpu, sizeof cpu);
    sbuf_printf(b, "%s, %s, ", cpu, cpu_isa_name(r->isa));
    cmd_text_plural(b, r->n_thread, "thread");
    sbuf_puts(b, "\n\n");
    put_peaks(b, r);
    if (r->bench == NULL) return;
    sbuf_puts(b, "\nscoring with ");
    cmd_out_printable(b, r->path);
    sbuf_puts(b, ": ");
    cmd_text_plural(b, model_params(bench_model(r->bench)), "parameter");
    sbuf_printf(b, ", %s, ", dtype_name(bench_dtype(r->bench)));
    cmd_text_plural(b, r->n_thread, "thread");
    sbuf_puts(b, ", spans of ");
    cmd_text_plural(b, bench_span_rows(r->bench), "token");
    sbuf_puts(b, "\n\n");
    put_speeds(b, r, r->speeds, r->n_speed, NULL);
    sbuf_puts(b, "\n");
    put_speeds(b, r, r->documents, (int)COUNTOF(lengths), lengths);
    sbuf_puts(b, "\nstages: share of the time (and of the peak, while they run)\n\n");
    put_steps(b, r);
    sbuf_puts(b, "\nbound: weights and caches read at the limit, then products at theirs\n");
    put_text(b, r);
}

static int bench_main(const struct cmd_sub *self, int argc, char **argv) {
    struct options o = {.dtype = "auto", .seconds = 3};
    struct results r = {.n_peak = 0};
    struct cmd_env env;
    struct err e = {.code = OK};
    struct sbuf b;
    char demo[PATH_MAX];
    int n = 0, code = 0;
    cmd_env_read(&env);
    if (!cmd_args_read(&self->args, argc, argv, &o, &n, &code)) return code;
    if (cpu_isa_parse(&r.isa, env.cpu, &e) != OK ||
        cmd_env_threads(&env, o.threads, &r.n_thread, &e) != OK) {
        return cmd_fail(&e, CMD_FROM_OPTIONS);
    }
    r.path = n > 0 ? argv[0] : find_demo(demo, sizeof demo) ? demo : NULL;
    if (r.path == NULL) cmd_say("no model named, and the demo model is not there: limits only");
    if (measure(&r, &o, &e) != OK) {
        code = cmd_fail(&e, CMD_FROM_JOB);
    } else {
        sbuf_init(&b);
        if (o.json) {
            put_json(&b, &r);
        } else {
            put_people(&b, &r);
        }
        code = cmd_out_text(&b);
    }
    bench_close(r.bench);
    return code;
}

const struct cmd_sub cmd_bench = {
    .args =
        {
            .name = "bench",
            .operands = "[MODEL]",
            .max_operands = 1,
            .summary = "how fast a model is scored here, against what the machine can do",
            .about =
                "Measures the products of matrices in registers and the reading of memory, then\n"
                "the scoring of a long document with full caches of 256, 1024 and 4096 tokens,\n"
                "and of short ones packed together, in spans as a run has them; the writing of\n"
                "1, 8 and 32 streams with 1024 tokens each in their caches; and what one thread\n"
                "spends on text and rows. Without MODEL it takes the demo model.\n"
                "\n"
                "FLOP are those the model needs: two for each weight of its matrices and head,\n"
                "four for each key and dimension of a head.\n",
            .examples = "  basin bench\n"
                        "  basin bench models/smol --threads 8 --seconds 10s\n"
                        "  basin bench models/smol --json | jq '.scoring[].tokens_per_second'\n",
            .options = table,
            .n_option = COUNTOF(table),
        },
    .main = bench_main,
};
