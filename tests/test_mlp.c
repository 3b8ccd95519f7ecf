/* dev_mlp: the bytes of dev_linear, dev_act, dev_linear, whatever the rows and the threads. */
#include "tests/support_ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

struct mlp_case {
    int64_t n_row, d, n_ff;
    bool gated, biased;
    enum act_kind act;
};

static const struct mlp_case cases[] = {
    {1, 64, 128, true, false, ACT_SILU},      {33, 17, 71, true, true, ACT_GELU_TANH},
    {500, 96, 200, true, false, ACT_SILU},    {611, 40, 97, false, true, ACT_GELU_ERF},
    {1024, 31, 33, false, false, ACT_RELU},   {300, 192, 1536, true, true, ACT_SILU},
    {777, 20, 16, true, false, ACT_GELU_TANH}};

struct mlp_data {
    struct wt *gate, *up, *down, *gate_bias, *up_bias, *down_bias;
    void *bytes[6];
};

static void mlp_weights(struct dev *d, const struct mlp_case *c, uint64_t seed,
                        struct mlp_data *w) {
    float *m = ops_normals(&seed, c->n_ff * c->d, 0.2f), *b = ops_normals(&seed, c->n_ff, 1);
    *w = (struct mlp_data){0};
    w->up = ops_weight(d, WT_MATRIX, c->n_ff, c->d, m, DT_BF16, &w->bytes[0]);
    w->down = ops_weight(d, WT_MATRIX, c->d, c->n_ff, m, DT_F32, &w->bytes[1]);
    for (int64_t i = 0; i < c->n_ff * c->d; i++) m[i] = -m[i] * 0.7f;
    if (c->gated) w->gate = ops_weight(d, WT_MATRIX, c->n_ff, c->d, m, DT_F16, &w->bytes[2]);
    if (c->biased) {
        w->gate_bias = ops_weight(d, WT_VECTOR, c->n_ff, 1, b, DT_F32, &w->bytes[3]);
        w->up_bias = ops_weight(d, WT_VECTOR, c->n_ff, 1, b, DT_BF16, &w->bytes[4]);
        w->down_bias = ops_weight(d, WT_VECTOR, c->d, 1, m, DT_F32, &w->bytes[5]);
    }
    free(m), free(b);
}

static void mlp_free(struct mlp_data *w) {
    dev_weight_free(w->gate), dev_weight_free(w->up), dev_weight_free(w->down);
    dev_weight_free(w->gate_bias), dev_weight_free(w->up_bias), dev_weight_free(w->down_bias);
    for (int i = 0; i < 6; i++) free(w->bytes[i]);
}

// Both ways on one device; the result's bytes (free()).
static unsigned char *mlp_on(struct dev *d, const struct mlp_case *c, const float *x) {
    struct mlp_data w;
    mlp_weights(d, c, 7, &w);
    struct buf *bx = ops_buf(d, BUF_ACT, c->n_row, c->d, x);
    struct buf *y = ops_buf(d, BUF_ACT, c->n_row, c->d, NULL);
    struct buf *z = ops_buf(d, BUF_ACT, c->n_row, c->d, NULL);
    struct buf *g = ops_buf(d, BUF_ACT, c->n_row, c->n_ff, NULL);
    struct buf *u = ops_buf(d, BUF_ACT, c->n_row, c->n_ff, NULL);
    const struct dev_mlp p = {.y = y,
                              .x = bx,
                              .gate = w.gate,
                              .up = w.up,
                              .down = w.down,
                              .gate_bias = w.gate != NULL ? w.gate_bias : NULL,
                              .up_bias = w.up_bias,
                              .down_bias = w.down_bias,
                              .act = c->act,
                              .gate_room = g,
                              .up_room = u};
    dev_mlp(d, &p, c->n_row);
    free(ops_get(d, y, c->n_row, c->d)); // guards
    if (c->gated) dev_linear(d, g, bx, w.gate, p.gate_bias, c->n_row);
    dev_linear(d, u, bx, w.up, w.up_bias, c->n_row);
    dev_act(d, u, c->gated ? g : u, c->gated ? u : NULL, c->act, c->n_row);
    dev_linear(d, z, u, w.down, w.down_bias, c->n_row);
    ops_sync(d);
    unsigned char *one = ops_bytes(d, y, 0, c->n_row), *three = ops_bytes(d, z, 0, c->n_row);
    ops_same_bytes("mlp", one, three, (size_t)c->n_row * buf_row_bytes(y));
    ops_unchanged(d, bx, c->n_row, c->d, x);
    free(three);
    buf_free(bx), buf_free(y), buf_free(z), buf_free(g), buf_free(u);
    mlp_free(&w);
    return one;
}

static void mlp_body(struct ops_run *r) {
    struct dev *alone = ops_open(&r->c, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct mlp_case *c = cases + i;
        float *x = ops_inputs(r, c->n_row * c->d, 1);
        free(mlp_on(r->ref, c, x));
        unsigned char *two = mlp_on(r->dev, c, x), *one = mlp_on(alone, c, x);
        ops_same_bytes("mlp, one thread", one, two, (size_t)(c->n_row * c->d) * sizeof(float));
        free(one), free(two), free(x);
    }
    dev_close(alone);
}

static void test_mlp(void **state) {
    (void)state;
    ops_each(mlp_body);
}

static void test_mlp_int8(void **state) {
    (void)state;
    ops_each_int8(mlp_body);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mlp), cmocka_unit_test(test_mlp_int8)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
