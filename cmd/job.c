#include "cmd/job.h"

#include "base/mem.h"
#include "base/num.h"
#include "cmd/exit.h"
#include "cmd/out.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

// "output.path=..." for --out. A manifest's relative paths start at its own directory, an option's
// at the working directory.
static enum status put_out(struct sbuf *set, const char *manifest, const char *dir, struct err *e) {
    char here[PATH_MAX] = "";
    struct sbuf path;
    sbuf_init(&path);
    const bool elsewhere = strchr(manifest, '/') != NULL && dir[0] != '/';
    if (elsewhere && getcwd(here, sizeof here) == NULL) {
        return err_errno(e, E_IO, errno, "the working directory");
    }
    if (elsewhere) sbuf_printf(&path, "%s%s", here, strcmp(here, "/") == 0 ? "" : "/");
    sbuf_puts(&path, dir);
    sbuf_puts(set, "output.path=");
    sbuf_json_string(set, sbuf_str(&path), path.n);
    const enum status st = sbuf_status(path.failed ? &path : set, e);
    sbuf_fini(&path);
    return st;
}

enum status cmd_job_load(struct manifest **out, const char *path, const struct cmd_job_options *o,
                         struct man_problems *problems, struct err *e) {
    enum status st = OK;
    const char **sets = NULL; /* owned */
    int n = 0;
    struct sbuf out_set;
    sbuf_init(&out_set);
    *out = NULL;
    TRY(mem_zalloc(&sets, o->sets.n + 1, sizeof *sets, e));
    for (size_t i = 0; i < o->sets.n; i++) sets[n++] = o->sets.v[i];
    if (o->out != NULL) {
        TRY(put_out(&out_set, path, o->out, e));
        sets[n++] = sbuf_str(&out_set);
    }
    TRY(man_load(out, path, sets, n, problems, e));
done:
    mem_free(sets);
    sbuf_fini(&out_set);
    return st;
}

int cmd_job_open(struct manifest **out, const char *path, const struct cmd_job_options *o,
                 bool quiet) {
    struct man_problems p;
    struct err e = {.code = OK};
    man_problems_init(&p);
    const enum status st = cmd_job_load(out, path, o, &p, &e);
    int code = cmd_exit_code(st, st == E_ARG ? CMD_FROM_OPTIONS : CMD_FROM_JOB);
    for (size_t i = 0; i < p.n_errors; i++) {
        const struct man_problem *x = &p.errors[i];
        cmd_say("%s:%d: %s: %s", path, x->line, x->path, x->message);
    }
    if (st != OK && p.n_errors == 0)
        code = cmd_fail(&e, st == E_ARG ? CMD_FROM_OPTIONS : CMD_FROM_JOB);
    for (size_t i = 0; i < p.n_warnings && !quiet; i++) {
        const struct man_problem *x = &p.warnings[i];
        cmd_say("warning: %s:%d: %s: %s", path, x->line, x->path, x->message);
    }
    man_problems_fini(&p);
    return code;
}

// auto | ref | a list of cpu, cuda, cuda:N and, behind a cuda:N, further N.
static enum status check_devices(const char *list, struct err *e) {
    if (strcmp(list, "auto") == 0 || strcmp(list, "ref") == 0) return OK;
    bool numbers = false; // a bare number may follow
    bool cpu = false, all = false, gpu[4096] = {false};
    for (const char *at = list, *next = NULL; at != NULL; at = next) {
        char word[32] = "";
        const size_t n = strcspn(at, ",");
        int64_t ordinal = 0;
        next = at[n] == ',' ? at + n + 1 : NULL;
        if (n < sizeof word) memcpy(word, at, n);
        const bool one_gpu = strncmp(word, "cuda:", 5) == 0;
        const char *digits = one_gpu ? word + 5 : word;
        const bool number = (one_gpu || numbers) && num_parse_int(digits, 4095, &ordinal);
        if (!number && strcmp(word, "cpu") != 0 && strcmp(word, "cuda") != 0) {
            return err_fail(e, E_ARG, "--devices %s: must be auto, cpu, cuda, cuda:0,1 or cpu,cuda",
                            list);
        }
        const bool is_cpu = strcmp(word, "cpu") == 0, is_all = strcmp(word, "cuda") == 0;
        if ((is_cpu && cpu) || (is_all && all) || (number && gpu[ordinal])) {
            return err_fail(e, E_ARG, "--devices %s: %s%s is named twice", list,
                            number && !one_gpu ? "cuda:" : "", word);
        }
        cpu |= is_cpu;
        all |= is_all;
        if (number) gpu[ordinal] = true;
        numbers = number;
    }
    return OK;
}

enum status cmd_job_setup(struct run_options *out, const struct cmd_job_options *o,
                          const struct cmd_env *env, struct err *e) {
    enum status st = OK;
    struct rank_env rank = env->rank;
    rank.shard = o->shard;
    *out = (struct run_options){.devices = o->devices != NULL ? o->devices : "auto"};
    TRY(check_devices(out->devices, e));
    TRY(cpu_isa_parse(&out->isa, env->cpu, e));
    TRY(cmd_env_threads(env, o->threads, &out->n_thread, e));
    TRY(cmd_env_end(env, &out->end_unix_s, e));
    TRY(rank_find(&out->rank, &rank, e));
done:
    return st;
}

void cmd_job_out_dir(const struct manifest *m, struct sbuf *out) {
    if (m->output.path != NULL) man_path(m, m->output.path, out);
}
