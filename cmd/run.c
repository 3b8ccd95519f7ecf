#include "base/clock.h"
#include "cmd/cmd.h"
#include "cmd/exit.h"
#include "cmd/job.h"
#include "cmd/progress.h"
#include "cmd/signals.h"
#include "cmd/text.h"

#include <stddef.h>

struct options {
    struct cmd_job_options job;
    bool steal, overwrite, retry_failed, quiet, json, ignore_locks;
    double time_limit_s, checkpoint_s, stop_save_s;
};

#define AT(member) offsetof(struct options, member)
static const struct cmd_option table[] = {
    CMD_JOB_SHARD(struct options),
    {.name = "steal",
     .kind = CMD_FLAG,
     .offset = AT(steal),
     .help = "when this share is done, take parts that nobody holds"},
    CMD_JOB_DEVICES(struct options),
    CMD_JOB_THREADS(struct options),
    CMD_JOB_SET(struct options),
    CMD_JOB_OUT(struct options),
    {.name = "overwrite",
     .kind = CMD_FLAG,
     .offset = AT(overwrite),
     .help = "throw away what another job left in the output directory"},
    {.name = "retry-failed",
     .kind = CMD_FLAG,
     .offset = AT(retry_failed),
     .help = "do finished parts again in which documents failed"},
    {.name = "time-limit",
     .value = "T",
     .kind = CMD_DURATION,
     .offset = AT(time_limit_s),
     .help = "save and stop in time for T: 90s, 15m, 2h, HH:MM:SS (else\nSLURM_JOB_END_TIME)"},
    {.name = "quiet",
     .kind = CMD_FLAG,
     .offset = AT(quiet),
     .help = "say nothing unless something failed"},
    {.name = "json",
     .kind = CMD_FLAG,
     .offset = AT(json),
     .help = "events as JSON lines on stdout instead of progress"},
    {.name = "ignore-locks", .kind = CMD_FLAG, .offset = AT(ignore_locks)},
    {.name = "checkpoint-seconds", .value = "X", .kind = CMD_DURATION, .offset = AT(checkpoint_s)},
    {.name = "stop-save-seconds", .value = "X", .kind = CMD_DURATION, .offset = AT(stop_save_s)},
};

struct outcome {
    const char *manifest;
    struct sbuf out_dir;
    struct run_options options;
    struct run_result result;
};

static void send_start(struct cmd_progress *p, struct outcome *x) {
    struct sbuf b;
    sbuf_init(&b);
    sbuf_puts(&b, "{");
    cmd_text_json_str(&b, "event", "start");
    cmd_text_json_str(&b, "manifest", x->manifest);
    cmd_text_json_str(&b, "output", sbuf_str(&x->out_dir));
    cmd_text_json_int(&b, "rank", x->options.rank.i);
    cmd_text_json_int(&b, "ranks", x->options.rank.n);
    cmd_text_json_str(&b, "rank_from", x->options.rank.from);
    cmd_text_json_str(&b, "devices", x->options.devices);
    cmd_text_json_str(&b, "cpu", cpu_isa_name(x->options.isa));
    cmd_text_json_int(&b, "threads", x->options.n_thread);
    sbuf_puts(&b, "}");
    x->options.hooks.event(p, sbuf_str(&b));
    sbuf_fini(&b);
}

static void send_end(struct cmd_progress *p, struct outcome *x, int code, const struct err *e) {
    static const char *const ends[] = {"done", "stopped", "held"};
    struct sbuf b;
    sbuf_init(&b);
    sbuf_puts(&b, "{");
    cmd_text_json_str(&b, "event", "end");
    cmd_text_json_int(&b, "exit", code);
    if (e->code != OK) {
        cmd_text_json_str(&b, "code", err_name(e->code));
        cmd_text_json_str(&b, "message", e->msg);
    } else {
        cmd_text_json_str(&b, "end", ends[x->result.end]);
        cmd_text_json_int(&b, "documents", x->result.documents);
        cmd_text_json_int(&b, "failed", x->result.failed);
        cmd_text_json_int(&b, "parts_missing_elsewhere", x->result.parts_missing_elsewhere);
        cmd_text_json_bool(&b, "success", x->result.success);
    }
    cmd_text_json_int(&b, "tokens", p->last.tokens);
    cmd_text_json_num(&b, "seconds", (double)(clock_ns() - p->begun_ns) / 1e9);
    sbuf_puts(&b, "}");
    x->options.hooks.event(p, sbuf_str(&b));
    sbuf_fini(&b);
}

static void put_next(struct sbuf *b, const struct outcome *x, const char *dir) {
    const char *signal = cmd_signals_name();
    switch (x->result.end) {
    case RUN_STOPPED:
        sbuf_printf(b, "; stopped by %s, everything is saved: run the same command again to go on",
                    signal != NULL ? signal : "the time limit");
        break;
    case RUN_HELD:
        sbuf_printf(b, "; what is left is held by another run: basin status %s", dir);
        break;
    case RUN_DONE:
        sbuf_printf(b, "; results in %s: basin cat %s", dir, dir);
        if (x->result.failed > 0) sbuf_printf(b, "; what failed: basin status %s --failed", dir);
        break;
    }
}

static void put_counts(struct sbuf *b, int64_t documents, int64_t failed) {
    cmd_text_plural(b, documents, "document");
    if (failed > 0) {
        sbuf_puts(b, ", ");
        cmd_text_count(b, failed);
        sbuf_puts(b, " failed");
    }
}

// The last word of a run, for people.
static void say_summary(const struct cmd_progress *p, struct outcome *x) {
    const struct run_result *r = &x->result;
    const bool done = r->end == RUN_DONE;
    if (p->quiet && r->failed == 0) return;
    struct sbuf b, dir;
    sbuf_init(&b);
    sbuf_init(&dir);
    cmd_text_shell(&dir, sbuf_str(&x->out_dir));
    if (p->last.documents == 0 && p->last.tokens == 0) {
        sbuf_puts(&b, done ? "nothing to do, all is there: " : "nothing done by this run; so far ");
        put_counts(&b, r->documents, r->failed);
    } else {
        put_counts(&b, done ? r->documents : p->last.documents, done ? r->failed : p->last.failed);
        sbuf_puts(&b, ", ");
        cmd_text_plural(&b, p->last.tokens, "token");
        sbuf_puts(&b, " in ");
        cmd_text_seconds(&b, (double)(clock_ns() - p->begun_ns) / 1e9);
    }
    put_next(&b, x, sbuf_str(&dir));
    cmd_say("%s", sbuf_str(&b));
    if (r->parts_missing_elsewhere > 0 && !p->quiet) {
        sbuf_clear(&b);
        cmd_text_plural(&b, r->parts_missing_elsewhere, "part");
        cmd_say("%s of other ranks still missing: basin status %s", sbuf_str(&b), sbuf_str(&dir));
    }
    sbuf_fini(&dir);
    sbuf_fini(&b);
}

static int run_it(const struct manifest *m, struct outcome *x, struct cmd_progress *p) {
    struct err e = {.code = OK};
    int code = CMD_EXIT_OK;
    cmd_progress_hooks(p, &x->options.hooks);
    send_start(p, x);
    if (x->options.rank.n > 1 && !p->quiet) {
        cmd_say("rank %d of %d, counted from 0 (%s)", x->options.rank.i, x->options.rank.n,
                x->options.rank.from);
    }
    const enum status st = run_job(m, &x->options, &x->result, &e);
    cmd_progress_clear(p);
    if (st == E_CANCEL) { // stopped before there was anything to save
        x->result.end = RUN_STOPPED;
        e.code = OK;
    }
    if (e.code != OK) {
        code = cmd_fail(&e, CMD_FROM_JOB);
    } else {
        code = cmd_exit_run(&x->result);
        say_summary(p, x);
    }
    send_end(p, x, code, &e);
    return code;
}

static int run_main(const struct cmd_sub *self, int argc, char **argv) {
    struct options o = {.quiet = false};
    struct cmd_env env;
    struct cmd_out events = {.at_once = false};
    struct outcome x = {.manifest = NULL};
    struct manifest *m = NULL;
    struct cmd_progress p = {.kind = CMD_PROGRESS_NONE};
    struct err e = {.code = OK};
    int n = 0, code = 0;
    cmd_env_read(&env);
    if (!cmd_args_read(&self->args, argc, argv, &o, &n, &code)) goto done;
    cmd_signals_catch();
    if (cmd_job_setup(&x.options, &o.job, &env, &e) != OK) {
        code = cmd_fail(&e, CMD_FROM_OPTIONS);
        goto done;
    }
    code = cmd_job_open(&m, argv[0], &o.job, o.quiet || o.json);
    if (code != CMD_EXIT_OK) goto done;
    x.manifest = argv[0];
    cmd_job_out_dir(m, &x.out_dir);
    x.options.tmp_dir = env.tmp_dir;
    x.options.steal = o.steal;
    x.options.overwrite = o.overwrite;
    x.options.retry_failed = o.retry_failed;
    x.options.time_limit_s = o.time_limit_s;
    x.options.ignore_locks = o.ignore_locks;
    x.options.checkpoint_s = o.checkpoint_s;
    x.options.stop_save_s = o.stop_save_s;
    cmd_progress_init(&p, &env, o.quiet, o.json ? &events : NULL);
    code = run_it(m, &x, &p);
done:
    cmd_progress_fini(&p);
    man_close(m);
    sbuf_fini(&x.out_dir);
    cmd_list_fini(&o.job.sets);
    sbuf_fini(&events.held);
    return code;
}

const struct cmd_sub cmd_run = {
    .args =
        {
            .name = "run",
            .operands = "MANIFEST",
            .min_operands = 1,
            .max_operands = 1,
            .summary = "run the job of a manifest; run it again to go on after a stop",
            .about =
                "Results appear in the manifest's output.path, part by part; what is done is "
                "never\n"
                "done again. SIGTERM, SIGINT and SIGUSR1 save and stop (exit 75). Several "
                "processes\n"
                "may share a job, each with its own share i of n.\n"
                "\n"
                "exit codes: 0 all done, 3 some documents failed, 11 the rest is held by another\n"
                "run, 64 usage, 65 bad manifest or model, 66 input missing, 69 no such device,\n"
                "73 output cannot be created or holds another job, 74 I/O, 75 stopped and saved\n",
            .examples = "  basin run job.json\n"
                        "  basin run job.json --out out/w508 --set cache.window_tokens=508\n"
                        "  basin run job.json --shard 2/8 --time-limit 55m --quiet\n"
                        "  basin run job.json --json | jq -c 'select(.event == \"end\")'\n",
            .options = table,
            .n_option = COUNTOF(table),
        },
    .main = run_main,
};
