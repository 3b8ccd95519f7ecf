/* Models in GGUF files: the fixtures rewritten as converters write them, a model in every type against
 * the same model in F32 safetensors, and a real one where BASIN_SMOLLM2 names its file. */
#include "base/cpu.h"
#include "core/model.h"
#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "kernels/quant.h"
#include "tests/alloc_fail.h"
#include "tests/support_gguf.h"
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

/* ---- writing a model in both formats */

/* Rows of q and k as converters to GGUF put them: pairs (k, k + d/2) of a head become (2k, 2k + 1). */
static int64_t stored_row(enum arch_role role, const struct arch *a, int64_t row) {
    const bool turns =
        role == ARCH_Q || role == ARCH_K || role == ARCH_Q_BIAS || role == ARCH_K_BIAS;
    const int64_t half = a->d_head / 2, i = row % a->d_head;
    return turns ? row - i + i % half * 2 + i / half : row;
}

static void put_metadata(struct gw *w, const struct arch *a) {
    static const char *const kinds[] = {"none", "linear", NULL, "yarn"};
    gw_str(w, "general.architecture", "llama");
    gw_u32(w, "general.quantization_version", 2);
    gw_u32(w, "llama.block_count", (uint32_t)a->n_layer);
    gw_u32(w, "llama.context_length", (uint32_t)a->n_ctx_train);
    gw_u32(w, "llama.embedding_length", (uint32_t)a->d_model);
    gw_u32(w, "llama.feed_forward_length", (uint32_t)a->d_ff);
    gw_u32(w, "llama.attention.head_count", (uint32_t)a->n_head);
    if (a->n_layer > 1) { // either way of saying it
        uint32_t n_kv[16];
        for (int i = 0; i < a->n_layer; i++) n_kv[i] = (uint32_t)a->n_kv;
        gw_u32s(w, "llama.attention.head_count_kv", n_kv, (size_t)a->n_layer);
    } else {
        gw_u32(w, "llama.attention.head_count_kv", (uint32_t)a->n_kv);
    }
    gw_u32(w, "llama.rope.dimension_count", (uint32_t)a->d_head);
    gw_f32(w, "llama.rope.freq_base", (float)a->rope.theta);
    gw_f32(w, "llama.attention.layer_norm_rms_epsilon", (float)a->norm_eps);
    if (kinds[a->rope.kind] != NULL) gw_str(w, "llama.rope.scaling.type", kinds[a->rope.kind]);
    if (a->rope.kind == ROPE_LINEAR || a->rope.kind == ROPE_YARN)
        gw_f32(w, "llama.rope.scaling.factor", (float)a->rope.factor);
    if (a->rope.n_ctx_original > 0)
        gw_u32(w, "llama.rope.scaling.original_context_length", (uint32_t)a->rope.n_ctx_original);
}

// llama3's scaling as a tensor: what each frequency is divided by.
static void put_rope_freqs(struct gw *w, const struct arch *a) {
    double scaled[64], mscale = 0;
    float by[64];
    const int64_t n = a->d_head / 2;
    arch_rope_freqs(a, &a->rope, scaled, &mscale);
    for (int k = 0; k < n; k++)
        by[k] = (float)(pow(a->rope.theta, -2.0 * k / (double)a->d_head) / scaled[k]);
    gw_tensor(w, "rope_freqs.weight", 1, &n, DT_F32, by, (size_t)n * sizeof *by);
}

static void convert_tensor(struct gw *w, const struct arch *a, const struct arch_tensor *t,
                           int64_t layer, const struct st_files *st) {
    char name[256];
    arch_tensor_name(name, sizeof name, t->name, layer);
    const struct st_tensor *s = st_get(st, name);
    if (s == NULL && t->also != NULL) {
        arch_tensor_name(name, sizeof name, t->also, layer);
        s = st_get(st, name);
    }
    assert_non_null(s);
    const size_t row_bytes = s->bytes / (size_t)s->dim[0];
    unsigned char *data = malloc(s->bytes);
    assert_non_null(data);
    for (int64_t r = 0; r < s->dim[0]; r++)
        memcpy(data + (size_t)stored_row(t->role, a, r) * row_bytes,
               s->data + (size_t)r * row_bytes, row_bytes);
    arch_tensor_name(name, sizeof name, t->gguf, layer);
    gw_tensor(w, name, s->n_dim, s->dim, s->dtype, data, s->bytes);
    free(data);
}

static void convert_fixture(const char *dir, const char *path) {
    struct err e = {0};
    struct model *m = NULL;
    struct st_files *st = NULL;
    struct gw w;
    must(model_open(&m, dir, &e), &e);
    must(st_open(&st, dir, &e), &e);
    const struct arch *a = model_arch(m);
    gw_init(&w);
    put_metadata(&w, a);
    if (a->rope.kind == ROPE_LLAMA3) put_rope_freqs(&w, a);
    for (int i = 0; i < a->family->n_tensor; i++) {
        const struct arch_tensor *t = &a->family->tensors[i];
        for (int64_t l = 0; arch_has(a, t) && l < (arch_per_layer(t) ? a->n_layer : 1); l++)
            convert_tensor(&w, a, t, l, st);
    }
    gw_save(&w, path);
    gw_fini(&w);
    st_close(st);
    model_close(m);
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
    // bits of their angles. The rest is the same arithmetic in another order of dimensions.
    static const struct {
        const char *name;
        double budget;
    } cases[] = {{"llama", 1e-9},
                 {"llama_tied", 1e-9},
                 {"yi", 1e-9},
                 {"llama_rope_linear", 1e-9},
                 {"llama_rope_yarn", 1e-9},
                 {"llama_rope_llama3", 1e-4}};
    static const char *const modes[] = {"dense", "sink_s4_w28"};
    static struct fixture f;
    int compared = 0;
    for (size_t i = 0; i < COUNTOF(cases); i++) {
        char dir[256], ref[300], path[256];
        double nll[4096];
        snprintf(dir, sizeof dir, FIXTURES "%s", cases[i].name);
        snprintf(ref, sizeof ref, "%s/ref.json", dir);
        snprintf(path, sizeof path, "%s/%s.gguf", g_dir, cases[i].name);
        convert_fixture(dir, path);
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
                assert_true(support_worst(nll, f.nll, f.n - 1) <= 2e-4);
            }
        }
    }
    assert_int_equal(compared, 9);
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
                                  .rope = {.theta = 10000, .factor = 1}};

// Matrices in `type`; the same numbers in F32 under the other format's names and row order.
static void write_both(enum dtype type, const char *gguf, const char *dir) {
    uint64_t rng = 3 + (uint64_t)type;
    const struct arch_family *fam = arch_family_find("llama");
    struct gw w;
    struct sw s;
    char name[256], path[300];
    gw_init(&w);
    sw_init(&s);
    put_metadata(&w, &shape);
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
            const unsigned char *from = data + (size_t)stored_row(t->role, &shape, r) * row_bytes;
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
    convert_fixture(FIXTURES "llama", file);
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
        convert_fixture(FIXTURES "llama_rope_llama3", path);
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
    convert_fixture(FIXTURES "llama_rope_llama3", path);
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
    assert_true(fabs(bias) <= (exact ? 1e-5 : on.int8 ? 0.01 : 0.003));
    assert_true(spread <= (exact ? 1e-4 : on.int8 ? 0.1 : 0.03));
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
        compare_smollm2(path, &f, "int8 steps", f32,
                        (struct score_on){"cpu", cpu_isa_best(), DT_BF16, DEV_STEPS, true});
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures),         cmocka_unit_test(test_every_type),
        cmocka_unit_test(test_places),           cmocka_unit_test(test_rope_freqs_not_positive),
        cmocka_unit_test(test_allocations_fail), cmocka_unit_test(test_smollm2),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
