#include "jobs/rank.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static void expect(const struct rank_env *env, int i, int n, const char *from) {
    struct rank r;
    struct err e = {.code = OK};
    if (rank_find(&r, env, &e) != OK) fail_msg("%s", e.msg);
    assert_int_equal(r.i, i);
    assert_int_equal(r.n, n);
    assert_string_equal(r.from, from);
}

static void expect_error(const struct rank_env *env, const char *part) {
    struct rank r;
    struct err e = {.code = OK};
    assert_int_equal(rank_find(&r, env, &e), E_ARG);
    assert_int_equal(e.code, E_ARG);
    if (strstr(e.msg, part) == NULL) fail_msg("\"%s\" does not hold \"%s\"", e.msg, part);
}

static void test_sources(void **state) {
    (void)state;
    expect(&(struct rank_env){.shard = NULL}, 0, 1, "the only rank");
    expect(&(struct rank_env){.shard = "2/5"}, 2, 5, "--shard");
    expect(&(struct rank_env){.basin_rank = "3", .basin_world_size = "4"}, 3, 4, "BASIN_RANK");
    expect(
        &(struct rank_env){
            .array_id = "7", .array_min = "1", .array_step = "2", .array_count = "10"},
        3, 10, "Slurm array task 3 of 10");
    expect(&(struct rank_env){.array_id = "0", .array_min = "0", .array_count = "1"}, 0, 1,
           "Slurm array task 0 of 1");
    expect(&(struct rank_env){.step_tasks = "8", .procid = "5"}, 5, 8, "Slurm task 5 of 8");
    expect(&(struct rank_env){.array_id = "7",
                              .array_min = "1",
                              .array_step = "2",
                              .array_count = "10",
                              .step_tasks = "4",
                              .procid = "1"},
           13, 40, "Slurm array task 3 of 10, task 1 of 4");
    // A batch script has a PROCID of its own and is no step.
    expect(&(struct rank_env){.procid = "0"}, 0, 1, "the only rank");
}

static void test_order(void **state) {
    (void)state;
    struct rank_env env = {.shard = "0/2", .basin_rank = "x", .array_id = "y", .step_tasks = "z"};
    expect(&env, 0, 2, "--shard"); // what is not asked is not judged
    env.shard = NULL;
    env.basin_rank = "1";
    env.basin_world_size = "3";
    expect(&env, 1, 3, "BASIN_RANK");
}

static void test_every_rank_once(void **state) {
    (void)state;
    static const char *const ids[] = {"10", "15", "20"};
    static const char *const procs[] = {"0", "1"};
    unsigned seen = 0;
    for (size_t a = 0; a < 3; a++) {
        for (size_t p = 0; p < 2; p++) {
            const struct rank_env env = {.array_id = ids[a],
                                         .array_min = "10",
                                         .array_step = "5",
                                         .array_count = "3",
                                         .step_tasks = "2",
                                         .procid = procs[p]};
            struct rank r;
            assert_int_equal(rank_find(&r, &env, NULL), OK);
            assert_int_equal(r.n, 6);
            seen |= 1u << r.i;
        }
    }
    assert_int_equal(seen, 0x3f);
}

static void test_errors(void **state) {
    (void)state;
    static const char *const shards[] = {"",
                                         "1",
                                         "/",
                                         "1/",
                                         "/2",
                                         "a/2",
                                         "1/b",
                                         "-1/2",
                                         "1/2/3",
                                         " 0/2",
                                         "0/2 ",
                                         "+0/2",
                                         "0/99999999999999999999",
                                         "00000000000000000000/1"};
    for (size_t i = 0; i < sizeof shards / sizeof shards[0]; i++) {
        expect_error(&(struct rank_env){.shard = shards[i]}, "must be i/n");
    }
    expect_error(&(struct rank_env){.shard = "2/2"}, "rank 2 of 2");
    expect_error(&(struct rank_env){.shard = "0/0"}, "0 ranks");
    expect_error(&(struct rank_env){.shard = "0/2000000"}, "2000000 ranks");
    expect_error(&(struct rank_env){.basin_rank = "1"}, "BASIN_WORLD_SIZE is not");
    expect_error(&(struct rank_env){.basin_world_size = "1"}, "BASIN_RANK is not");
    expect_error(&(struct rank_env){.basin_rank = "1x", .basin_world_size = "2"}, "BASIN_RANK=1x");
    expect_error(&(struct rank_env){.basin_rank = "1", .basin_world_size = "-2"},
                 "BASIN_WORLD_SIZE=-2");
    expect_error(&(struct rank_env){.basin_rank = "4", .basin_world_size = "4"}, "rank 4 of 4");
    expect_error(&(struct rank_env){.array_id = "1"}, "SLURM_ARRAY_TASK_MIN is not");
    expect_error(&(struct rank_env){.array_id = "1", .array_min = "0"},
                 "SLURM_ARRAY_TASK_COUNT is not");
    expect_error(
        &(struct rank_env){
            .array_id = "7", .array_min = "1", .array_step = "1", .array_count = "3"},
        "irregular");
    expect_error(
        &(struct rank_env){
            .array_id = "2", .array_min = "1", .array_step = "2", .array_count = "3"},
        "irregular");
    expect_error(
        &(struct rank_env){
            .array_id = "0", .array_min = "1", .array_step = "1", .array_count = "3"},
        "irregular");
    expect_error(
        &(struct rank_env){
            .array_id = "1", .array_min = "1", .array_step = "0", .array_count = "3"},
        "irregular");
    expect_error(&(struct rank_env){.step_tasks = "2"}, "SLURM_PROCID is not");
    expect_error(&(struct rank_env){.step_tasks = "2", .procid = "2"}, "not below");
    expect_error(&(struct rank_env){.step_tasks = "0", .procid = "0"}, "not below");
    expect_error(&(struct rank_env){.array_id = "0",
                                    .array_min = "0",
                                    .array_count = "2000000000",
                                    .step_tasks = "2000000000",
                                    .procid = "0"},
                 "ranks; must be");
}

static void test_durations(void **state) {
    (void)state;
    static const struct {
        const char *text;
        double seconds;
    } good[] = {{"90", 90},
                {"90s", 90},
                {"15m", 900},
                {"2h", 7200},
                {"1d", 86400},
                {"0", 0},
                {"0.5s", 0.5},
                {"1.5h", 5400},
                {"01:02:03", 3723},
                {"100:00:00", 3.6e5},
                {"2-03:04:05", 183845},
                {"0-00:00:01", 1}};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        double s = -1;
        assert_int_equal(rank_parse_duration(good[i].text, &s, NULL), OK);
        assert_true(s > good[i].seconds - 1e-9 && s < good[i].seconds + 1e-9);
    }
    static const char *const bad[] = {
        "",   "s",       "-1", "1x",       "1 h", "1:2", "1:60:00", "1:00:60",        "1-24:00:00",
        "1-", "1.",      ".5", "1:00:00s", "nan", "1e3", "1d2h",    "99999999999999", "1-2",
        "::", "-1:00:00"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        double s = -1;
        struct err e = {.code = OK};
        if (rank_parse_duration(bad[i], &s, &e) != E_ARG) fail_msg("\"%s\" was taken", bad[i]);
        assert_true(s == -1);
        assert_non_null(strstr(e.msg, bad[i]));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sources),         cmocka_unit_test(test_order),
        cmocka_unit_test(test_every_rank_once), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_durations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
