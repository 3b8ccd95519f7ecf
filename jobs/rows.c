#include "jobs/doc.h"

#include <math.h>
#include <string.h>

static void name(struct sbuf *out, const char *key) {
    sbuf_printf(out, ",\"%s\":", key);
}

static void text(struct sbuf *out, const char *key, const char *value) {
    name(out, key);
    sbuf_json_string(out, value, strlen(value));
}

static void integer(struct sbuf *out, const char *key, int64_t value) {
    sbuf_printf(out, ",\"%s\":%lld", key, (long long)value);
}

static void integer_or_null(struct sbuf *out, const char *key, int64_t value, bool known) {
    if (known) {
        integer(out, key, value);
    } else {
        sbuf_printf(out, ",\"%s\":null", key);
    }
}

static void boolean(struct sbuf *out, const char *key, bool value) {
    sbuf_printf(out, ",\"%s\":%s", key, value ? "true" : "false");
}

// NaN and infinity (a ratio with a zero denominator, an exponential past the range) print as null.
static void number(struct sbuf *out, const char *key, double value) {
    name(out, key);
    sbuf_json_double(out, value);
}

static double per(double sum, int64_t n) {
    return n > 0 ? sum / (double)n : NAN;
}

static void identity(const struct doc *d, const struct man_setting *s, struct sbuf *out) {
    sbuf_puts(out, "{\"id\":");
    sbuf_json_string(out, d->id, strlen(d->id));
    text(out, "source", d->source);
    integer(out, "offset", d->offset);
    text(out, "setting", s->name);
}

void doc_print_result(const struct doc *d, const struct man_setting *s, const struct doc_track *t,
                      const struct doc_labels *l, struct sbuf *out) {
    const double sum = num_sum_value(&t->sum);
    const bool is_text = !d->is_ids, streams = s->mode != MAN_DENSE;
    const int64_t words = utf8_words(&d->counts);
    identity(d, s, out);
    integer(out, "num_tokens", d->n_tok);
    integer(out, "num_scored", t->n_scored);
    integer_or_null(out, "num_bytes", d->counts.bytes, is_text);
    integer_or_null(out, "num_chars", d->counts.chars, is_text);
    integer_or_null(out, "num_words", words, is_text);
    number(out, "sum_logprob", sum);
    number(out, "ppl", exp(per(-sum, t->n_scored)));
    number(out, "word_perplexity", is_text ? exp(per(-sum, words)) : NAN);
    number(out, "byte_perplexity", is_text ? exp(per(-sum, d->counts.bytes)) : NAN);
    number(out, "bits_per_byte", is_text ? per(-sum, d->counts.bytes) / log(2) : NAN);
    text(out, "protocol", streams ? "streaming" : "dense");
    integer_or_null(out, "sink_tokens", s->sink_tokens, streams);
    integer_or_null(out, "window_tokens", s->window_tokens, streams);
    text(out, "prefill", man_prefill_name(s->prefill));
    integer(out, "chunk_tokens", s->chunk_tokens);
    boolean(out, "strict_window", s->strict_window);
    boolean(out, "bos", d->bos);
    boolean(out, "truncated", d->truncated);
    text(out, "dtype", l->dtype);
    text(out, "device", l->device);
    name(out, "text_xxh128");
    if (is_text) {
        sbuf_json_string(out, d->text_hash, strlen(d->text_hash));
    } else {
        sbuf_puts(out, "null");
    }
    sbuf_puts(out, "}\n");
}

void doc_print_tokens(const struct doc *d, const struct man_setting *s, const struct doc_track *t,
                      int64_t first, int64_t n, struct sbuf *out) {
    identity(d, s, out);
    integer(out, "first", first);
    sbuf_puts(out, ",\"token_ids\":[");
    for (int64_t i = 0; i < n; i++) {
        char text[NUM_TEXT];
        if (i > 0) sbuf_putc(out, ',');
        sbuf_add(out, text, num_int(d->block_ids[i], text));
    }
    sbuf_puts(out, "],\"logprobs\":[");
    for (int64_t i = 0; i < n; i++) {
        if (i > 0) sbuf_putc(out, ',');
        sbuf_json_double(out, t->logp[i]);
    }
    sbuf_puts(out, "]}\n");
}

void doc_print_error(const struct doc *d, const struct man_setting *s, struct sbuf *out) {
    identity(d, s, out);
    text(out, "code", err_name(d->failure.code));
    text(out, "message", d->failure.msg);
    sbuf_puts(out, "}\n");
}
