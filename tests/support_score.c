#include "tests/support_score.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define FIXTURES "tests/data/fixtures/"

static void must(enum status st, const struct err *e) {
    if (st != OK) fail_msg("%s: %s", err_name(st), e->msg);
}

void support_score(const char *model, const struct score_on *on, const struct vis_rule *rule,
                   const int32_t *ids, int64_t n, int64_t n_span, double *nll) {
    struct err e = {0};
    struct model *m = NULL;
    struct dev *d = NULL;
    struct model_on *mo = NULL;
    struct span *sp = NULL;
    struct cache *c = NULL;
    const struct dev_config cfg = {.n_thread = 1,
                                   .isa = on->isa,
                                   .compute = on->dtype,
                                   .purpose = on->purpose,
                                   .int8 = on->int8};
    must(model_open(&m, model, &e), &e);
    must(strcmp(on->device, "ref") == 0 ? dev_open_ref(&d, &cfg, &e) : dev_open_cpu(&d, &cfg, &e),
         &e);
    must(model_on_open(&mo, m, d, &e), &e);
    must(span_open(&sp, mo, n_span, &e), &e);
    must(cache_open(&c, mo, rule, &e), &e);
    for (int64_t t = 0; t < n - 1; t += n_span) {
        const int64_t rows = n - 1 - t < n_span ? n - 1 - t : n_span;
        int64_t at = 0;
        must(span_add(sp, c, ids + t, ids + t + 1, rows, t + rows < n - 1, &at, &e), &e);
        must(span_run(sp, NULL, &e), &e);
        for (int64_t i = 0; i < rows; i++) nll[t + i] = -span_logp(sp)[at + i];
        span_clear(sp);
    }
    cache_close(c);
    span_close(sp);
    model_on_close(mo);
    dev_close(d);
    model_close(m);
}

static int is_model(const struct dirent *d) {
    char path[512];
    snprintf(path, sizeof path, FIXTURES "%s/model.safetensors", d->d_name);
    return access(path, R_OK) == 0;
}

int support_fixtures(void (*f)(const char *dir, void *ctx), void *ctx) {
    struct dirent **list = NULL;
    const int n = scandir(FIXTURES, &list, is_model, alphasort);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        char dir[512];
        snprintf(dir, sizeof dir, FIXTURES "%s", list[i]->d_name);
        f(dir, ctx);
        free(list[i]);
    }
    free(list);
    return n;
}

double support_worst(const double *a, const double *b, int64_t n) {
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = fabs(a[i] - b[i]);
        if (!(d <= worst)) worst = isnan(d) ? (double)INFINITY : d;
    }
    return worst;
}
