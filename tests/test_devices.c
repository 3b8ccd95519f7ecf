/* Jobs on several devices, simulated GPUs and the CPU: the same bytes however many there are, whichever of them
 * fail and when, however little memory they have; and what a run says that cannot have what it was asked for. */
#include "jobs/report.h"
#include "jobs/run.h"
#include "kernels/cuda/cuda_impl.h"
#include "tests/support_tree.h"

#include "io/json.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const struct cuda_tune small = {
    .rows = 16, .vocab = 256, .staging_bytes = 4096, .raw_bytes = 2048};

// Small products: what a run opens is what the tests of the operations open.
enum status __wrap_dev_open_cuda(struct dev **out, int ordinal, const struct dev_config *c,
                                 struct err *e);
enum status __wrap_dev_open_cuda(struct dev **out, int ordinal, const struct dev_config *c,
                                 struct err *e) {
    return cuda_open_with(out, ordinal, &small, c, e);
}

enum { DOCS = 14, VOCAB = 96, LONG = 3 };
static char base[TREE_PATH];

static const struct simt_world fine = {.n_device = 4,
                                       .driver = 13000,
                                       .runtime = 13000,
                                       .memory_bytes = (size_t)1 << 30,
                                       .major = 9,
                                       .fail_launch_after = -1};

// ---- a job

struct job {
    const char *devices, *out, *more; /* more: members of the manifest */
    int stop_after;                   /* tellings of progress; 0: never */
    double checkpoint_s;              /* 0: the default */
    int span;                         /* rows; 0: 64 */
    size_t scarce; /* at the first telling cuda:0 has no more than this left; 0: all */
    int told;
    struct sbuf notes;
    struct run_result result;
    struct err e;
};

static void note(void *ctx, enum run_note kind, const char *text) {
    struct job *j = ctx;
    sbuf_printf(&j->notes, "%s%s\n", kind == RUN_WARNING ? "warning: " : "", text);
}

static void progress(void *ctx, const struct run_progress *p) {
    struct job *j = ctx;
    assert_true(p->bytes_done >= 0);
    if (j->told++ == 0 && j->scarce > 0) {
        simt_world()->memory_of[0] = simt_memory_used() + j->scarce;
    }
}

static bool stop(void *ctx) {
    const struct job *j = ctx;
    return j->stop_after > 0 && j->told >= j->stop_after;
}

static struct manifest *manifest(const struct job *j) {
    struct manifest *m = NULL;
    struct json *doc = NULL;
    struct man_problems problems;
    struct sbuf text;
    char cwd[512];
    struct err e = {.code = OK};
    sbuf_init(&text);
    man_problems_init(&problems);
    assert_non_null(getcwd(cwd, sizeof cwd));
    sbuf_printf(&text,
                "{\"version\":1,%s,\"input\":[{\"path\":\"*.jsonl\",\"ids_key\":\"ids\"}],"
                "\"output\":{\"path\":\"%s\",\"part_bytes\":1500}}",
                j->more != NULL ? j->more : "@", j->out);
    if (j->more == NULL) {
        sbuf_clear(&text);
        sbuf_printf(
            &text,
            "{\"version\":1,\"job\":\"score\",\"model\":{\"path\":\"%s/tests/data/fixtures/"
            "llama\"},"
            "\"input\":[{\"path\":\"*.jsonl\",\"ids_key\":\"ids\"}],"
            "\"cache\":[{\"name\":\"s\",\"mode\":\"sink\",\"sink_tokens\":2,\"window_tokens\":20},"
            "{\"name\":\"d\",\"mode\":\"dense\"}],\"score\":{\"tokens\":true},"
            "\"compute\":{\"span_tokens\":%d,\"dtype\":\"f32\"},"
            "\"output\":{\"path\":\"%s\",\"part_bytes\":1500}}",
            cwd, j->span > 0 ? j->span : 64, j->out);
    }
    if (json_open_text(&doc, "job", text.s, text.n, &e) != OK) fail_msg("%s", e.msg);
    if (man_parse(&m, doc, base, 0, &problems, &e) != OK)
        fail_msg("%s", problems.n_errors > 0 ? problems.errors[0].message : e.msg);
    man_problems_fini(&problems);
    json_close(doc);
    sbuf_fini(&text);
    return m;
}

static enum status run(struct job *j) {
    struct manifest *m = manifest(j);
    struct run_options o = {.devices = j->devices,
                            .isa = CPU_PORTABLE,
                            .n_thread = 1,
                            .rank = {.n = 1},
                            .checkpoint_s = j->checkpoint_s,
                            .hooks = {.ctx = j, .stop = stop, .note = note, .progress = progress}};
    sbuf_init(&j->notes);
    j->told = 0;
    j->e = (struct err){.code = OK};
    const enum status st = run_job(m, &o, &j->result, &j->e);
    man_close(m);
    assert_int_equal(simt_memory_used(), 0);
    return st;
}

static void run_whole(struct job *j) {
    if (run(j) != OK) fail_msg("--devices %s: %s", j->devices, j->e.msg);
    assert_int_equal(j->result.end, RUN_DONE);
    assert_true(j->result.success);
    assert_int_equal(j->result.documents, DOCS);
    assert_int_equal(j->result.failed, 1);
}

static bool said(const struct job *j, const char *text) {
    return j->notes.n > 0 && strstr(j->notes.s, text) != NULL;
}

static void must_say(struct job *j, const char *text) {
    if (!said(j, text)) fail_msg("notes lack \"%s\": %s", text, sbuf_str(&j->notes));
}

static void path_of(char path[TREE_PATH], const char *out) {
    snprintf(path, TREE_PATH, "%.400s/%s", base, out);
}

static void forget(struct job *j) {
    char path[TREE_PATH];
    path_of(path, j->out);
    tree_remove(path);
    sbuf_fini(&j->notes);
}

enum { PARTS = 5 };

static void assert_same(const char *out, const char *want) {
    struct sbuf a, b;
    char x[TREE_PATH], y[TREE_PATH], name[64];
    sbuf_init(&a);
    sbuf_init(&b);
    path_of(x, out);
    path_of(y, want);
    int n = 0;
    for (int part = 0; part < 64; part++) {
        for (int k = 0; k < 3; k++) {
            for (int of = part + 1; of < 64; of++) {
                if (k == 0) snprintf(name, sizeof name, "results-%05d-of-%05d.jsonl.lz4", part, of);
                if (k == 1) snprintf(name, sizeof name, "tokens-%05d-of-%05d.jsonl.lz4", part, of);
                if (k == 2) snprintf(name, sizeof name, "errors-%05d-of-%05d.jsonl", part, of);
                const bool in_a = tree_read(x, name, &a), in_b = tree_read(y, name, &b);
                if (in_a != in_b) fail_msg("%s: only one has it", name);
                if (!in_a) continue;
                n++;
                if (a.n != b.n || memcmp(a.s, b.s, a.n) != 0) fail_msg("%s differs", name);
            }
        }
    }
    assert_true(n >= 2 * PARTS + 1);
    sbuf_fini(&a);
    sbuf_fini(&b);
}

// Calls for each record below `dir`.
static void each_record(const char *dir, void (*f)(struct json *doc, void *ctx), void *ctx) {
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (const struct dirent *x; (x = readdir(d)) != NULL;) {
        char path[TREE_PATH * 2];
        struct json *doc = NULL;
        struct err e = {.code = OK};
        if (x->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", dir, x->d_name);
        if (json_open(&doc, path, 1 << 20, &e) != OK) fail_msg("%s", e.msg);
        f(doc, ctx);
    }
    closedir(d);
}

static void keep_record(struct json *doc, void *ctx) {
    struct json **out = ctx;
    assert_null(*out);
    *out = doc;
}

static struct json *record(const char *out) { // of the only run
    char dir[TREE_PATH + 8];
    struct json *doc = NULL;
    snprintf(dir, sizeof dir, "%.400s/%s/run", base, out);
    each_record(dir, keep_record, &doc);
    assert_non_null(doc);
    return doc;
}

static void add_documents(struct json *doc, void *ctx) {
    *(int64_t *)ctx += json_int(json_get(json_root(doc), "documents"));
    json_close(doc);
}

static void count_documents(const char *dir, int64_t *n) {
    each_record(dir, add_documents, n);
}

// ---- the corpus

static int make_base(void **state) {
    (void)state;
    struct sbuf b;
    *simt_world() = fine;
    tree_make(base);
    sbuf_init(&b);
    for (int d = 0; d < DOCS; d++) {
        const int n = d == LONG ? 600 : d == 5 ? 0 : d == 6 ? 1 : 30 + d * d * 37 % 160;
        sbuf_printf(&b, "{\"ids\":[");
        for (int i = 0; i < n; i++)
            sbuf_printf(&b, i > 0 ? ",%d" : "%d",
                        d == 9 && i == 20 ? 100000 : (i * i + 7 * d) % VOCAB);
        sbuf_printf(&b, "]}\n");
        char name[32];
        snprintf(name, sizeof name, "%02d.jsonl", d / 5);
        if (d % 5 == 4 || d == DOCS - 1) {
            tree_write(base, name, b.s, b.n);
            sbuf_clear(&b);
        }
    }
    sbuf_fini(&b);
    struct job one = {.devices = "cuda:0", .out = "one"}, cpu = {.devices = "cpu", .out = "cpu"};
    run_whole(&one);
    run_whole(&cpu);
    sbuf_fini(&one.notes);
    sbuf_fini(&cpu.notes);
    return 0;
}

static int remove_base(void **state) {
    (void)state;
    tree_remove(base);
    return 0;
}

static int world_back(void **state) {
    (void)state;
    char path[TREE_PATH];
    path_of(path, "several");
    tree_remove(path); // of a test that failed
    *simt_world() = fine;
    return simt_memory_used() == 0 ? 0 : -1;
}

// ---- the same bytes

static void test_same_bytes(void **state) {
    (void)state;
    static const char *const lists[] = {"cuda:1", "cuda:0,1", "cuda:3,2", "cuda"};
    for (size_t i = 0; i < COUNTOF(lists); i++) {
        struct job j = {.devices = lists[i], .out = "several"};
        run_whole(&j);
        assert_same("several", "one");
        forget(&j);
    }
}

/* Each device took documents, and the record says which did what. */
static void test_record(void **state) {
    (void)state;
    struct job j = {.devices = "cuda:0,2", .out = "several"};
    run_whole(&j);
    struct json *doc = record("several");
    const struct jnode *list = json_get(json_root(doc), "devices");
    int64_t documents = 0;
    assert_int_equal(json_len(list), 2);
    for (size_t i = 0; i < 2; i++) {
        const struct jnode *x = json_at(list, i);
        const int64_t n = json_int(json_get(x, "documents"));
        assert_true(n > 0);
        assert_string_equal(json_str(json_get(x, "name"), NULL), i == 0 ? "cuda:0" : "cuda:2");
        documents += n;
    }
    assert_int_equal(documents, DOCS);
    json_close(doc);
    forget(&j);
}

static enum status collect(void *ctx, const char *bytes, size_t n, struct err *e) {
    sbuf_add(ctx, bytes, n);
    return sbuf_status(ctx, e);
}

static void cat(const char *out, struct sbuf *rows) {
    char dir[TREE_PATH];
    struct err e = {.code = OK};
    const struct report_query q = {.stream = LEDGER_RESULTS};
    path_of(dir, out);
    sbuf_init(rows);
    if (report_cat(dir, &q, collect, rows, &e) != OK) fail_msg("%s", e.msg);
    sbuf_putc(rows, '\0');
}

/* cpu,cuda: every row is the one that the device it names computes alone, in the same place. */
static void test_both_kinds(void **state) {
    (void)state;
    struct job j = {.devices = "cpu,cuda:1", .out = "several"};
    struct sbuf mixed, one, cpu;
    int n[2] = {0};
    run_whole(&j);
    cat("several", &mixed), cat("one", &one), cat("cpu", &cpu);
    const char *m = mixed.s, *a = one.s, *b = cpu.s;
    while (*m != '\0') {
        const size_t k = strcspn(m, "\n") + 1, ka = strcspn(a, "\n") + 1, kb = strcspn(b, "\n") + 1;
        const bool is_a = k == ka && memcmp(m, a, k) == 0, is_b = k == kb && memcmp(m, b, k) == 0;
        if (is_a == is_b) fail_msg("a row of neither: %.*s", (int)k, m);
        n[is_b]++;
        m += k, a += ka, b += kb;
    }
    assert_true(n[0] > 0 && n[1] > 0);
    sbuf_fini(&mixed), sbuf_fini(&one), sbuf_fini(&cpu);
    forget(&j);
}

// ---- devices that fail

/* One of two fails for good after k launches: it is set aside, its documents are done by the other. */
static void test_one_fails(void **state) {
    (void)state;
    static const struct {
        int after, error;
        const char *text;
    } cases[] = {{-1, cudaErrorUnknown, "unknown error"},
                 {0, cudaErrorECCUncorrectable, "ECC"},
                 {150, cudaErrorECCUncorrectable, "ECC"},
                 {500, cudaErrorLaunchFailure, "launch failure"}};
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        struct job j = {.devices = "cuda:0,1", .out = "several"};
        *simt_world() = fine;
        if (cases[i].after >= 0) {
            simt_world()->broken = 2;
            simt_world()->broken_after = cases[i].after;
            simt_world()->broken_error = cases[i].error;
            run_whole(&j);
            must_say(&j, "warning: cuda:1 is set aside");
            must_say(&j, cases[i].text);
            assert_same("several", "one");
        } else { // before anything could be opened on it
            simt_world()->broken = 2;
            simt_world()->broken_after = -1;
            simt_world()->broken_error = cases[i].error;
            assert_int_equal(run(&j), E_DEVICE);
            assert_non_null(strstr(j.e.msg, cases[i].text));
            forget(&j);
            j.devices = "cuda"; // all that there are: one that cannot be opened is passed over
            run_whole(&j);
            must_say(&j, "warning: cuda:1 is not used");
            assert_same("several", "one");
        }
        forget(&j);
    }
}

/* A launch that fails once, on whichever device. */
static void test_launch_fails(void **state) {
    (void)state;
    for (int k = 60; k < 700; k += 270) {
        struct job j = {.devices = "cuda:0,1", .out = "several"};
        *simt_world() = fine;
        simt_world()->fail_launch_after = k;
        run_whole(&j);
        must_say(&j, "is set aside, its documents go to the others");
        assert_same("several", "one");
        forget(&j);
    }
}

/* No device is left: what was finished is kept, the same command goes on from there. */
static void test_all_fail(void **state) {
    (void)state;
    for (int n = 1; n <= 2; n++) {
        struct job j = {.devices = n == 1 ? "cuda:0" : "cuda:0,1", .out = "several"};
        *simt_world() = fine;
        simt_world()->broken = 3;
        simt_world()->broken_after = 700;
        simt_world()->broken_error = cudaErrorECCUncorrectable;
        assert_int_equal(run(&j), E_DEVICE);
        assert_non_null(strstr(j.e.msg, "ECC"));
        struct json *doc = record("several");
        assert_true(json_int(json_get(json_root(doc), "documents")) > 0);
        json_close(doc);
        sbuf_fini(&j.notes);
        *simt_world() = fine;
        run_whole(&j);
        assert_same("several", "one");
        char dir[TREE_PATH];
        path_of(dir, "several/run");
        int64_t again = 0;
        count_documents(dir, &again);
        assert_int_equal(again, DOCS); // of both runs: none was done twice
        forget(&j);
    }
}

// ---- stopping

/* Stopped after every few spans, with a checkpoint at each: nothing is lost, middles and rows that wait for
 * their turn included. */
static void test_stops(void **state) {
    (void)state;
    static const char *const lists[] = {"cuda:0", "cuda:0,1", "cuda:1,2,3"};
    for (size_t i = 0; i < COUNTOF(lists); i++) {
        struct job j = {
            .devices = lists[i], .out = "several", .checkpoint_s = 1e-9, .stop_after = 9};
        int stops = 0;
        while (run(&j) == OK && j.result.end == RUN_STOPPED) {
            assert_true(++stops < 60);
            assert_false(said(&j, "not used"));
            sbuf_fini(&j.notes);
        }
        if (j.e.code != OK) fail_msg("%s", j.e.msg);
        assert_true(stops >= 2);
        assert_int_equal(j.result.end, RUN_DONE);
        assert_same("several", "one");
        char dir[TREE_PATH];
        int64_t n = 0;
        path_of(dir, "several/run");
        count_documents(dir, &n);
        assert_int_equal(n, DOCS);
        forget(&j);
    }
}

/* A middle that a GPU saved is not a CPU's: it begins that document anew, and says so. */
static void test_other_kind(void **state) {
    (void)state;
    struct job j = {.devices = "cuda:0", .out = "several", .checkpoint_s = 1e-9, .stop_after = 3};
    assert_int_equal(run(&j), OK);
    assert_int_equal(j.result.end, RUN_STOPPED);
    sbuf_fini(&j.notes);
    j.devices = "cpu";
    j.stop_after = 0;
    run_whole(&j);
    must_say(&j, "checkpoint not used: it belongs to another device");
    forget(&j);
}

// ---- memory

/* With less and less of it spans become smaller, until not even the smallest fits; the bytes stay. */
static void test_memory(void **state) {
    (void)state;
    int whole = 0, smaller = 0, none = 0;
    for (size_t kib = 12000; kib >= 500; kib = kib / 2) {
        struct job j = {.devices = "cuda:0", .out = "several", .span = 512};
        *simt_world() = fine;
        simt_world()->memory_of[0] = kib << 10;
        const enum status st = run(&j);
        if (st == OK) {
            const bool short_of = said(&j, "spans of");
            whole += !short_of;
            smaller += short_of;
            assert_same("several", "one");
        } else {
            none++;
            assert_int_equal(st, E_DEVICE);
            if (strstr(j.e.msg, "no room for") == NULL) fail_msg("%s", j.e.msg);
            assert_non_null(strstr(j.e.msg, "use a smaller"));
        }
        forget(&j);
    }
    if (whole == 0 || smaller == 0 || none == 0)
        fail_msg("%d whole, %d with smaller spans, %d without room", whole, smaller, none);
    assert_true(smaller >= 2);
}

/* Memory that was there when the run was planned and is not any more: spans become smaller on the way. */
static void test_memory_taken(void **state) {
    (void)state;
    struct job j = {.devices = "cuda:0", .out = "several", .span = 256, .scarce = 600 << 10};
    run_whole(&j);
    must_say(&j, "out of memory: goes on with spans of");
    assert_same("several", "one");
    forget(&j);
}

/* One device is too small for anything: the other does it all. */
static void test_one_small(void **state) {
    (void)state;
    struct job j = {.devices = "cuda:0,1", .out = "several"};
    simt_world()->memory_of[1] = 100 << 10;
    run_whole(&j);
    must_say(&j, "cuda:1 is set aside");
    assert_same("several", "one");
    forget(&j);
}

// ---- what cannot be had

static void refused(const char *devices, struct simt_world w, enum status code, const char *text) {
    struct job j = {.devices = devices, .out = "refused"};
    *simt_world() = w;
    const enum status st = run(&j);
    if (st != code || strstr(j.e.msg, text) == NULL)
        fail_msg("--devices %s: %d %s", devices, (int)st, j.e.msg);
    assert_non_null(strstr(j.e.msg, devices));
    forget(&j);
}

static void test_refusals(void **state) {
    (void)state;
    struct simt_world w = fine;
    refused("cuda:0,4", w, E_DEVICE, "there is no GPU 4: 4 to be seen");
    refused("cuda:0,0", w, E_ARG, "cuda:0 is named twice");
    refused("cuda,cuda:1", w, E_ARG, "cuda:1 is named twice");
    refused("cpu,tpu", w, E_ARG, "must be auto");
    w.n_device = 1;
    refused("cuda:0,1", w, E_DEVICE,
            "1 to be seen, counted from 0 in the order of CUDA_VISIBLE_DEVICES");
    w.n_device = 0;
    refused("cuda", w, E_DEVICE, "no GPU is to be seen");
    refused("cpu,cuda", w, E_DEVICE, "CUDA_VISIBLE_DEVICES");
    w = fine;
    w.driver = 11040;
    refused("cuda", w, E_DEVICE, "driver is too old: it supports CUDA 11.4");
    w.driver = 0;
    refused("cuda:0", w, E_DEVICE, "no NVIDIA driver is loaded");
    w = fine;
    w.memory_bytes = 4;
    refused("cuda", w, E_DEVICE, "no room");
    w = fine;
    w.major = 7;
    refused("cuda", w, E_DEVICE, "8.0 is needed");
}

/* Answers are written on one device. */
static void test_generate(void **state) {
    (void)state;
    char more[1024], cwd[512];
    assert_non_null(getcwd(cwd, sizeof cwd));
    snprintf(more, sizeof more,
             "\"job\":\"generate\",\"model\":{\"path\":\"%s/examples/demo/model\"},"
             "\"generate\":{\"max_new_tokens\":2}",
             cwd);
    struct job j = {.devices = "cpu,cuda:1", .out = "refused", .more = more};
    assert_int_equal(run(&j), E_UNSUPPORTED);
    assert_non_null(strstr(j.e.msg, "a generate job runs on one device"));
    forget(&j);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_same_bytes, world_back),
        cmocka_unit_test_teardown(test_record, world_back),
        cmocka_unit_test_teardown(test_both_kinds, world_back),
        cmocka_unit_test_teardown(test_one_fails, world_back),
        cmocka_unit_test_teardown(test_launch_fails, world_back),
        cmocka_unit_test_teardown(test_all_fail, world_back),
        cmocka_unit_test_teardown(test_stops, world_back),
        cmocka_unit_test_teardown(test_other_kind, world_back),
        cmocka_unit_test_teardown(test_memory, world_back),
        cmocka_unit_test_teardown(test_memory_taken, world_back),
        cmocka_unit_test_teardown(test_one_small, world_back),
        cmocka_unit_test_teardown(test_refusals, world_back),
        cmocka_unit_test_teardown(test_generate, world_back),
    };
    return cmocka_run_group_tests(tests, make_base, remove_base);
}
