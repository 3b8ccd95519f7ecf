/* The environment: the only place that reads it. Empty variables count as unset. */
#ifndef BASIN_CMD_ENV_H
#define BASIN_CMD_ENV_H

#include "base/cpu.h"
#include "jobs/rank.h"

struct cmd_env {
    const char *cpu;         /* BASIN_CPU: portable, avx2, avx512 */
    const char *omp_threads; /* OMP_NUM_THREADS */
    const char *slurm_cpus;  /* SLURM_CPUS_PER_TASK */
    const char *slurm_end;   /* SLURM_JOB_END_TIME, seconds since 1970 */
    const char *tmp_dir;     /* TMPDIR, else "/tmp" */
    bool no_color;           /* NO_COLOR */
    bool dumb_terminal;      /* TERM is unset or "dumb" */
    struct rank_env rank;    /* BASIN_RANK, BASIN_WORLD_SIZE, SLURM_*; shard is NULL */
};
void cmd_env_read(struct cmd_env *env);

/* min(CPUs this process may use, SLURM_CPUS_PER_TASK, OMP_NUM_THREADS), or `option` when above 0.
 * Errors: E_ARG naming the variable. */
enum status cmd_env_threads(const struct cmd_env *env, int64_t option, int *n,
                            struct err *e) WARN_UNUSED;

/* SLURM_JOB_END_TIME; 0 without one. Errors: E_ARG naming it. */
enum status cmd_env_end(const struct cmd_env *env, int64_t *unix_s, struct err *e) WARN_UNUSED;

#endif
