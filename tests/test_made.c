/* Made-up models: the dimensions of known ones, against the numbers of parameters that their makers give; their
 * elements, by hand; and that a model of them is a model. */
#include "base/mem.h"
#include "tests/support_ops.h"
#include "tests/support_span.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void test_parameters(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int64_t parameters;
    } published[] = {
        {"stories260k", 260032},     {"stories15m", 15191712},     {"smollm2-135m", 134515008},
        {"smollm2-360m", 361821120}, {"smollm2-1.7b", 1711376384}, {"gemma3-270m", 268098176},
        {"gemma3-1b", 999885952},    {"qwen2.5-0.5b", 494032768},  {"qwen2.5-1.5b", 1543714304},
        {"qwen2.5-7b", 7615616512},  {"qwen3-8b", 8190735360},     {"llama3-1b", 1235814400},
        {"llama3-3b", 3212749824},   {"llama3-8b", 8030261248},    {"llama3-70b", 70553706496},
        {"llama2-7b", 6738415616},   {"llama2-13b", 13015864320},  {"llama2-70b", 68976648192},
        {"mistral-7b", 7241732096},  {"falcon-7b", 6921720704},    {"llama3-405b", 405853388800},
    };
    size_t seen = 0;
    for (const char *const *name = model_shape_names(); *name != NULL; name++, seen++) {
        struct model *m = NULL;
        struct err e = {0};
        size_t i = 0;
        while (i < COUNTOF(published) && strcmp(published[i].name, *name) != 0) i++;
        assert_true(i < COUNTOF(published));
        must(model_open_shape(&m, *name, 0, &e), &e); // takes no memory for weights
        if (model_params(m) != published[i].parameters)
            fail_msg("%s: %lld parameters, %lld are published", *name, (long long)model_params(m),
                     (long long)published[i].parameters);
        assert_int_equal(model_stored_dtype(m), DT_BF16);
        model_close(m);
    }
    assert_int_equal(seen, COUNTOF(published));
}

static void test_unknown(void **state) {
    (void)state;
    struct model *m = NULL;
    struct err e = {0};
    assert_int_equal(model_open_shape(&m, "lama2-7b", 0, &e), E_ARG);
    assert_null(m);
    assert_non_null(strstr(e.msg, "did you mean \"llama2-7b\"?"));
    assert_non_null(strstr(e.msg, "There are stories260k, "));
    assert_non_null(strstr(e.msg, ", llama3-405b"));
    e = (struct err){0};
    assert_int_equal(model_open_shape(&m, "", 0, &e), E_ARG);
    assert_null(strstr(e.msg, "did you mean"));
    e = (struct err){0};
    assert_int_equal(model_open_made(&m, "mine", "{\"model_type\":\"llama\"}", 0, &e), E_FORMAT);
    assert_non_null(strstr(e.msg, "mine:"));
}

/* The first values of splitmix64 under the seed 0 are 0xE220A8397B1DCDAF and 0x6E789E6AA1B965F4. */
static void test_elements(void **state) {
    (void)state;
    static const int bytes[16] = {-0x51, -0x33, 0x1D,  0x7B,  0x39, -0x58, 0x20, -0x1E,
                                  -0x0C, 0x65,  -0x47, -0x5F, 0x6A, -0x62, 0x78, 0x6E};
    bf16_t x[17];
    for (int threads = 1; threads <= 3; threads++) {
        memset(x, 0xFF, sizeof x);
        dev_made_fill(x, 0, 6, 0, 15, threads);
        for (int i = 0; i < 15; i++) assert_true(dtype_bf16_to_f32(x[i]) == (float)bytes[i] / 64);
        assert_int_equal(x[15], 0xFFFF);
    }
    dev_made_fill(x, 0, 0, 8, 5, 1);
    for (int i = 0; i < 5; i++) assert_true(dtype_bf16_to_f32(x[i]) == (float)bytes[8 + i]);
}

// Plain, a fused tensor in groups, one stored the other way round, and tables of both kinds.
static const char *const configs[] = {
    ("{\"model_type\":\"llama\",\"hidden_act\":\"silu\",\"hidden_size\":32,\"intermediate_size\":"
     "72,"
     "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":"
     "99,"
     "\"max_position_embeddings\":512,\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":true}"),
    ("{\"model_type\":\"falcon\",\"hidden_size\":48,\"num_attention_heads\":3,\"num_hidden_"
     "layers\":"
     "2,"
     "\"num_kv_heads\":3,\"vocab_size\":99,\"max_position_embeddings\":512,"
     "\"layer_norm_epsilon\":1e-5,\"multi_query\":true,\"parallel_attn\":true,\"bias\":false,"
     "\"alibi\":false,\"new_decoder_architecture\":true}"),
    ("{\"model_type\":\"gpt2\",\"n_embd\":32,\"n_head\":2,\"n_layer\":2,\"n_positions\":256,"
     "\"vocab_size\":99,\"layer_norm_epsilon\":1e-5,\"activation_function\":\"gelu_new\"}"),
};

static void score_made(const char *config, struct dev *d, bool filled, double *nll) {
    struct rig r = {.dev = d};
    struct err e = {0};
    int32_t ids[60];
    const struct vis_rule rule = {.dense = true, .n_chunk = 1};
    for (int i = 0; i < 60; i++) ids[i] = i * 31 % 99;
    must(model_open_made(&r.model, "tiny", config, filled ? 2 : 0, &e), &e);
    must(model_on_open(&r.on, r.model, d, &e), &e);
    score(&r, &rule, ids, 60, 60, nll);
    rig_close(&r);
}

/* What a device makes of weights that it makes itself, or reads, is what ref makes of those in memory. */
static void test_models(void **state) {
    (void)state;
    struct ops_dev list[8];
    const int n = ops_list(list);
    for (size_t c = 0; c < COUNTOF(configs); c++) {
        double want[60], got[60], mean = 0, most = 0;
        score_made(configs[c], ops_open_ref(DT_F32), true, want);
        for (int i = 0; i < 59; i++) {
            mean += want[i] / 59;
            most = fmax(most, fabs(want[i] - log(99)));
        }
        assert_true(fabs(mean - log(99)) < 1.5 && most > 0.1); // it knows nothing, but is alive
        for (int k = 0; k < n; k++) {
            struct dev *d = ops_open(&list[k], 1);
            score_made(configs[c], d, !dev_makes(d), got);
            const double budget = list[k].compute == DT_F32 ? 1e-4 : 0.1;
            for (int i = 0; i < 59; i++) {
                if (!(fabs(got[i] - want[i]) <= budget))
                    fail_msg("model %d: %g and %g", (int)c, got[i], want[i]);
            }
        }
    }
}

/* Without elements in memory only a device that makes them can have the model. */
static void test_not_filled(void **state) {
    (void)state;
    struct model *m = NULL;
    struct model_on *on = NULL;
    struct err e = {0};
    struct dev *d = ops_open_ref(DT_F32);
    assert_false(dev_makes(d));
    assert_true(dev_memory(d).free_bytes > 0);
    must(model_open_made(&m, "tiny", configs[0], 0, &e), &e);
    assert_int_equal(model_on_open(&on, m, d, &e), E_BUG);
    assert_null(on);
    model_close(m);
    dev_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameters), cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_elements),   cmocka_unit_test(test_models),
        cmocka_unit_test(test_not_filled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
