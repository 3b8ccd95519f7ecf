#include "io/safetensors.h"

#include "base/sbuf.h"
#include "tests/alloc_fail.h"

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

#define INVALID "tests/data/invalid/safetensors"

/* ---- models written by the tests ---- */

static char g_dir[64];

static int make_dir(void **state) {
    (void)state;
    snprintf(g_dir, sizeof g_dir, "/tmp/basin-st-XXXXXX");
    return mkdtemp(g_dir) == NULL;
}

static int remove_dir(void **state) {
    (void)state;
    DIR *d = opendir(g_dir);
    char path[400];
    for (struct dirent *de = readdir(d); de != NULL; de = readdir(d)) {
        snprintf(path, sizeof path, "%s/%s", g_dir, de->d_name);
        if (de->d_name[0] != '.') unlink(path);
    }
    closedir(d);
    return rmdir(g_dir);
}

static void write_file(const char *name, const void *bytes, size_t n) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", g_dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

// A safetensors file whose data bytes count up.
static void write_model(const char *name, const char *header, size_t data_bytes) {
    struct sbuf b;
    sbuf_init(&b);
    const size_t n = strlen(header);
    for (int i = 0; i < 8; i++) sbuf_putc(&b, (char)(n >> (8 * i)));
    sbuf_puts(&b, header);
    for (size_t i = 0; i < data_bytes; i++) sbuf_putc(&b, (char)(i % 251));
    write_file(name, b.s, b.n);
    sbuf_fini(&b);
}

static const char two_tensors[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
    "\"none\":{\"dtype\":\"F64\",\"shape\":[3,0],\"data_offsets\":[24,24]},"
    "\"a\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[24,26]},"
    "\"mask\":{\"dtype\":\"BOOL\",\"shape\":[2],\"data_offsets\":[26,28]}}    ";

static void test_single(void **state) {
    (void)state;
    struct st_files *f = NULL;
    struct err e = {.code = OK};
    write_model("model.safetensors", two_tensors, 28);
    assert_int_equal(st_open(&f, g_dir, &e), OK);
    assert_int_equal(st_count(f), 4);
    assert_string_equal(st_at(f, 0)->name, "a");
    assert_string_equal(st_at(f, 3)->name, "none");
    assert_null(st_at(f, 4));
    const struct st_tensor *a = st_get(f, "a"), *b = st_get(f, "b"), *none = st_get(f, "none");
    assert_int_equal(a->dtype, DT_BF16);
    assert_int_equal(a->n_dim, 0);
    assert_int_equal(a->bytes, 2);
    assert_int_equal(a->data[0], 24);
    assert_int_equal(b->dtype, DT_F32);
    assert_string_equal(b->dtype_text, "F32");
    assert_int_equal(b->n_dim, 2);
    assert_int_equal(b->dim[0], 2);
    assert_int_equal(b->dim[1], 3);
    assert_int_equal(b->bytes, 24);
    assert_int_equal(b->data[23], 23);
    assert_int_equal(none->bytes, 0);
    assert_null(st_get(f, "c"));
    assert_null(st_get(f, ""));
    const struct st_tensor *t = a;
    assert_int_equal(st_need(&t, f, "b", &e), OK);
    assert_ptr_equal(t, b);
    assert_int_equal(st_need(&t, f, "c", &e), E_FORMAT);
    assert_null(t);
    assert_non_null(strstr(e.msg, "tensor \"c\" is missing"));
    struct err e2 = {.code = OK};
    assert_int_equal(st_need(&t, f, "mask", &e2), E_UNSUPPORTED);
    assert_null(t);
    assert_non_null(strstr(e2.msg, "tensor \"mask\": dtype BOOL"));
    assert_int_equal(st_file_count(f), 1);
    assert_int_equal(st_file_bytes(f, 0), 8 + strlen(two_tensors) + 28);
    assert_false(st_torn(f, NULL));
    st_close(f);
    char path[100];
    snprintf(path, sizeof path, "%s/model.safetensors", g_dir); // the file itself will do
    assert_int_equal(st_open(&f, path, NULL), OK);
    assert_int_equal(st_count(f), 4);
    st_close(f);
}

static void test_eight_dimensions(void **state) {
    (void)state;
    struct st_files *f = NULL;
    write_model("model.safetensors",
                "{\"t\":{\"dtype\":\"U8\",\"shape\":[1,1,1,2,1,1,1,3],\"data_offsets\":[0,6]}}", 6);
    assert_int_equal(st_open(&f, g_dir, NULL), OK);
    assert_int_equal(st_at(f, 0)->n_dim, 8);
    assert_int_equal(st_at(f, 0)->dim[7], 3);
    st_close(f);
}

static void test_every_dtype(void **state) {
    (void)state;
    static const struct {
        const char *name;
        enum dtype dtype;
    } known[] = {{"F64", DT_F64},   {"F32", DT_F32},      {"F16", DT_F16}, {"BF16", DT_BF16},
                 {"I32", DT_I32},   {"I64", DT_I64},      {"U8", DT_U8},   {"I8", DT_COUNT},
                 {"U64", DT_COUNT}, {"F8_E4M3", DT_COUNT}};
    static const size_t bytes[] = {8, 4, 2, 2, 4, 8, 1, 1, 8, 1};
    for (size_t i = 0; i < COUNTOF(known); i++) {
        char header[200];
        snprintf(header, sizeof header,
                 "{\"t\":{\"dtype\":\"%s\",\"shape\":[5],\"data_offsets\":[0,%zu]}}", known[i].name,
                 5 * bytes[i]);
        struct st_files *f = NULL;
        write_model("model.safetensors", header, 5 * bytes[i]);
        assert_int_equal(st_open(&f, g_dir, NULL), OK);
        assert_int_equal(st_at(f, 0)->dtype, known[i].dtype);
        assert_string_equal(st_at(f, 0)->dtype_text, known[i].name);
        st_close(f);
    }
}

static void write_shards(void) {
    static const char index[] = "{\"metadata\":{\"total_size\":20},\"weight_map\":"
                                "{\"b\":\"m-2.safetensors\",\"a\":\"m-1.safetensors\","
                                "\"c\":\"m-2.safetensors\"}}";
    write_file("model.safetensors.index.json", index, strlen(index));
    write_model("m-1.safetensors",
                "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4);
    write_model("m-2.safetensors",
                "{\"c\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                "\"b\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[8,16]}}",
                16);
}

static void test_shards(void **state) {
    (void)state;
    struct st_files *f = NULL;
    write_model("model.safetensors", two_tensors, 28); // the index is preferred
    write_shards();
    assert_int_equal(st_open(&f, g_dir, NULL), OK);
    assert_int_equal(st_count(f), 3);
    assert_int_equal(st_file_count(f), 2);
    assert_int_equal(st_get(f, "a")->file, 0);
    assert_int_equal(st_get(f, "b")->file, 1);
    assert_int_equal(st_get(f, "b")->data[0], 8);
    assert_non_null(strstr(st_borrow_file_path(f, 1), "/m-2.safetensors"));
    st_close(f);
}

static void test_no_model(void **state) {
    (void)state;
    struct st_files *f = NULL;
    struct err e = {.code = OK};
    assert_int_equal(st_open(&f, "tests/data/no-such-model", &e), E_NOINPUT);
    assert_null(f);
    assert_non_null(strstr(e.msg, "no-such-model"));
    st_close(NULL);
}

/* ---- hashes ---- */

static void poke(const char *name, long offset_from_end) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", g_dir, name);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, -offset_from_end, SEEK_END), 0);
    const int c = fgetc(f);
    assert_int_equal(fseek(f, -offset_from_end, SEEK_END), 0);
    assert_true(fputc(c ^ 1, f) != EOF);
    assert_int_equal(fclose(f), 0);
}

static void both_hashes(char identity[HASH_TEXT], char full[HASH_TEXT]) {
    struct st_files *f = NULL;
    assert_int_equal(st_open(&f, g_dir, NULL), OK);
    assert_int_equal(st_identity(f, identity, NULL), OK);
    assert_int_equal(st_hash_full(f, full, NULL), OK);
    assert_int_equal(strlen(identity), 32);
    st_close(f);
}

static void test_hashes(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    char header[200], i0[HASH_TEXT], f0[HASH_TEXT], i1[HASH_TEXT], f1[HASH_TEXT];
    snprintf(header, sizeof header,
             "{\"t\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[0,%d]}}", N, N);
    write_model("model.safetensors", header, N);
    both_hashes(i0, f0);
    both_hashes(i1, f1);
    assert_string_equal(i0, i1);
    assert_string_equal(f0, f1);
    static const long sampled[] = {1, 4096, N, N - 4095, (N - 4096) / 5 + 4096, 5 * (long)(N / 11)};
    for (size_t k = 0; k < COUNTOF(sampled); k++) {
        const bool in_sample = k + 1 < COUNTOF(sampled); // the last lies between two samples
        poke("model.safetensors", sampled[k]);
        both_hashes(i1, f1);
        assert_int_equal(strcmp(i0, i1) != 0, in_sample);
        assert_string_not_equal(f0, f1);
        poke("model.safetensors", sampled[k]);
    }
    header[2] = 'u'; // the same data under another name
    write_model("model.safetensors", header, N);
    both_hashes(i1, f1);
    assert_string_not_equal(i0, i1);
    assert_string_not_equal(f0, f1);
}

static void test_torn(void **state) {
    (void)state;
    enum { N = 1 << 16 };
    char header[200], text[HASH_TEXT], path[400];
    struct st_files *f = NULL;
    struct err e = {.code = OK};
    snprintf(header, sizeof header,
             "{\"t\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[0,%d]}}", N, N);
    write_model("model.safetensors", header, N);
    assert_int_equal(st_open(&f, g_dir, NULL), OK);
    snprintf(path, sizeof path, "%s/model.safetensors", g_dir);
    assert_int_equal(truncate(path, 4096), 0);
    const char *torn = NULL;
    assert_false(st_torn(f, &torn)); // nobody has read there yet
    assert_int_equal(st_identity(f, text, &e), E_IO);
    assert_non_null(strstr(e.msg, "cut short while it was read"));
    assert_true(st_torn(f, &torn));
    assert_string_equal(torn, path);
    assert_int_equal(st_hash_full(f, text, NULL), E_IO);
    st_close(f);
}

/* ---- memory that runs out ---- */

static void test_no_memory(void **state) {
    (void)state;
    write_shards();
    long k = 0;
    for (enum status st = E_NOMEM; st != OK; k++) {
        struct st_files *f = NULL;
        struct err e = {.code = OK};
        char text[HASH_TEXT];
        g_fail_at = k;
        st = st_open(&f, g_dir, &e);
        if (st == OK) st = st_identity(f, text, &e);
        g_fail_at = -1;
        if (st != OK) {
            assert_int_equal(st, E_NOMEM);
            assert_int_equal(e.code, E_NOMEM);
        }
        st_close(f);
        assert_true(k < 1000);
    }
    assert_true(k > 15); // each of the many allocations did fail once
}

/* ---- tests/data/invalid ---- */

static void read_error(const char *dir, char *status, char *message, size_t cap) {
    char path[400];
    snprintf(path, sizeof path, "%s/error", dir);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_non_null(fgets(status, (int)cap, f));
    assert_non_null(fgets(message, (int)cap, f));
    status[strcspn(status, "\n")] = message[strcspn(message, "\n")] = '\0';
    fclose(f);
}

static void test_invalid(void **state) {
    (void)state;
    DIR *d = opendir(INVALID);
    assert_non_null(d);
    int n = 0, failed = 0;
    for (struct dirent *de = readdir(d); de != NULL; de = readdir(d)) {
        if (de->d_name[0] == '.') continue;
        char dir[300], status[300], message[300];
        snprintf(dir, sizeof dir, "%s/%s", INVALID, de->d_name);
        read_error(dir, status, message, sizeof status);
        struct st_files *f = NULL;
        struct err e = {.code = OK};
        const enum status st = st_open(&f, dir, &e);
        const bool good = strcmp(err_name(st), status) == 0 && st == e.code &&
                          strstr(e.msg, message) != NULL && strlen(message) > 0 && f == NULL;
        if (!good) print_error("%s: got %s: %s\n", dir, err_name(st), e.msg);
        failed += !good;
        st_close(f);
        n++;
    }
    closedir(d);
    assert_int_equal(failed, 0);
    assert_true(n >= 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        // First: cmocka takes SIGBUS back between tests, and a mapping asks for it only once.
        cmocka_unit_test_setup_teardown(test_torn, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_single, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_eight_dimensions, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_every_dtype, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_shards, make_dir, remove_dir),
        cmocka_unit_test(test_no_model),
        cmocka_unit_test_setup_teardown(test_hashes, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_no_memory, make_dir, remove_dir),
        cmocka_unit_test(test_invalid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
