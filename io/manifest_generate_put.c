/* The effective section "generate", as JSON. */
#include "io/manifest_impl.h"

#include <inttypes.h>
#include <string.h>

static void put_name(struct sbuf *out, const char *key) {
    sbuf_printf(out, "%s\"%s\":", out->s[out->n - 1] == '{' ? "" : ",", key);
}

static void put_int(struct sbuf *out, const char *key, int64_t x) {
    put_name(out, key);
    sbuf_printf(out, "%" PRId64, x);
}

static void put_real(struct sbuf *out, const char *key, double x) {
    put_name(out, key);
    sbuf_json_double(out, x);
}

static void put_bool(struct sbuf *out, const char *key, bool x) {
    put_name(out, key);
    sbuf_puts(out, x ? "true" : "false");
}

static void put_texts(struct sbuf *out, const char *key, char *const *list, size_t n) {
    put_name(out, key);
    sbuf_putc(out, '[');
    for (size_t i = 0; i < n; i++) {
        if (i > 0) sbuf_putc(out, ',');
        sbuf_json_string(out, list[i], strlen(list[i]));
    }
    sbuf_putc(out, ']');
}

static void put_bias(struct sbuf *out, const struct man_generate *g) {
    put_name(out, "logit_bias");
    sbuf_putc(out, '{');
    for (size_t i = 0; i < g->n_bias; i++) {
        sbuf_printf(out, "%s\"%d\":", i > 0 ? "," : "", g->bias[i].id);
        sbuf_json_double(out, g->bias[i].bias);
    }
    sbuf_putc(out, '}');
}

static void put_stop_ids(struct sbuf *out, const struct man_generate *g) {
    put_name(out, "stop_token_ids");
    sbuf_putc(out, '[');
    for (size_t i = 0; i < g->n_stop_ids; i++) {
        sbuf_printf(out, i > 0 ? ",%d" : "%d", g->stop_ids[i]);
    }
    sbuf_putc(out, ']');
}

// A default that the model's generation_config.json may replace stays unsaid.
static bool settled(const struct man_generate *g, enum man_given what) {
    return g->given[what] || !g->use_generation_config;
}

void man_put_generate(struct sbuf *out, const struct man_generate *g) {
    sbuf_puts(out, "{\"add_bos\":");
    sbuf_puts(out, man_bos_json(g->add_bos));
    put_texts(out, "bad_words", g->bad_words, g->n_bad_words);
    if (g->penalty_alpha > 0) put_int(out, "contrastive_window", g->contrastive_window);
    put_real(out, "frequency_penalty", g->frequency_penalty);
    put_bool(out, "ignore_eos", g->ignore_eos);
    put_bias(out, g);
    put_name(out, "logprobs");
    if (g->logprobs < 0) sbuf_puts(out, "false");
    if (g->logprobs >= 0) sbuf_printf(out, "%" PRId64, g->logprobs);
    put_int(out, "max_new_tokens", g->max_new_tokens);
    put_int(out, "min_new_tokens", g->min_new_tokens);
    if (settled(g, MAN_GIVEN_MIN_P)) put_real(out, "min_p", g->min_p);
    put_real(out, "penalty_alpha", g->penalty_alpha);
    put_real(out, "presence_penalty", g->presence_penalty);
    if (settled(g, MAN_GIVEN_REPETITION)) {
        put_real(out, "repetition_penalty", g->repetition_penalty);
    }
    put_int(out, "seed", g->seed);
    put_texts(out, "stop", g->stop, g->n_stop);
    put_stop_ids(out, g);
    put_int(out, "streams", g->streams);
    if (settled(g, MAN_GIVEN_TEMPERATURE)) put_real(out, "temperature", g->temperature);
    put_name(out, "template");
    sbuf_json_string(out, g->template, strlen(g->template));
    put_bool(out, "token_ids", g->token_ids);
    put_bool(out, "tokens", g->tokens);
    if (settled(g, MAN_GIVEN_TOP_K)) put_int(out, "top_k", g->top_k);
    if (settled(g, MAN_GIVEN_TOP_P)) put_real(out, "top_p", g->top_p);
    put_name(out, "turn");
    sbuf_printf(out, "\"%s\"", man_turn_name(g->turn));
    put_bool(out, "use_generation_config", g->use_generation_config);
    sbuf_putc(out, '}');
}
