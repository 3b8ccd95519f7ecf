#include "jobs/gen_impl.h"
#include "jobs/rows_impl.h"

#include <string.h>

static void put_ids(struct sbuf *out, const char *key, const int32_t *ids, int64_t n) {
    row_name(out, key);
    sbuf_putc(out, '[');
    for (int64_t i = 0; i < n; i++) sbuf_printf(out, i > 0 ? ",%d" : "%d", ids[i]);
    sbuf_putc(out, ']');
}

static void put_numbers(struct sbuf *out, const char *key, const double *x, int64_t n) {
    row_name(out, key);
    sbuf_putc(out, '[');
    for (int64_t i = 0; i < n; i++) {
        if (i > 0) sbuf_putc(out, ',');
        sbuf_json_double(out, x[i]);
    }
    sbuf_putc(out, ']');
}

// [[[id,log-probability],..],..]: the most probable ids beside each token.
static void put_tops(struct sbuf *out, const struct gen_track *t, int64_t n_top) {
    row_name(out, "top_logprobs");
    sbuf_putc(out, '[');
    for (int64_t i = 0; i < t->n_new; i++) {
        sbuf_puts(out, i > 0 ? ",[" : "[");
        for (int64_t k = 0; k < n_top; k++) {
            sbuf_printf(out, k > 0 ? ",[%d," : "[%d,", t->tops.ids[i * n_top + k]);
            sbuf_json_double(out, t->tops.logp[i * n_top + k]);
            sbuf_putc(out, ']');
        }
        sbuf_putc(out, ']');
    }
    sbuf_putc(out, ']');
}

static void put_lists(struct sbuf *out, const struct generator *g, const struct gen_ask *a,
                      const struct gen_track *t) {
    static const char *const keys[] = {"token_ids", "logprobs", "top_logprobs"};
    const bool wanted[] = {a->token_ids, a->logprobs >= 0, a->logprobs > 0};
    if (t->answer_over) {
        for (size_t i = 0; i < COUNTOF(keys); i++) {
            if (wanted[i]) row_int_or_null(out, keys[i], 0, false);
        }
        return;
    }
    const int64_t n_vocab = model_arch(g->cfg.part.mo->model)->n_vocab;
    if (wanted[0]) put_ids(out, keys[0], t->ids, t->n_new);
    if (wanted[1]) put_numbers(out, keys[1], t->logp, t->n_new);
    if (wanted[2]) put_tops(out, t, a->logprobs < n_vocab ? a->logprobs : n_vocab);
}

static void put_sampling(struct sbuf *out, const struct gen_ask *a) {
    const struct samp_params *p = &a->how.samp;
    row_num(out, "temperature", p->temperature);
    if (p->temperature > 0) {
        row_int(out, "top_k", p->top_k);
        row_num(out, "top_p", p->top_p);
        row_num(out, "min_p", p->min_p);
        row_int(out, "seed", (int64_t)a->seed);
    }
    if (a->how.penalty_alpha > 0) {
        row_num(out, "penalty_alpha", a->how.penalty_alpha);
        row_int(out, "top_k", p->top_k);
        row_int(out, "contrastive_window", a->how.contrastive_window);
    }
    if (p->repetition_penalty != 1) row_num(out, "repetition_penalty", p->repetition_penalty);
    if (p->presence_penalty != 0) row_num(out, "presence_penalty", p->presence_penalty);
    if (p->frequency_penalty != 0) row_num(out, "frequency_penalty", p->frequency_penalty);
}

static void put_answer(struct sbuf *out, struct gen_track *t) {
    row_name(out, "text");
    if (t->answer_over) {
        sbuf_puts(out, "null");
    } else {
        sbuf_json_string(out, sbuf_str(&t->answer), t->answer.n);
    }
}

void gen_print_result(const struct generator *g, const struct gen_doc *d, int setting,
                      struct sbuf *out) {
    const struct man_setting *s = &g->cfg.part.man->settings[setting];
    const struct doc_labels *l = &g->cfg.part.labels;
    const struct gen_ask *a = gen_ask_of(g, d);
    struct gen_track *t = &d->tracks[setting];
    row_identity(d->d, s, out);
    row_int(out, "prompt_tokens", t->n_prompt);
    row_int(out, "completion_tokens", t->n_new);
    row_text(out, "finish_reason", gen_finish_name(t->finish));
    put_answer(out, t);
    if (d->prompt.kind == GEN_TURNS) {
        row_name(out, "turns");
        if (t->answer_over) sbuf_puts(out, "null");
        if (!t->answer_over) sbuf_printf(out, "[%s]", sbuf_str(&t->turns));
        row_text(out, "turn", man_turn_name(g->cfg.part.man->generate.turn));
    }
    put_lists(out, g, a, t);
    row_num(out, "sum_logprob", num_sum_value(&t->sum));
    row_setting(s, out);
    row_bool(out, "strict_window", s->strict_window);
    row_name(out, "template");
    if (d->prompt.kind == GEN_TEXT) {
        sbuf_puts(out, "null");
    } else {
        const char *name = chat_name(g->cfg.chat);
        sbuf_json_string(out, name, strlen(name));
    }
    row_bool(out, "bos", d->d->bos);
    put_sampling(out, a);
    row_text(out, "dtype", l->dtype);
    row_text(out, "device", l->device);
    row_text_hash(d->d, out);
    sbuf_puts(out, "}\n");
}

void gen_print_block(const struct generator *g, const struct gen_doc *d, int setting,
                     struct sbuf *out) {
    struct gen_track *t = &d->tracks[setting];
    row_identity(d->d, &g->cfg.part.man->settings[setting], out);
    row_int(out, "first", t->n_new - t->n_block);
    put_ids(out, "token_ids", t->block_ids, t->n_block);
    put_numbers(out, "logprobs", t->block_logp, t->n_block);
    row_name(out, "text");
    sbuf_json_string(out, sbuf_str(&t->block_text), t->block_text.n);
    sbuf_puts(out, "}\n");
}

void gen_print_turn(const struct gen_track *t, struct sbuf *out) {
    struct sbuf text = t->answer; // borrowed: only read
    sbuf_puts(out, out->n > 0 ? ",{\"prompt_tokens\":" : "{\"prompt_tokens\":");
    sbuf_printf(out, "%lld,\"completion_tokens\":%lld,\"finish_reason\":\"%s\",\"text\":",
                (long long)t->n_turn_prompt, (long long)t->n_turn, gen_finish_name(t->finish));
    sbuf_json_string(out, sbuf_str(&text), text.n);
    sbuf_putc(out, '}');
}
