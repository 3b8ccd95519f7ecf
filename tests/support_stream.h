/* What the tests of the stream engine share: a model on a device, and documents that are continued. */
#ifndef BASIN_TESTS_SUPPORT_STREAM_H
#define BASIN_TESTS_SUPPORT_STREAM_H

#include "base/cpu.h"
#include "core/stream.h"

void gen_must(enum status st, const struct err *e); /* fails the test */

struct gen_rig {
    struct model *model;
    struct dev *dev;
    struct model_on *on;
    struct dev *step_dev; /* NULL: streams are on `dev`, too */
    struct model_on *step_on;
};
/* The devices are the rig's to close. */
void gen_rig_on(struct gen_rig *r, const char *path, struct dev *dev, struct dev *step_dev);
/* isa < 0: ref. */
void gen_rig_open(struct gen_rig *r, const char *path, int isa, int threads, enum dtype dtype);
void gen_rig_close(struct gen_rig *r);
/* tests/data/fixtures/NAME */
void gen_fixture(struct gen_rig *r, const char *name, int isa, int threads, enum dtype dtype);

enum { GEN_MOST = 4096 };

struct gen_doc {
    struct vis_rule rule;
    struct stream_how how;
    const int32_t *prompt;
    int64_t n_prompt;
    int64_t by_span; /* ids that go through spans; -1: all but the last */
    /* what came of it */
    int slot; /* -1: in no engine */
    int64_t n;
    int32_t ids[GEN_MOST];
    double logp[GEN_MOST];
    enum stream_end end;
    char why[512];
};
void gen_doc_init(struct gen_doc *d, const struct vis_rule *rule, const int32_t *prompt, int64_t n,
                  int64_t max_new);
/* Feeds ids through spans of uneven size. */
void gen_span(const struct gen_rig *r, struct cache *c, struct stream_past *past,
              const int32_t *ids, int64_t n);
enum status gen_try_enter(const struct gen_rig *r, struct stream *st, struct gen_doc *d,
                          struct err *e);
void gen_enter(const struct gen_rig *r, struct stream *st, struct gen_doc *d);
/* One step; its events go to the documents by slot. Documents that have ended leave. */
void gen_step(struct stream *st, struct gen_doc *const *docs, int n);
/* The same for a step that has been made. */
void gen_take(struct stream *st, struct gen_doc *const *docs, int n);
/* n_candidate may be 0; up to 5 log-probabilities. */
struct stream *gen_engine(const struct gen_rig *r, int n_stream, int n_candidate);
/* The document alone, to its end. */
void gen_run(const struct gen_rig *r, struct gen_doc *d);
/* Saves every stream (at most 64), closes the engine, and goes on in a new one: which is returned. */
struct stream *gen_move(const struct gen_rig *r, struct stream *st, struct gen_doc *const *docs,
                        int n, int n_slot);
/* Fails the test unless ids and log-probabilities are the same bits. */
void gen_same(const char *what, const struct gen_doc *a, const struct gen_doc *b);

#endif
