#include "jobs/rank.h"

#include "base/num.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { MAX_RANKS = 1 << 20 }; /* far above any cluster; keeps products in 64 bits */

static enum status set_rank(struct rank *out, int64_t i, int64_t n, struct err *e) {
    if (n < 1 || n > MAX_RANKS) {
        return err_fail(e, E_ARG, "%s: %" PRId64 " ranks; must be 1..%d", out->from, n, MAX_RANKS);
    }
    if (i >= n) {
        return err_fail(e, E_ARG,
                        "%s: rank %" PRId64 " of %" PRId64 "; ranks count from 0, so the last is "
                        "%" PRId64,
                        out->from, i, n, n - 1);
    }
    out->i = (int)i;
    out->n = (int)n;
    return OK;
}

static enum status read_number(int64_t *out, const char *name, const char *text, int64_t max,
                               struct err *e) {
    if (num_parse_int(text, max, out)) return OK;
    return err_fail(e, E_ARG, "%s=%s: must be a number, 0..%" PRId64, name, text, max);
}

static enum status from_option(struct rank *out, const char *shard, struct err *e) {
    char head[16] = "";
    const char *slash = strchr(shard, '/');
    const size_t n_head = slash == NULL ? 0 : (size_t)(slash - shard);
    int64_t i = 0, n = 0;
    bool ok = n_head > 0 && n_head < sizeof head;
    if (ok) {
        memcpy(head, shard, n_head);
        ok = num_parse_int(head, INT32_MAX, &i) && num_parse_int(slash + 1, INT32_MAX, &n);
    }
    if (!ok) {
        return err_fail(e, E_ARG, "--shard %s: must be i/n, rank i of n counted from 0 (\"0/4\")",
                        shard);
    }
    snprintf(out->from, sizeof out->from, "--shard");
    return set_rank(out, i, n, e);
}

static enum status from_basin(struct rank *out, const struct rank_env *env, struct err *e) {
    enum status st = OK;
    int64_t i = 0, n = 0;
    if (env->basin_rank == NULL || env->basin_world_size == NULL) {
        const bool has_rank = env->basin_rank != NULL;
        FAIL(e, E_ARG, "%s is set and %s is not; set both or neither",
             has_rank ? "BASIN_RANK" : "BASIN_WORLD_SIZE",
             has_rank ? "BASIN_WORLD_SIZE" : "BASIN_RANK");
    }
    TRY(read_number(&i, "BASIN_RANK", env->basin_rank, INT32_MAX, e));
    TRY(read_number(&n, "BASIN_WORLD_SIZE", env->basin_world_size, INT32_MAX, e));
    snprintf(out->from, sizeof out->from, "BASIN_RANK");
    TRY(set_rank(out, i, n, e));
done:
    return st;
}

// Place of this task in a job array: (ID - MIN) / STEP of COUNT.
static enum status array_place(int64_t *index, int64_t *count, const struct rank_env *env,
                               struct err *e) {
    enum status st = OK;
    int64_t id = 0, min = 0, step = 1;
    if (env->array_min == NULL || env->array_count == NULL) {
        FAIL(e, E_ARG, "SLURM_ARRAY_TASK_ID is set and SLURM_ARRAY_TASK_%s is not; say --shard i/n",
             env->array_min == NULL ? "MIN" : "COUNT");
    }
    TRY(read_number(&id, "SLURM_ARRAY_TASK_ID", env->array_id, INT32_MAX, e));
    TRY(read_number(&min, "SLURM_ARRAY_TASK_MIN", env->array_min, INT32_MAX, e));
    TRY(read_number(count, "SLURM_ARRAY_TASK_COUNT", env->array_count, INT32_MAX, e));
    if (env->array_step != NULL) {
        TRY(read_number(&step, "SLURM_ARRAY_TASK_STEP", env->array_step, INT32_MAX, e));
    }
    // An array such as 1,5,7 has no step: dealing by it would leave parts to nobody.
    if (step < 1 || id < min || (id - min) % step != 0 || (id - min) / step >= *count) {
        FAIL(e, E_ARG,
             "SLURM_ARRAY_TASK_ID=%" PRId64 " is not one of %" PRId64 " tasks from %" PRId64
             " in steps of %" PRId64 "; with an irregular array say --shard i/n",
             id, *count, min, step);
    }
    *index = (id - min) / step;
done:
    return st;
}

static enum status from_slurm(struct rank *out, const struct rank_env *env, struct err *e) {
    enum status st = OK;
    int64_t index = 0, count = 1, task = 0, tasks = 1;
    if (env->array_id != NULL) TRY(array_place(&index, &count, env, e));
    if (env->step_tasks != NULL) {
        if (env->procid == NULL) {
            FAIL(e, E_ARG, "SLURM_STEP_NUM_TASKS is set and SLURM_PROCID is not; say --shard i/n");
        }
        TRY(read_number(&tasks, "SLURM_STEP_NUM_TASKS", env->step_tasks, INT32_MAX, e));
        TRY(read_number(&task, "SLURM_PROCID", env->procid, INT32_MAX, e));
        if (task >= tasks) {
            FAIL(e, E_ARG,
                 "SLURM_PROCID=%" PRId64 " is not below SLURM_STEP_NUM_TASKS=%" PRId64
                 "; say --shard i/n",
                 task, tasks);
        }
    }
    if (env->array_id == NULL) {
        snprintf(out->from, sizeof out->from, "Slurm task %" PRId64 " of %" PRId64, task, tasks);
    } else if (env->step_tasks == NULL || tasks == 1) {
        snprintf(out->from, sizeof out->from, "Slurm array task %" PRId64 " of %" PRId64, index,
                 count);
    } else {
        snprintf(out->from, sizeof out->from,
                 "Slurm array task %" PRId64 " of %" PRId64 ", task %" PRId64 " of %" PRId64, index,
                 count, task, tasks);
    }
    TRY(set_rank(out, index * tasks + task, count * tasks, e));
done:
    return st;
}

enum status rank_find(struct rank *out, const struct rank_env *env, struct err *e) {
    *out = (struct rank){.i = 0, .n = 1, .from = "the only rank"};
    if (env->shard != NULL) return from_option(out, env->shard, e);
    if (env->basin_rank != NULL || env->basin_world_size != NULL) return from_basin(out, env, e);
    if (env->array_id != NULL || env->step_tasks != NULL) return from_slurm(out, env, e);
    return OK;
}

/* ---- durations ---- */

// Decimal number, digits with an optional fraction, at *text; moves behind it.
static bool take_number(const char **text, double *out) {
    const char *s = *text;
    double v = 0, unit = 1;
    if (*s < '0' || *s > '9') return false;
    for (; *s >= '0' && *s <= '9'; s++) v = v * 10 + (*s - '0');
    if (*s == '.') {
        s++;
        if (*s < '0' || *s > '9') return false;
        for (; *s >= '0' && *s <= '9'; s++) v += (*s - '0') * (unit /= 10);
    }
    *text = s;
    *out = v;
    return true;
}

// Whole number at *text, followed by `behind` ('\0': the end); moves past it.
static bool take_field(const char **text, char behind, double most, double *out) {
    const char *s = *text;
    double v = 0;
    if (*s < '0' || *s > '9') return false;
    for (; *s >= '0' && *s <= '9'; s++) v = v * 10 + (*s - '0');
    if (*s != behind || v > most) return false;
    *text = s + (behind != '\0');
    *out = v;
    return true;
}

// [D-]HH:MM:SS, the form Slurm uses.
static bool parse_clock(const char *text, double *seconds) {
    double day = 0, hour = 0, minute = 0, second = 0;
    const bool days = strchr(text, '-') != NULL;
    if (days && !take_field(&text, '-', 1e6, &day)) return false;
    if (!take_field(&text, ':', days ? 23 : 1e6, &hour) || !take_field(&text, ':', 59, &minute) ||
        !take_field(&text, '\0', 59, &second)) {
        return false;
    }
    *seconds = ((day * 24 + hour) * 60 + minute) * 60 + second;
    return true;
}

enum status rank_parse_duration(const char *text, double *seconds, struct err *e) {
    static const struct {
        const char *name;
        double seconds;
    } units[] = {{"", 1}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}};
    static const double most =
        1e9; /* 31 years; far from where seconds would lose their fractions */
    const char *rest = text;
    double v = 0;
    bool ok = strchr(text, ':') != NULL && parse_clock(text, &v);
    if (!ok && take_number(&rest, &v)) {
        for (size_t i = 0; i < COUNTOF(units) && !ok; i++) {
            ok = strcmp(rest, units[i].name) == 0;
            if (ok) v *= units[i].seconds;
        }
    }
    if (!ok || v > most) {
        return err_fail(e, E_ARG,
                        "\"%s\" is not a duration; say 90, 90s, 15m, 2h, 1d, HH:MM:SS or "
                        "D-HH:MM:SS",
                        text);
    }
    *seconds = v;
    return OK;
}
