#include "jobs/rows_impl.h"

#include <math.h>
#include <string.h>

void row_name(struct sbuf *out, const char *key) {
    sbuf_printf(out, ",\"%s\":", key);
}

void row_text(struct sbuf *out, const char *key, const char *value) {
    row_name(out, key);
    sbuf_json_string(out, value, strlen(value));
}

void row_int(struct sbuf *out, const char *key, int64_t value) {
    sbuf_printf(out, ",\"%s\":%lld", key, (long long)value);
}

void row_int_or_null(struct sbuf *out, const char *key, int64_t value, bool known) {
    if (known) {
        row_int(out, key, value);
    } else {
        sbuf_printf(out, ",\"%s\":null", key);
    }
}

void row_bool(struct sbuf *out, const char *key, bool value) {
    sbuf_printf(out, ",\"%s\":%s", key, value ? "true" : "false");
}

void row_num(struct sbuf *out, const char *key, double value) {
    row_name(out, key);
    sbuf_json_double(out, value);
}

static double per(double sum, int64_t n) {
    return n > 0 ? sum / (double)n : NAN;
}

void row_identity(const struct doc *d, const struct man_setting *s, struct sbuf *out) {
    sbuf_puts(out, "{\"id\":");
    sbuf_json_string(out, d->id, strlen(d->id));
    row_text(out, "source", d->source);
    row_int(out, "offset", d->offset);
    row_text(out, "setting", s->name);
}

void row_setting(const struct man_setting *s, struct sbuf *out) {
    const bool streams = s->mode != MAN_DENSE;
    row_text(out, "protocol", streams ? "streaming" : "dense");
    row_int_or_null(out, "sink_tokens", s->sink_tokens, streams);
    row_int_or_null(out, "window_tokens", s->window_tokens, streams);
    row_text(out, "prefill", man_prefill_name(s->prefill));
}

void row_text_hash(const struct doc *d, struct sbuf *out) {
    row_name(out, "text_xxh128");
    if (!d->is_ids) {
        sbuf_json_string(out, d->text_hash, strlen(d->text_hash));
    } else {
        sbuf_puts(out, "null");
    }
}

void doc_print_result(const struct doc *d, const struct man_setting *s, const struct doc_track *t,
                      const struct doc_labels *l, struct sbuf *out) {
    const double sum = num_sum_value(&t->sum);
    const bool is_text = !d->is_ids;
    const int64_t words = utf8_words(&d->counts);
    row_identity(d, s, out);
    row_int(out, "num_tokens", d->n_tok);
    row_int(out, "num_scored", t->n_scored);
    row_int_or_null(out, "num_bytes", d->counts.bytes, is_text);
    row_int_or_null(out, "num_chars", d->counts.chars, is_text);
    row_int_or_null(out, "num_words", words, is_text);
    row_num(out, "sum_logprob", sum);
    row_num(out, "ppl", exp(per(-sum, t->n_scored)));
    row_num(out, "word_perplexity", is_text ? exp(per(-sum, words)) : NAN);
    row_num(out, "byte_perplexity", is_text ? exp(per(-sum, d->counts.bytes)) : NAN);
    row_num(out, "bits_per_byte", is_text ? per(-sum, d->counts.bytes) / log(2) : NAN);
    row_setting(s, out);
    row_int(out, "chunk_tokens", s->chunk_tokens);
    row_bool(out, "strict_window", s->strict_window);
    row_bool(out, "bos", d->bos);
    row_bool(out, "truncated", d->truncated);
    row_text(out, "dtype", l->dtype);
    row_text(out, "device", l->device);
    row_text_hash(d, out);
    sbuf_puts(out, "}\n");
}

void doc_print_tokens(const struct doc *d, const struct man_setting *s, const struct doc_track *t,
                      int64_t first, int64_t n, struct sbuf *out) {
    row_identity(d, s, out);
    row_int(out, "first", first);
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
    row_identity(d, s, out);
    row_text(out, "code", err_name(d->failure.code));
    row_text(out, "message", d->failure.msg);
    sbuf_puts(out, "}\n");
}
