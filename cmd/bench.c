#include "cmd/bench_out.h"
#include "cmd/cmd.h"
#include "cmd/env.h"
#include "cmd/exit.h"
#include "cmd/out.h"

#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct options {
    const char *dtype, *shape, *devices;
    int64_t threads; /* 0: not given */
    double seconds;
    bool json;
};

static const char *const dtypes[] = {"auto", "f32", "bf16", "int8", NULL};

#define AT(member) offsetof(struct options, member)
static const struct cmd_option table[] = {
    {.name = "threads",
     .value = "N",
     .kind = CMD_INT,
     .lo = 1,
     .hi = 4096,
     .offset = AT(threads),
     .help = "CPU threads (else what affinity, cgroup, Slurm and\nOMP_NUM_THREADS allow)"},
    {.name = "devices",
     .value = "NAME",
     .kind = CMD_TEXT,
     .offset = AT(devices),
     .help = "cpu (default), cuda or cuda:N"},
    {.name = "shape",
     .value = "NAME",
     .kind = CMD_TEXT,
     .offset = AT(shape),
     .help = "instead of MODEL: made-up weights in the dimensions of\nsmollm2-135m, llama3-1b, "
             "llama2-7b "
             "...; \"list\" prints\nwhat there is"},
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
     .help = "auto (default: as a job has it), f32, bf16 or int8"},
    {.name = "json", .kind = CMD_FLAG, .offset = AT(json), .help = "as a JSON object"},
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

// A CPU on one and on all of its threads.
static enum status measure_peaks(struct cmd_bench *r, double seconds, struct err *e) {
    enum status st = OK;
    const double brief = seconds < 0.3 ? seconds : 0.3;
    static const char *const names[] = {"f32", "bf16", "int8"};
    for (int i = 0; i < BENCH_PEAKS; i++) {
        struct bench_on on = r->on;
        if (i >= 4 && on.gpu >= 0) break; // of the CPU only
        if (i % 2 == 0 && on.gpu < 0) on.n_thread = 1;
        if (i % 2 == 1 && (on.gpu >= 0 || on.n_thread == 1)) continue;
        TRY(bench_peak(&r->peaks[r->n_peak], names[i / 2], &on, brief, e));
        r->n_peak++;
    }
done:
    return st;
}

// A device that does not write yet is said to, and the rest is measured.
static enum status measure_steps(struct cmd_bench *r, double seconds, struct err *e) {
    for (int i = 0; i < BENCH_SIZES; i++) {
        const enum status st =
            bench_steps(r->bench, bench_streams[i], BENCH_SINKS, bench_sizes[1] - BENCH_SINKS,
                        seconds, &r->steps[i], &r->no_steps);
        if (st == E_UNSUPPORTED) return OK;
        if (st != OK) return err_fail(e, st, "%s", r->no_steps.msg);
    }
    return OK;
}

// The model is opened first: one that is refused should be said at once.
static enum status measure(struct cmd_bench *r, const struct options *o, struct err *e) {
    enum status st = OK;
    if (r->path != NULL || r->shape != NULL) {
        const struct bench_config c = {
            .model = r->path, .shape = r->shape, .dtype = o->dtype, .on = r->on};
        TRY(bench_open(&r->bench, &c, e));
    }
    TRY(measure_peaks(r, o->seconds, e));
    if (r->bench == NULL) goto done;
    for (int i = 0; i < BENCH_SIZES; i++) {
        TRY(bench_score(r->bench, BENCH_SINKS, bench_sizes[i] - BENCH_SINKS, o->seconds,
                        &r->speeds[i], e));
        r->n_speed++;
    }
    for (int i = 0; i < BENCH_SIZES; i++) {
        TRY(bench_documents(r->bench, BENCH_SINKS, bench_sizes[1] - BENCH_SINKS, bench_lengths[i],
                            o->seconds, &r->documents[i], e));
    }
    TRY(measure_steps(r, o->seconds, e));
    TRY(bench_text(r->bench, o->seconds < 0.3 ? o->seconds : 0.3, &r->text, e));
done:
    return st;
}

static int list_shapes(void) {
    struct sbuf b;
    sbuf_init(&b);
    for (const char *const *n = model_shape_names(); *n != NULL; n++) sbuf_printf(&b, "%s\n", *n);
    return cmd_out_text(&b);
}

// A name that there is, instead of a model.
static enum status check_shape(const struct options *o, bool model, struct err *e) {
    struct model *m = NULL;
    if (o->shape == NULL) return OK;
    if (model) return err_fail(e, E_ARG, "MODEL and --shape: one of them");
    const enum status st = model_open_shape(&m, o->shape, 0, e);
    model_close(m);
    if (st != OK) err_prefix(e, "--shape: ");
    return st;
}

static int bench_main(const struct cmd_sub *self, int argc, char **argv) {
    struct options o = {.dtype = "auto", .seconds = 3, .devices = "cpu"};
    struct cmd_bench r = {.n_peak = 0};
    struct cmd_env env;
    struct err e = {.code = OK};
    struct sbuf b;
    char demo[PATH_MAX];
    int n = 0, code = 0;
    cmd_env_read(&env);
    if (!cmd_args_read(&self->args, argc, argv, &o, &n, &code)) return code;
    if (o.shape != NULL && strcmp(o.shape, "list") == 0) return list_shapes();
    if (cpu_isa_parse(&r.on.isa, env.cpu, &e) != OK ||
        cmd_env_threads(&env, o.threads, &r.on.n_thread, &e) != OK ||
        bench_parse_device(o.devices, &r.on.gpu, &e) != OK || check_shape(&o, n > 0, &e) != OK) {
        return cmd_fail(&e, CMD_FROM_OPTIONS);
    }
    r.devices = o.devices;
    r.shape = o.shape;
    if (r.shape == NULL) r.path = n > 0 ? argv[0] : find_demo(demo, sizeof demo) ? demo : NULL;
    if (r.path == NULL && r.shape == NULL)
        cmd_say("no model named, and the demo model is not there: limits only");
    if (measure(&r, &o, &e) != OK) {
        code = cmd_fail(&e, CMD_FROM_JOB);
    } else {
        sbuf_init(&b);
        if (o.json) {
            cmd_bench_json(&b, &r);
        } else {
            cmd_bench_people(&b, &r);
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
                "spends on text and rows. Without MODEL it takes the demo model; with --shape\n"
                "weights that are made up, on a GPU by itself. Of a GPU the limits are cuBLAS's\n"
                "largest products and the copying of its memory.\n"
                "\n"
                "FLOP are those the model needs: two for each weight of its matrices and head,\n"
                "four for each key and dimension of a head.\n",
            .examples = "  basin bench\n"
                        "  basin bench models/smol --threads 8 --seconds 10s\n"
                        "  basin bench --shape llama2-7b --devices cuda\n"
                        "  basin bench models/smol --json | jq '.scoring[].tokens_per_second'\n",
            .options = table,
            .n_option = COUNTOF(table),
        },
    .main = bench_main,
};
