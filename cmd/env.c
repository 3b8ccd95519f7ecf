#include "cmd/env.h"

#include "base/num.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THREADS = 4096 };

static const char *get(const char *name) {
    const char *v = getenv(name);
    return v != NULL && *v != '\0' ? v : NULL;
}

void cmd_env_read(struct cmd_env *env) {
    const char *term = get("TERM"), *tmp_dir = get("TMPDIR");
    *env = (struct cmd_env){
        .cpu = get("BASIN_CPU"),
        .omp_threads = get("OMP_NUM_THREADS"),
        .slurm_cpus = get("SLURM_CPUS_PER_TASK"),
        .slurm_end = get("SLURM_JOB_END_TIME"),
        .tmp_dir = tmp_dir != NULL ? tmp_dir : "/tmp",
        .no_color = get("NO_COLOR") != NULL,
        .dumb_terminal = term == NULL || strcmp(term, "dumb") == 0,
        .rank =
            {
                .basin_rank = get("BASIN_RANK"),
                .basin_world_size = get("BASIN_WORLD_SIZE"),
                .array_id = get("SLURM_ARRAY_TASK_ID"),
                .array_min = get("SLURM_ARRAY_TASK_MIN"),
                .array_step = get("SLURM_ARRAY_TASK_STEP"),
                .array_count = get("SLURM_ARRAY_TASK_COUNT"),
                .step_tasks = get("SLURM_STEP_NUM_TASKS"),
                .procid = get("SLURM_PROCID"),
            },
    };
}

// Lowers *n to the count in a variable, if it is set.
static enum status at_most(int *n, const char *name, const char *value, struct err *e) {
    if (value == NULL) return OK;
    char first[16]; // OMP_NUM_THREADS may be a list, one count per level of nesting
    int64_t v = 0;
    snprintf(first, sizeof first, "%s", value);
    first[strcspn(first, ",")] = '\0';
    if (!num_parse_int(first, INT32_MAX, &v) || v < 1) {
        return err_fail(e, E_ARG, "%s=%s: must be a number of threads, 1 or more", name, value);
    }
    if (v < *n) *n = (int)v;
    return OK;
}

enum status cmd_env_threads(const struct cmd_env *env, int64_t option, int *n, struct err *e) {
    enum status st = OK;
    *n = cpu_threads();
    if (*n > MAX_THREADS) *n = MAX_THREADS;
    if (option > 0) {
        *n = (int)option;
        return OK;
    }
    TRY(at_most(n, "SLURM_CPUS_PER_TASK", env->slurm_cpus, e));
    TRY(at_most(n, "OMP_NUM_THREADS", env->omp_threads, e));
done:
    return st;
}

enum status cmd_env_end(const struct cmd_env *env, int64_t *unix_s, struct err *e) {
    *unix_s = 0;
    if (env->slurm_end == NULL || num_parse_int(env->slurm_end, INT64_MAX / 2, unix_s)) return OK;
    return err_fail(e, E_ARG, "SLURM_JOB_END_TIME=%s: must be seconds since 1970", env->slurm_end);
}
