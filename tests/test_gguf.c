/* The GGUF reader: files written here, broken files of tests/data/invalid/gguf (tools/mkinvalid_gguf.py),
 * split models, failing allocations, files cut short while mapped. */
#include "io/gguf.h"

#include "base/sbuf.h"
#include "core/model.h"
#include "io/file.h"
#include "tests/alloc_fail.h"
#include "tests/support_gguf.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define INVALID "tests/data/invalid/gguf"

static char g_dir[64];

static int make_dir(void **state) {
    (void)state;
    snprintf(g_dir, sizeof g_dir, "/tmp/basin-gguf-XXXXXX");
    return mkdtemp(g_dir) == NULL;
}

static int remove_dir(void **state) {
    (void)state;
    struct err e = {0};
    return file_remove_tree(g_dir, &e) != OK;
}

static const char *in_dir(const char *name) {
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", g_dir, name);
    return path;
}

/* ---- a whole file */

static const int64_t dim_a[] = {2, 3}, dim_b[] = {5, 32}, dim_c[] = {7};
static unsigned char bytes_a[24], bytes_b[5 * 34], bytes_c[7 * 2];

static void fill(struct gw *w) {
    for (size_t i = 0; i < sizeof bytes_a; i++) bytes_a[i] = (unsigned char)(i + 1);
    for (size_t i = 0; i < sizeof bytes_b; i++) bytes_b[i] = (unsigned char)(3 * i);
    for (size_t i = 0; i < sizeof bytes_c; i++) bytes_c[i] = (unsigned char)(7 * i);
    gw_str(w, "general.name", "a model");
    gw_u32(w, "llama.block_count", 7);
    gw_f32(w, "llama.eps", 0.5f);
    gw_strs(w, "tokenizer.ggml.tokens", (const char *const[]){"one", "", "three"}, 3);
    gw_u32s(w, "llama.heads", (const uint32_t[]){4, 5}, 2);
    gw_strs(w, "none", NULL, 0);
    gw_tensor(w, "b", 2, dim_b, DT_Q8_0, bytes_b, sizeof bytes_b);
    gw_tensor(w, "a", 2, dim_a, DT_F32, bytes_a, sizeof bytes_a);
    gw_tensor(w, "c", 1, dim_c, DT_BF16, bytes_c, sizeof bytes_c);
}

static void write_whole(const char *name, uint32_t version, uint32_t alignment) {
    struct gw w;
    gw_init(&w);
    w.version = version;
    w.alignment = alignment;
    if (alignment != 32) gw_u32(&w, "general.alignment", alignment);
    fill(&w);
    gw_save(&w, in_dir(name));
    gw_fini(&w);
}

static void check_tensors(const struct gguf_files *f) {
    assert_int_equal(gguf_count(f), 3);
    assert_string_equal(gguf_at(f, 0)->name, "a");
    assert_string_equal(gguf_at(f, 2)->name, "c");
    assert_null(gguf_at(f, 3));
    assert_null(gguf_get(f, "d"));
    const struct gguf_tensor *a = gguf_get(f, "a"), *b = gguf_get(f, "b"), *c = gguf_get(f, "c");
    assert_int_equal(a->dtype, DT_F32);
    assert_int_equal(a->n_dim, 2);
    assert_int_equal(a->dim[0], 2); // row-major
    assert_int_equal(a->dim[1], 3);
    assert_int_equal(a->bytes, sizeof bytes_a);
    assert_memory_equal(a->data, bytes_a, sizeof bytes_a);
    assert_int_equal(b->dtype, DT_Q8_0);
    assert_string_equal(b->dtype_text, "Q8_0");
    assert_int_equal(b->dim[0], 5);
    assert_int_equal(b->bytes, sizeof bytes_b);
    assert_memory_equal(b->data, bytes_b, sizeof bytes_b);
    assert_int_equal(c->dtype, DT_BF16);
    assert_int_equal(c->n_dim, 1);
    assert_memory_equal(c->data, bytes_c, sizeof bytes_c);
}

static void test_whole(void **state) {
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        for (uint32_t alignment = 8; alignment <= 4096; alignment *= 4) {
            struct gguf_files *f = NULL;
            struct err e = {0};
            write_whole("whole.gguf", version, alignment);
            if (gguf_open(&f, in_dir("whole.gguf"), &e) != OK) fail_msg("%s", e.msg);
            check_tensors(f);
            assert_int_equal(gguf_file_count(f), 1);
            assert_string_equal(gguf_borrow_path(f, 0), in_dir("whole.gguf"));
            assert_false(gguf_torn(f, NULL));
            gguf_close(f);
        }
    }
}

static void test_metadata(void **state) {
    (void)state;
    struct gguf_files *f = NULL;
    struct err e = {0};
    int64_t n = 0;
    double x = 0;
    bool b = false;
    const char *s = NULL;
    size_t bytes = 0;
    write_whole("meta.gguf", 3, 32);
    assert_int_equal(gguf_open(&f, in_dir("meta.gguf"), &e), OK);
    assert_int_equal(gguf_meta_count(f), 6);
    for (size_t i = 1; i < 6; i++) {
        assert_true(strcmp(gguf_meta_at(f, i - 1)->key, gguf_meta_at(f, i)->key) < 0);
    }
    assert_null(gguf_meta_at(f, 6));
    assert_null(gguf_meta_get(f, "llama"));
    const struct gguf_value *v = gguf_meta_get(f, "llama.block_count");
    assert_int_equal(v->type, GGUF_U32);
    assert_false(v->array);
    assert_true(gguf_get_int(v, 0, &n));
    assert_int_equal(n, 7);
    assert_false(gguf_get_int(v, 1, &n));
    assert_false(gguf_get_num(v, 0, &x));
    assert_false(gguf_get_bool(v, 0, &b));
    assert_false(gguf_get_str(v, 0, &s, &bytes));
    assert_true(gguf_get_num(gguf_meta_get(f, "llama.eps"), 0, &x));
    assert_true(x == 0.5);
    assert_false(gguf_get_int(gguf_meta_get(f, "llama.eps"), 0, &n));
    assert_true(gguf_get_str(gguf_meta_get(f, "general.name"), 0, &s, &bytes));
    assert_int_equal(bytes, 7);
    assert_memory_equal(s, "a model", 7);
    assert_false(gguf_get_int(gguf_meta_get(f, "general.name"), 0, &n));
    v = gguf_meta_get(f, "llama.heads");
    assert_true(v->array && v->n == 2);
    assert_true(gguf_get_int(v, 1, &n));
    assert_int_equal(n, 5);
    v = gguf_meta_get(f, "tokenizer.ggml.tokens");
    assert_int_equal(v->n, 3);
    assert_true(gguf_get_str(v, 1, &s, &bytes));
    assert_int_equal(bytes, 0);
    assert_true(gguf_get_str(v, 2, &s, &bytes));
    assert_int_equal(bytes, 5);
    assert_memory_equal(s, "three", 5);
    assert_false(gguf_get_str(v, 3, &s, &bytes));
    assert_int_equal(gguf_meta_get(f, "none")->n, 0);
    gguf_close(f);
}

// Every integer type at its ends.
static void test_integers(void **state) {
    (void)state;
    const struct {
        enum gguf_type type;
        unsigned char bytes[8];
        bool fits;
        int64_t want;
    } cases[] = {{GGUF_U8, {255}, true, 255},
                 {GGUF_I8, {128}, true, -128},
                 {GGUF_U16, {255, 255}, true, 65535},
                 {GGUF_I16, {0, 128}, true, -32768},
                 {GGUF_U32, {255, 255, 255, 255}, true, 4294967295},
                 {GGUF_I32, {0, 0, 0, 128}, true, INT32_MIN},
                 {GGUF_I64, {0, 0, 0, 0, 0, 0, 0, 128}, true, INT64_MIN},
                 {GGUF_U64, {255, 255, 255, 255, 255, 255, 255, 127}, true, INT64_MAX},
                 {GGUF_U64, {0, 0, 0, 0, 0, 0, 0, 128}, false, 0},
                 {GGUF_BOOL, {1}, false, 0},
                 {GGUF_F64, {0, 0, 0, 0, 0, 0, 240, 63}, false, 0}};
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        const struct gguf_value v = {
            .key = "k", .type = cases[i].type, .n = 1, .data = cases[i].bytes};
        int64_t n = 0;
        assert_int_equal(gguf_get_int(&v, 0, &n), cases[i].fits);
        if (cases[i].fits) assert_true(n == cases[i].want);
    }
    const struct gguf_value one = {.key = "k", .type = GGUF_F64, .n = 1, .data = cases[10].bytes};
    double x = 0;
    assert_true(gguf_get_num(&one, 0, &x));
    assert_true(x == 1);
}

/* ---- broken files */

static void first_line(const char *path, char *line, size_t cap, char *rest, size_t rest_cap) {
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_non_null(fgets(line, (int)cap, f));
    assert_non_null(fgets(rest, (int)rest_cap, f));
    fclose(f);
    line[strcspn(line, "\n")] = '\0';
    rest[strcspn(rest, "\n")] = '\0';
}

static void run_case(const char *name) {
    char path[400], status[64], message[300];
    struct err e = {0};
    snprintf(path, sizeof path, INVALID "/%s/error", name);
    first_line(path, status, sizeof status, message, sizeof message);
    snprintf(path, sizeof path, INVALID "/%s/model-00001-of-00002.gguf", name);
    if (access(path, F_OK) != 0) snprintf(path, sizeof path, INVALID "/%s/model.gguf", name);
    struct gguf_files *f = NULL;
    struct model *m = NULL;
    enum status st = gguf_open(&f, path, &e);
    gguf_close(f);
    if (strncmp(name, "model_", 6) == 0) {
        if (st != OK) fail_msg("%s: %s", name, e.msg);
        st = model_open(&m, path, &e);
        model_close(m);
    }
    if (strcmp(err_name(st), status) != 0)
        fail_msg("%s: %s (%s), not %s", name, err_name(st), e.msg, status);
    if (strstr(e.msg, message) == NULL)
        fail_msg("%s: \"%s\" does not say \"%s\"", name, e.msg, message);
    if (strstr(e.msg, ".gguf") == NULL) fail_msg("%s: \"%s\" names no file", name, e.msg);
}

static void test_invalid(void **state) {
    (void)state;
    DIR *d = opendir(INVALID);
    assert_non_null(d);
    int n = 0;
    for (struct dirent *ent; (ent = readdir(d)) != NULL;) {
        if (ent->d_name[0] == '.') continue;
        run_case(ent->d_name);
        n++;
    }
    closedir(d);
    assert_true(n >= 120);
}

// Every prefix of a good file is refused, and so is every byte of its header changed to 0xFF, or it is
// still a whole file; nothing is read outside (ASan).
static void test_every_prefix_and_byte(void **state) {
    (void)state;
    struct sbuf b;
    struct err e = {0};
    sbuf_init(&b);
    write_whole("good.gguf", 3, 32);
    assert_int_equal(file_read_all(in_dir("good.gguf"), 1 << 20, &b, &e), OK);
    const size_t used = b.n - 32; // the last tensor is shorter than its padding
    for (size_t n = 0; n < used; n += n < 600 ? 1 : 13) {
        struct gguf_files *f = NULL;
        support_write(in_dir("cut.gguf"), b.s, n);
        e = (struct err){0};
        const enum status st = gguf_open(&f, in_dir("cut.gguf"), &e);
        if (st != E_FORMAT) fail_msg("%zu bytes: %s", n, err_name(st));
        assert_null(f);
    }
    for (size_t i = 0; i < 600; i++) {
        struct gguf_files *f = NULL;
        const char was = b.s[i];
        b.s[i] = (char)0xFF;
        support_write(in_dir("bent.gguf"), b.s, b.n);
        const enum status st = gguf_open(&f, in_dir("bent.gguf"), NULL);
        assert_true(st == OK || st == E_FORMAT || st == E_UNSUPPORTED);
        gguf_close(f);
        b.s[i] = was;
    }
    sbuf_fini(&b);
}

/* ---- split models */

static void write_split(int no, int count, const char *tensor, bool repeat) {
    struct gw w;
    char name[64];
    gw_init(&w);
    gw_u16(&w, "split.no", (uint16_t)no);
    gw_u16(&w, "split.count", (uint16_t)count);
    gw_u32(&w, "split.tensors.count", 3);
    if (no == 0 || repeat) gw_str(&w, "general.name", "split");
    gw_tensor(&w, tensor, 2, dim_a, DT_F32, bytes_a, sizeof bytes_a);
    snprintf(name, sizeof name, "m-%05d-of-%05d.gguf", no + 1, count);
    gw_save(&w, in_dir(name));
    gw_fini(&w);
}

static void test_split(void **state) {
    (void)state;
    struct gguf_files *f = NULL;
    struct err e = {0};
    struct sbuf found;
    char one[HASH_TEXT], two[HASH_TEXT];
    sbuf_init(&found);
    for (int i = 0; i < 3; i++) write_split(i, 3, (const char *const[]){"z", "x", "y"}[i], i == 2);
    if (gguf_open(&f, in_dir("m-00001-of-00003.gguf"), &e) != OK) fail_msg("%s", e.msg);
    assert_int_equal(gguf_file_count(f), 3);
    assert_int_equal(gguf_count(f), 3);
    assert_string_equal(gguf_at(f, 0)->name, "x");
    assert_int_equal(gguf_at(f, 0)->file, 1);
    assert_int_equal(gguf_get(f, "z")->file, 0);
    assert_memory_equal(gguf_get(f, "y")->data, bytes_a, sizeof bytes_a);
    assert_int_equal(gguf_identity(f, one, &e), OK);
    gguf_close(f);
    // Other bytes in the last file: another model.
    bytes_a[23] ^= 1;
    write_split(2, 3, "y", true);
    bytes_a[23] ^= 1;
    assert_int_equal(gguf_open(&f, in_dir("m-00001-of-00003.gguf"), &e), OK);
    assert_int_equal(gguf_identity(f, two, &e), OK);
    assert_string_not_equal(one, two);
    gguf_close(f);
    // A directory of splits is one model; a second one in it is one too many.
    char alone[80];
    snprintf(alone, sizeof alone, "%s/alone", g_dir);
    assert_int_equal(mkdir(alone, 0777), 0);
    assert_int_equal(gguf_find(&found, alone, &e), OK);
    assert_string_equal(sbuf_str(&found), "");
    for (int i = 1; i <= 3; i++) {
        char from[200], to[200];
        snprintf(from, sizeof from, "%s/m-%05d-of-00003.gguf", g_dir, i);
        snprintf(to, sizeof to, "%s/m-%05d-of-00003.gguf", alone, i);
        assert_int_equal(rename(from, to), 0);
    }
    assert_int_equal(gguf_find(&found, alone, &e), OK);
    assert_non_null(strstr(sbuf_str(&found), "alone/m-00001-of-00003.gguf"));
    write_whole("alone/other.gguf", 3, 32);
    assert_int_equal(gguf_find(&found, alone, &e), E_ARG);
    assert_non_null(strstr(e.msg, "several .gguf models"));
    e = (struct err){0};
    assert_int_equal(gguf_find(&found, in_dir("nowhere"), &e), E_NOINPUT);
    sbuf_fini(&found);
}

/* ---- trouble */

static void test_allocations_fail(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) write_split(i, 3, (const char *const[]){"z", "x", "y"}[i], i == 2);
    write_whole("alloc.gguf", 3, 32);
    const char *const paths[] = {"m-00001-of-00003.gguf", "alloc.gguf"};
    for (size_t p = 0; p < COUNTOF(paths); p++) {
        enum status st = E_NOMEM;
        long k = 0;
        for (; st != OK && k < 1000; k++) {
            struct gguf_files *f = NULL;
            struct err e = {0};
            char text[HASH_TEXT];
            g_fail_at = k;
            st = gguf_open(&f, in_dir(paths[p]), &e);
            if (st == OK) st = gguf_identity(f, text, &e);
            g_fail_at = -1;
            if (st != OK && st != E_NOMEM) fail_msg("%s: %s", err_name(st), e.msg);
            gguf_close(f);
        }
        assert_int_equal(st, OK);
        assert_true(k > 15);
    }
}

static void test_cut_while_mapped(void **state) {
    (void)state;
    struct gguf_files *f = NULL;
    struct err e = {0};
    struct gw w;
    const int64_t dim[] = {4096};
    unsigned char *data = calloc(4096, 4);
    char text[HASH_TEXT];
    const char *torn = NULL;
    gw_init(&w);
    gw_tensor(&w, "t", 1, dim, DT_F32, data, 4 * 4096);
    gw_save(&w, in_dir("torn.gguf"));
    gw_fini(&w);
    free(data);
    assert_int_equal(gguf_open(&f, in_dir("torn.gguf"), &e), OK);
    assert_int_equal(truncate(in_dir("torn.gguf"), 4096), 0);
    assert_int_equal(gguf_identity(f, text, &e), E_IO);
    assert_non_null(strstr(e.msg, "torn.gguf"));
    assert_true(gguf_torn(f, &torn));
    assert_non_null(strstr(torn, "torn.gguf"));
    gguf_close(f);
}

static void test_missing(void **state) {
    (void)state;
    struct gguf_files *f = NULL;
    struct err e = {0};
    assert_int_equal(gguf_open(&f, in_dir("nothing.gguf"), &e), E_NOINPUT);
    assert_null(f);
    gguf_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_while_mapped), // first: cmocka takes SIGBUS back after each test
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_invalid),
        cmocka_unit_test(test_every_prefix_and_byte),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_allocations_fail),
        cmocka_unit_test(test_missing),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
