/* Models in GGUF files: the fixtures rewritten as converters write them, a model in every type against
 * the same model in F32 safetensors, and a real one where BASIN_SMOLLM2 names its file. */
#include "base/cpu.h"
#include "core/model.h"
#include "io/file.h"
#include "io/json.h"
#include "kernels/quant.h"
#include "tests/alloc_fail.h"
#include "tests/support_convert.h"
#include "tests/support_ops.h"
#include "tests/support_score.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>
#include <zlib.h>

#define FIXTURES "tests/data/fixtures/"

static char g_dir[64];

static int make_dir(void **state) {
    (void)state;
    snprintf(g_dir, sizeof g_dir, "/tmp/basin-mg-XXXXXX");
    return mkdtemp(g_dir) == NULL;
}

static int remove_dir(void **state) {
    (void)state;
    struct err e = {0};
    return file_remove_tree(g_dir, &e) != OK;
}

static void must(enum status st, const struct err *e) {
    if (st != OK) fail_msg("%s: %s", err_name(st), e->msg);
}

/* ---- fixtures */

struct fixture {
    int32_t ids[4096];
    double nll[4096];
    int n;
    struct vis_rule rule;
};

static int64_t member(const struct jnode *m, const char *key) {
    const struct jnode *v = json_get(m, key);
    return v != NULL ? json_int(v) : 0;
}

// False when the mode was not recorded.
static bool read_fixture(struct fixture *f, const char *path, const char *mode) {
    struct err e = {0};
    struct json *j = NULL;
    must(json_open(&j, path, 1 << 22, &e), &e);
    const struct jnode *ids = json_get(json_root(j), "ids"), *m = json_get(json_root(j), mode);
    const struct jnode *nll = m != NULL ? json_get(m, "nll") : NULL;
    f->n = (int)json_len(ids);
    if (m == NULL) {
        json_close(j);
        return false;
    }
    assert_int_equal(json_len(nll), f->n - 1);
    for (int i = 0; i < f->n; i++) f->ids[i] = (int32_t)json_int(json_at(ids, (size_t)i));
    for (int i = 0; i < f->n - 1; i++) f->nll[i] = json_num(json_at(nll, (size_t)i));
    f->rule = (struct vis_rule){.dense = strcmp(mode, "dense") == 0,
                                .n_sink = member(m, "S"),
                                .n_win = member(m, "W"),
                                .n_chunk = 1};
    json_close(j);
    return true;
}

static void test_fixtures(void **state) {
    (void)state;
    // The factors of llama3's scaling are float32 in the file: positions up to thousands turn the last
    // bits of their angles; MPT's clip of 0.8 is rounded too. Gemma's norms are float32 with 1 added, which rounds them. The rest is the
    // same arithmetic in another order of dimensions, with an epsilon that was rounded to float32.
    static const struct {
        const char *name;
        double budget;
        int n_mode;
        enum support_local local;
    } cases[] = {{"llama", 1e-9, 2, LOCAL_UNSAID},
                 {"llama_tied", 1e-9, 2, LOCAL_UNSAID},
                 {"yi", 1e-9, 2, LOCAL_UNSAID},
                 {"mistral", 1e-9, 2, LOCAL_UNSAID},
                 {"llama_rope_linear", 1e-9, 2, LOCAL_UNSAID},
                 {"llama_rope_yarn", 1e-9, 2, LOCAL_UNSAID},
                 {"llama_rope_llama3", 1e-4, 2, LOCAL_UNSAID},
                 {"qwen2", 1e-9, 2, LOCAL_UNSAID},
                 {"qwen3", 1e-9, 2, LOCAL_UNSAID},
                 {"gemma3", 1e-5, 2, LOCAL_NUMBER},
                 {"gemma3", 1e-5, 2, LOCAL_FLAGS},
                 {"phi3", 1e-9, 2, LOCAL_UNSAID},
                 {"stablelm2", 1e-9, 2, LOCAL_UNSAID},
                 {"stablelm_epoch", 1e-9, 2, LOCAL_UNSAID},
                 {"falcon_mq", 1e-9, 2, LOCAL_UNSAID},
                 {"falcon_new", 1e-9, 2, LOCAL_UNSAID},
                 {"gpt_neox", 1e-9, 2, LOCAL_UNSAID},
                 {"gpt_neox_seq", 1e-9, 2, LOCAL_UNSAID},
                 {"mpt", 1e-9, 2, LOCAL_UNSAID},
                 {"mpt_clip", 1e-6, 2, LOCAL_UNSAID}, // its limit is float32 in the file
                 {"qwen", 1e-9, 2, LOCAL_UNSAID},
                 {"gpt2", 1e-9, 1, LOCAL_UNSAID},
                 {"mistral_hd24", 1e-9, 2, LOCAL_UNSAID},
                 {"llama_biases", 1e-9, 2, LOCAL_UNSAID},
                 {"qwen2_hd80", 1e-9, 2, LOCAL_UNSAID},
                 {"qwen3_hd96", 1e-9, 2, LOCAL_UNSAID},
                 {"stablelm2_par", 1e-9, 2, LOCAL_UNSAID},
                 {"mpt_clip", 1e-6, 2, LOCAL_UNSAID},
                 {"mpt_qkln", 1e-9, 2, LOCAL_UNSAID}};
    static const char *const modes[] = {"dense", "sink_s4_w28"};
    static struct fixture f;
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        int compared = 0;
        char dir[256], ref[300], path[256];
        double nll[4096];
        snprintf(dir, sizeof dir, FIXTURES "%s", cases[i].name);
        snprintf(ref, sizeof ref, "%s/ref.json", dir);
        snprintf(path, sizeof path, "%s/%s.gguf", g_dir, cases[i].name);
        support_convert(dir, path, cases[i].local);
        for (size_t k = 0; k < COUNTOF(modes); k++) {
            if (!read_fixture(&f, ref, modes[k])) continue;
            compared++;
            const struct score_on on = {"ref", CPU_PORTABLE, DT_F32, DEV_BLOCKS, false};
            support_score(path, &on, &f.rule, f.ids, f.n, 150, nll);
            const double d = support_worst(nll, f.nll, f.n - 1);
            print_message("ref %s %s: %.1e\n", cases[i].name, modes[k], d);
            assert_true(d <= cases[i].budget);
            for (int steps = 0; steps < 2; steps++) {
                const struct score_on cpu = {"cpu", cpu_isa_best(), DT_F32,
                                             steps ? DEV_STEPS : DEV_BLOCKS, false};
                support_score(path, &cpu, &f.rule, f.ids, f.n, 150, nll);
                assert_true(support_worst(nll, f.nll, f.n - 1) <= 1e-4);
            }
        }
        assert_int_equal(compared, cases[i].n_mode);
    }
}

/* What llama.cpp's converter makes of the fixtures is what they are rewritten as here. */

// Where the converter says what it always says, whatever the model; and a key it has lost.
static const char *const unlike[] = {"gpt2.feed_forward_length", "falcon.feed_forward_length",
                                     "stablelm.use_parallel_residual",
                                     "qwen.attention.layer_norm_epsilon"};

static void compare_key(const struct gguf_files *g, const char *key, const char *want) {
    for (size_t i = 0; i < COUNTOF(unlike); i++) {
        if (strcmp(unlike[i], key) == 0) return;
    }
    const struct gguf_value *v = gguf_meta_get(g, key);
    const char *s = NULL;
    size_t n = 0;
    int64_t number = 0;
    double x = 0;
    bool b = false;
    if (v == NULL) fail_msg("%s is not written", key);
    if (gguf_get_bool(v, 0, &b)) {
        assert_string_equal(want, b ? "true" : "false");
    } else if (gguf_get_int(v, 0, &number)) {
        assert_int_equal(number, strtoll(want, NULL, 10));
    } else if (gguf_get_num(v, 0, &x)) {
        assert_true(x == strtod(want, NULL));
    } else {
        assert_true(gguf_get_str(v, 0, &s, &n) && n + 2 == strlen(want));
        assert_memory_equal(s, want + 1, n);
    }
}

static void compare_tensor(const struct gguf_files *g, const char *name, const char *dims,
                           const char *crc) {
    const struct gguf_tensor *t = gguf_get(g, name);
    char have[64], sum[16];
    if (t == NULL) fail_msg("%s is not written", name);
    int n = snprintf(have, sizeof have, "%lld", (long long)t->dim[0]);
    if (t->n_dim > 1) snprintf(have + n, sizeof have - (size_t)n, "x%lld", (long long)t->dim[1]);
    assert_string_equal(have, dims);
    snprintf(sum, sizeof sum, "%08lx", crc32(0, t->data, (uInt)t->bytes));
    // The factors of llama3's scaling come out of another order of operations.
    if (strcmp(name, "rope_freqs.weight") != 0 && strcmp(sum, crc) != 0)
        fail_msg("%s differs from the converter's", name);
}

static void test_as_converted(void **state) {
    (void)state;
    FILE *f = fopen("tests/data/converted.txt", "r");
    struct gguf_files *g = NULL;
    struct err e = {0};
    char line[256], word[3][128], dir[256], path[256];
    size_t n_model = 0, n_tensor = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        char kind[16];
        const int n = sscanf(line, "%15s %127s %127s %127s", kind, word[0], word[1], word[2]);
        if (strcmp(kind, "model") == 0) {
            if (g != NULL) assert_int_equal(n_tensor, gguf_count(g));
            gguf_close(g);
            snprintf(dir, sizeof dir, FIXTURES "%s", word[0]);
            snprintf(path, sizeof path, "%s/as-%s.gguf", g_dir, word[0]);
            support_convert(dir, path, LOCAL_UNSAID);
            must(gguf_open(&g, path, &e), &e);
            n_tensor = 0;
            n_model++;
        } else if (strcmp(kind, "key") == 0) {
            assert_int_equal(n, 3);
            compare_key(g, word[0], word[1]);
        } else {
            assert_int_equal(n, 4);
            compare_tensor(g, word[0], word[1], word[2]);
            n_tensor++;
        }
    }
    assert_int_equal(n_tensor, gguf_count(g));
    assert_int_equal(n_model, 28);
    gguf_close(g);
    fclose(f);
}

/* ---- a model in every type */

static const struct arch shape = {.n_layer = 1,
                                  .d_model = 256,
                                  .n_head = 4,
                                  .n_kv = 2,
                                  .d_head = 64,
                                  .d_ff = 256,
                                  .n_vocab = 96,
                                  .n_ctx_train = 512,
                                  .norm_eps = 1e-5,
                                  .norm_mlp = true,
                                  .n_rot = 64,
                                  .rope = {.theta = 10000, .factor = 1}};

// Matrices in `type`; the same numbers in F32 under the other format's names and row order.
static void write_both(enum dtype type, const char *gguf, const char *dir) {
    uint64_t rng = 3 + (uint64_t)type;
    const struct arch_family *fam = arch_family_find("llama");
    struct arch of_llama = shape;
    struct gw w;
    struct sw s;
    char name[256], path[300];
    of_llama.family = fam;
    gw_init(&w);
    sw_init(&s);
    support_put_metadata(&w, &of_llama, LOCAL_UNSAID);
    for (int i = 0; i < fam->n_tensor; i++) {
        const struct arch_tensor *t = &fam->tensors[i];
        if (!arch_has(&shape, t)) continue;
        const bool vector = arch_use(t->role) == WT_VECTOR;
        const enum dtype as = vector ? DT_F32 : type;
        const struct arch_place place = arch_place(&shape, t->role, t->part);
        const int64_t dim[2] = {place.n_out, place.n_in};
        const size_t row_bytes = dtype_row_bytes(as, dim[1]), bytes = row_bytes * (size_t)dim[0];
        unsigned char *data = malloc(bytes);
        float *f32 = malloc((size_t)(dim[0] * dim[1]) * sizeof(float));
        support_blocks(data, dim[0] * dim[1], as, vector ? 1 : 0.03, &rng);
        for (int64_t r = 0; r < dim[0]; r++) {
            const unsigned char *from =
                data + (size_t)support_paired_row(t->role, &shape, r) * row_bytes;
            for (int64_t c = 0; c < dim[1] && dtype_block(as) == 1; c++) {
                uint16_t h = 0;
                if (as == DT_F32) memcpy(f32 + r * dim[1] + c, from + 4 * c, 4);
                if (as != DT_F32) memcpy(&h, from + 2 * c, 2);
                if (as == DT_F16) f32[r * dim[1] + c] = dtype_f16_to_f32(h);
                if (as == DT_BF16) f32[r * dim[1] + c] = dtype_bf16_to_f32(h);
            }
            if (dtype_block(as) > 1) dev_quant_floats(f32 + r * dim[1], from, as, dim[1]);
        }
        arch_tensor_name(name, sizeof name, t->gguf, 0);
        gw_tensor(&w, name, vector ? 1 : 2, dim, as, data, bytes);
        arch_tensor_name(name, sizeof name, t->name, 0);
        sw_tensor(&s, name, vector ? 1 : 2, dim, f32);
        free(data);
        free(f32);
    }
    gw_save(&w, gguf);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    sw_save(&s, path);
    gw_fini(&w);
    sw_fini(&s);
    static const char config[] =
        "{\"model_type\":\"llama\",\"hidden_size\":256,\"intermediate_size\":256,"
        "\"num_hidden_layers\":1,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
        "\"vocab_size\":96,\"max_position_embeddings\":512,\"rms_norm_eps\":1e-05,"
        "\"hidden_act\":\"silu\",\"tie_word_embeddings\":false}";
    snprintf(path, sizeof path, "%s/config.json", dir);
    support_write(path, config, sizeof config - 1);
}

static void test_every_type(void **state) {
    (void)state;
    static const enum dtype types[] = {DT_F32,  DT_F16,  DT_BF16, DT_Q8_0, DT_Q4_0, DT_Q4_1,
                                       DT_Q5_0, DT_Q5_1, DT_Q4_K, DT_Q5_K, DT_Q6_K};
    enum { N = 20 };
    const struct vis_rule rule = {.n_sink = 2, .n_win = 5, .n_chunk = 1};
    int32_t ids[N];
    for (int i = 0; i < N; i++) ids[i] = (i * 37 + 5) % 96;
    for (size_t t = 0; t < COUNTOF(types); t++) {
        char gguf[128], dir[128];
        double got[N], want[N];
        snprintf(gguf, sizeof gguf, "%s/%s.gguf", g_dir, dtype_name(types[t]));
        snprintf(dir, sizeof dir, "%s/%s", g_dir, dtype_name(types[t]));
        assert_int_equal(mkdir(dir, 0777), 0);
        write_both(types[t], gguf, dir);
        const struct score_on devices[] = {{"ref", CPU_PORTABLE, DT_F32, DEV_BLOCKS, false},
                                           {"cpu", CPU_PORTABLE, DT_F32, DEV_BLOCKS, false},
                                           {"cpu", CPU_PORTABLE, DT_F32, DEV_STEPS, false},
                                           {"cpu", cpu_isa_best(), DT_F32, DEV_BLOCKS, false},
                                           {"cpu", cpu_isa_best(), DT_F32, DEV_STEPS, false}};
        for (size_t k = 0; k < COUNTOF(devices); k++) {
            const struct score_on on = devices[k];
            support_score(gguf, &on, &rule, ids, N, 8, got);
            support_score(dir, &on, &rule, ids, N, 8, want);
            const double d = support_worst(got, want, N - 1);
            if (!(d <= (k == 0 ? 1e-9 : 1e-5)) || !(fabs(want[N - 2]) < 50))
                fail_msg("%s on %s: off by %g", dtype_name(types[t]), on.device, d);
        }
        struct model *m = NULL;
        struct err e = {0};
        must(model_open(&m, gguf, &e), &e);
        assert_int_equal(model_stored_dtype(m), types[t]);
        assert_int_equal(model_params(m), 2 * 96 * 256 + 3 * 256 + 5 * 65536 + 2 * 32768);
        model_close(m);
    }
}

/* ---- places and troubles */

static void test_places(void **state) {
    (void)state;
    struct model *a = NULL, *b = NULL, *none = NULL;
    struct err e = {0};
    char dir[128], file[160], identity[64];
    snprintf(dir, sizeof dir, "%s/place", g_dir);
    snprintf(file, sizeof file, "%s/some.gguf", dir);
    assert_int_equal(mkdir(dir, 0777), 0);
    assert_int_equal(model_open(&none, dir, &e), E_NOINPUT); // no model of any kind
    support_convert(FIXTURES "llama", file, LOCAL_UNSAID);
    e = (struct err){0};
    must(model_open(&a, file, &e), &e);
    must(model_open(&b, dir, &e), &e);
    assert_string_equal(model_identity(a), model_identity(b));
    assert_int_equal(model_arch(a)->n_vocab, 256);
    assert_true(model_arch(a)->rope_interleaved);
    must(model_check_files(a, &e), &e);
    snprintf(identity, sizeof identity, "%s", model_identity(a));
    model_close(a);
    model_close(b);
    FILE *f = fopen(file, "r+b"); // a byte in the middle of the last tensor's last row
    assert_int_equal(fseek(f, -34, SEEK_END), 0);
    const int was = fgetc(f);
    assert_int_equal(fseek(f, -34, SEEK_END), 0);
    assert_int_equal(fputc(was ^ 1, f), was ^ 1);
    fclose(f);
    must(model_open(&a, file, &e), &e);
    assert_string_not_equal(model_identity(a), identity);
    model_close(a);
    snprintf(dir, sizeof dir, "%s/place/config.json", g_dir); // neither a directory nor GGUF
    support_write(dir, "{}", 2);
    assert_int_equal(model_open(&none, dir, &e), E_FORMAT);
    assert_non_null(strstr(e.msg, "not a GGUF file"));
}

static void test_rope_freqs_not_positive(void **state) {
    (void)state;
    static const float bad[] = {0.0f, -1.0f, NAN, INFINITY};
    for (size_t i = 0; i < COUNTOF(bad); i++) {
        char path[128];
        struct err e = {0};
        struct model *m = NULL;
        struct model_on *on = NULL;
        struct dev *d = ops_open_ref(DT_F32);
        snprintf(path, sizeof path, "%s/freqs%zu.gguf", g_dir, i);
        support_convert(FIXTURES "llama_rope_llama3", path, LOCAL_UNSAID);
        FILE *f = fopen(path, "r+b");
        struct gguf_files *g = NULL;
        must(gguf_open(&g, path, &e), &e);
        // rope_freqs.weight is the first tensor that the conversion writes.
        const long at =
            (long)(gguf_get(g, "token_embd.weight")->data - gguf_get(g, "rope_freqs.weight")->data);
        assert_int_equal(at, 32);
        const size_t header = (size_t)gguf_get(g, "rope_freqs.weight")->bytes;
        assert_int_equal(header, 32);
        fseek(f, 0, SEEK_END);
        const long end = ftell(f);
        size_t data = 0;
        for (size_t k = 0; k < gguf_count(g); k++) data += (gguf_at(g, k)->bytes + 31) / 32 * 32;
        gguf_close(g);
        assert_int_equal(fseek(f, end - (long)data + 4, SEEK_SET), 0);
        assert_int_equal(fwrite(&bad[i], 4, 1, f), 1);
        fclose(f);
        must(model_open(&m, path, &e), &e);
        assert_int_equal(model_on_open(&on, m, d, &e), E_FORMAT);
        assert_non_null(strstr(e.msg, "rope_freqs.weight: element 1"));
        model_close(m);
        dev_close(d);
    }
}

static void test_allocations_fail(void **state) {
    (void)state;
    char path[128];
    struct dev *d = ops_open_ref(DT_F32);
    enum status st = E_NOMEM;
    long k = 0;
    snprintf(path, sizeof path, "%s/alloc.gguf", g_dir);
    support_convert(FIXTURES "llama_rope_llama3", path, LOCAL_UNSAID);
    for (; st != OK && k < 10000; k++) {
        struct model *m = NULL;
        struct model_on *on = NULL;
        struct err e = {0};
        g_fail_at = k;
        st = model_open(&m, path, &e);
        if (st == OK) st = model_on_open(&on, m, d, &e);
        g_fail_at = -1;
        if (st != OK && st != E_NOMEM) fail_msg("%s: %s", err_name(st), e.msg);
        model_on_close(on);
        model_close(m);
    }
    assert_int_equal(st, OK);
    assert_true(k > 60); // names and keys alone
    dev_close(d);
}

/* ---- SmolLM2-135M-Instruct (tools/get-smollm2.sh) */

static double mean(const double *x, int n) {
    double s = 0;
    for (int i = 0; i < n; i++) s += x[i];
    return s / n;
}

// Against the losses of an f32 run.
static void compare_smollm2(const char *path, const struct fixture *f, const char *what,
                            const double *f32, struct score_on on) {
    static double got[4096];
    const int n = f->n - 1;
    support_score(path, &on, &f->rule, f->ids, f->n, 2048, got);
    const double bias = mean(got, n) - mean(f32, n), worst = support_worst(got, f32, n);
    double spread = 0;
    for (int k = 0; k < n; k++) spread += fabs(got[k] - f32[k]) / n;
    print_message("    %s: mean %.1e absolute %.1e worst %.1e\n", what, bias, spread, worst);
    const bool exact = on.dtype == DT_F32;
    assert_true(fabs(bias) <= (exact ? 1e-5 : on.int8 ? 0.02 : 0.003));
    assert_true(spread <= (exact ? 1e-4 : on.int8 ? 0.15 : 0.03));
}

static void test_smollm2(void **state) {
    (void)state;
    const char *path = getenv("BASIN_SMOLLM2");
    if (path == NULL) {
        print_message("BASIN_SMOLLM2 names no file: see tools/get-smollm2.sh\n");
        skip();
    }
    static const char *const modes[] = {"sink_s4_w252", "window_s0_w256"};
    static struct fixture f;
    static double f32[4096];
    for (size_t i = 0; i < COUNTOF(modes); i++) {
        assert_true(read_fixture(&f, FIXTURES "smollm2/ref.json", modes[i]));
        const int n = f.n - 1;
        const struct score_on full = {"cpu", cpu_isa_best(), DT_F32, DEV_BLOCKS, false};
        support_score(path, &full, &f.rule, f.ids, f.n, 2048, f32);
        const double worst = support_worst(f32, f.nll, n);
        const double off = fabs(mean(f32, n) - mean(f.nll, n));
        print_message("%s: f32 worst %.1e mean %.1e\n", modes[i], worst, off);
        assert_true(worst <= 5e-4);
        assert_true(off <= 1e-5);
        compare_smollm2(path, &f, "f32 steps", f32,
                        (struct score_on){"cpu", cpu_isa_best(), DT_F32, DEV_STEPS, false});
        compare_smollm2(path, &f, "bf16", f32,
                        (struct score_on){"cpu", cpu_isa_best(), DT_BF16, DEV_BLOCKS, false});
        compare_smollm2(path, &f, "bf16 steps", f32,
                        (struct score_on){"cpu", cpu_isa_best(), DT_BF16, DEV_STEPS, false});
        compare_smollm2(path, &f, "int8", f32,
                        (struct score_on){"cpu", cpu_isa_best(), DT_BF16, DEV_BLOCKS, true});
        compare_smollm2(path, &f, "int8 steps", f32,
                        (struct score_on){"cpu", cpu_isa_best(), DT_BF16, DEV_STEPS, true});
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures),
        cmocka_unit_test(test_as_converted),
        cmocka_unit_test(test_every_type),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_rope_freqs_not_positive),
        cmocka_unit_test(test_allocations_fail),
        cmocka_unit_test(test_smollm2),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
