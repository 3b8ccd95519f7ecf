/* Which share of a job this process takes (DESIGN section 4, "Threads ... Rank i of n"). */
#ifndef BASIN_JOBS_RANK_H
#define BASIN_JOBS_RANK_H

#include "base/err.h"

/* Environment variables and options as cmd/ read them; NULL when unset. */
struct rank_env {
    const char *shard;                                           /* --shard "i/n" */
    const char *basin_rank, *basin_world_size;                   /* BASIN_RANK, BASIN_WORLD_SIZE */
    const char *array_id, *array_min, *array_step, *array_count; /* SLURM_ARRAY_TASK_* */
    const char *step_tasks, *procid; /* SLURM_STEP_NUM_TASKS, SLURM_PROCID */
};

struct rank {
    int i, n;      /* 0 <= i < n */
    char from[96]; /* for people: "--shard", "Slurm array task 3 of 10", "the only rank" */
};

/* --shard > BASIN_RANK/BASIN_WORLD_SIZE > Slurm (array index (ID - MIN) / STEP of COUNT; inside a real step
 * index x tasks + PROCID) > 0/1. Errors: E_ARG with what is wrong where (i >= n, not a number, half set). */
enum status rank_find(struct rank *out, const struct rank_env *env, struct err *e) WARN_UNUSED;

/* Seconds of "90", "90s", "15m", "2h", "1d", "HH:MM:SS", "D-HH:MM:SS". Errors: E_ARG. */
enum status rank_parse_duration(const char *text, double *seconds, struct err *e) WARN_UNUSED;

#endif
