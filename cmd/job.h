/* What the commands that work on a job have in common: options, manifest, run_options. */
#ifndef BASIN_CMD_JOB_H
#define BASIN_CMD_JOB_H

#include "cmd/args.h"
#include "cmd/env.h"
#include "jobs/run.h"

struct cmd_job_options {
    const char *shard, *devices, *out; /* NULL: not given */
    int64_t threads;                   /* 0: not given */
    struct cmd_list sets;
};

/* Rows of an option table over a struct T that holds `struct cmd_job_options job`. */
#define CMD_JOB_SHARD(T)                                                                           \
    {                                                                                              \
        .name = "shard", .value = "i/n", .kind = CMD_TEXT, .offset = offsetof(T, job.shard),       \
        .help = "take share i of n, counted from 0 (else BASIN_RANK and\nBASIN_WORLD_SIZE, else "  \
                "Slurm's variables)"                                                               \
    }
#define CMD_JOB_DEVICES(T)                                                                         \
    {                                                                                              \
        .name = "devices", .value = "LIST", .kind = CMD_TEXT, .offset = offsetof(T, job.devices),  \
        .help = "auto (default), cpu, cuda, cuda:0,1 or cpu,cuda"                                  \
    }
#define CMD_JOB_THREADS(T)                                                                         \
    {                                                                                              \
        .name = "threads", .value = "N", .kind = CMD_INT, .lo = 1, .hi = 4096,                     \
        .offset = offsetof(T, job.threads),                                                        \
        .help = "CPU threads (else what affinity, cgroup, Slurm and\nOMP_NUM_THREADS allow)"       \
    }
#define CMD_JOB_SET(T)                                                                             \
    {                                                                                              \
        .name = "set", .value = "KEY=VALUE", .kind = CMD_LIST, .offset = offsetof(T, job.sets),    \
        .help = "change a key of the manifest (cache.window_tokens=508);\nmay be repeated"         \
    }
#define CMD_JOB_OUT(T)                                                                             \
    {                                                                                              \
        .name = "out", .value = "DIR", .kind = CMD_TEXT, .offset = offsetof(T, job.out),           \
        .help = "results go here instead of to the manifest's output.path"                         \
    }

/* Reads the manifest file under --set and --out. `problems` may be NULL. Errors: as man_load. */
enum status cmd_job_load(struct manifest **out, const char *path, const struct cmd_job_options *o,
                         struct man_problems *problems, struct err *e) WARN_UNUSED;

/* cmd_job_load, and whatever is wrong said on stderr, warnings unless quiet. Returns 0 or the exit
 * code. */
int cmd_job_open(struct manifest **out, const char *path, const struct cmd_job_options *o,
                 bool quiet);

/* Threads, instruction set, devices, share and end time, from options and environment. Strings are
 * borrowed from both. Errors: E_ARG, E_UNSUPPORTED, naming option or variable. */
enum status cmd_job_setup(struct run_options *out, const struct cmd_job_options *o,
                          const struct cmd_env *env, struct err *e) WARN_UNUSED;

/* Where results go, from the working directory: what to type behind `basin cat`. */
void cmd_job_out_dir(const struct manifest *m, struct sbuf *out);

#endif
