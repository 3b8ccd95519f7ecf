/* What the programs about the span engine share: a model on a device, recorded documents, rules. */
#ifndef BASIN_TESTS_SUPPORT_SPAN_H
#define BASIN_TESTS_SUPPORT_SPAN_H

#include "core/span.h"
#include "io/json.h"

#define FIXTURES "tests/data/fixtures/"

void must(enum status st, const struct err *e); /* fails the test */

/* A model on a device. */
struct rig {
    struct model *model;
    struct dev *dev;
    struct model_on *on;
};
void rig_on(struct rig *r, const char *dir, struct dev *d); /* takes the device */
void rig_close(struct rig *r);
/* nll[t], t = 0..n-2, of one document in spans of at most n_span rows. */
void score(const struct rig *r, const struct vis_rule *rule, const int32_t *ids, int64_t n,
           int64_t n_span, double *nll);

struct fixture {
    struct json *ref;
    int32_t ids[4096];
    int n;
};
void fixture_open(struct fixture *f, const char *name); /* f->ref: json_close() */

/* Each kind of rule, small enough for a fixture to go past its window. */
void rules_for_laws(struct vis_rule rules[6]);

#endif
