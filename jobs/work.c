#include "jobs/work.h"

#include <string.h>

enum status work_open(struct work *w, const struct session *s, const struct part_config *hooks,
                      struct err *e) {
    struct part_config c;
    memset(w, 0, sizeof *w);
    session_part_config(s, &c);
    c.stop = hooks->stop;
    c.note = hooks->note;
    c.progress = hooks->progress;
    c.ctx = hooks->ctx;
    if (s->man->job == MAN_SCORE) return score_open(&w->scorer, &c, e);
    const struct gen_config gc = {.part = c,
                                  .ask = &s->ask,
                                  .chat = s->chat,
                                  .no_chat = &s->no_chat,
                                  .n_stream = s->n_stream};
    return gen_open(&w->generator, &gc, e);
}

void work_close(struct work *w) {
    score_close(w->scorer);
    gen_close(w->generator);
    memset(w, 0, sizeof *w);
}

const struct part_totals *work_totals(const struct work *w) {
    return w->generator != NULL ? gen_totals(w->generator) : score_totals(w->scorer);
}

enum status work_part(struct work *w, const struct plan *plan, int part, const struct part_out *out,
                      struct ledger_mark *mark, struct sbuf *state, struct err *e) {
    const struct plan_part *p = &plan->parts[part];
    if (w->generator != NULL) return gen_part(w->generator, plan, p, out, mark, state, e);
    return score_part(w->scorer, plan, p, out, mark, state, e);
}
