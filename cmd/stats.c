#include "base/mem.h"
#include "cmd/cmd.h"
#include "cmd/exit.h"
#include "cmd/out.h"
#include "cmd/text.h"
#include "jobs/report.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>

struct options {
    bool json;
};

static const struct cmd_option table[] = {
    {.name = "json",
     .kind = CMD_FLAG,
     .offset = offsetof(struct options, json),
     .help = "a JSON object a line"},
};

// What the totals amount to; NaN where there is nothing to divide by.
struct ratios {
    double ppl, word_ppl, byte_ppl, bits_per_byte;
};

static double per(const struct report_total *t, int64_t n) {
    return n > 0 ? -t->sum_logprob / (double)n : NAN;
}

static struct ratios ratios_of(const struct report_total *t) {
    const double byte = t->has_text ? per(t, t->num_bytes) : NAN;
    return (struct ratios){
        .ppl = exp(per(t, t->num_scored)),
        .word_ppl = t->has_text ? exp(per(t, t->num_words)) : NAN,
        .byte_ppl = exp(byte),
        .bits_per_byte = byte / log(2),
    };
}

static void put_json_written(struct sbuf *b, const struct report_total *t) {
    sbuf_puts(b, "{");
    cmd_text_json_str(b, "setting", t->setting);
    cmd_text_json_int(b, "documents", t->documents);
    cmd_text_json_int(b, "prompt_tokens", t->num_tokens);
    cmd_text_json_int(b, "completion_tokens", t->num_scored);
    cmd_text_json_int(b, "stopped", t->stopped);
    cmd_text_json_num(b, "sum_logprob", t->sum_logprob);
    cmd_text_json_num(b, "ppl", ratios_of(t).ppl);
    sbuf_puts(b, "}\n");
}

static void put_json(struct sbuf *b, const struct report_total *t) {
    const struct ratios r = ratios_of(t);
    if (t->written) {
        put_json_written(b, t);
        return;
    }
    sbuf_puts(b, "{");
    cmd_text_json_str(b, "setting", t->setting);
    cmd_text_json_int(b, "documents", t->documents);
    cmd_text_json_int(b, "num_tokens", t->num_tokens);
    cmd_text_json_int(b, "num_scored", t->num_scored);
    if (t->has_text) {
        cmd_text_json_int(b, "num_bytes", t->num_bytes);
        cmd_text_json_int(b, "num_words", t->num_words);
    } else {
        cmd_text_json_str(b, "num_bytes", NULL);
        cmd_text_json_str(b, "num_words", NULL);
    }
    cmd_text_json_num(b, "sum_logprob", t->sum_logprob);
    cmd_text_json_num(b, "ppl", r.ppl);
    cmd_text_json_num(b, "word_perplexity", r.word_ppl);
    cmd_text_json_num(b, "byte_perplexity", r.byte_ppl);
    cmd_text_json_num(b, "bits_per_byte", r.bits_per_byte);
    sbuf_puts(b, "}\n");
}

static void add_count(struct cmd_table *t, int64_t n) {
    struct sbuf b;
    sbuf_init(&b);
    cmd_text_count(&b, n);
    cmd_table_cell(t, sbuf_str(&b));
    sbuf_fini(&b);
}

static void add_number(struct cmd_table *t, double x) {
    char text[32] = "-";
    if (isfinite(x)) snprintf(text, sizeof text, x < 1e6 ? "%.4f" : "%.4g", x);
    cmd_table_cell(t, text);
}

static void put_people(struct sbuf *b, const struct report_total *totals, int n) {
    static const char *const heads[] = {"setting", "documents", "tokens",   "scored",
                                        "ppl",     "word ppl",  "byte ppl", "bits/byte"};
    struct cmd_table t = {.n_col = COUNTOF(heads)};
    for (size_t i = 0; i < COUNTOF(heads); i++) cmd_table_cell(&t, heads[i]);
    for (int i = 0; i < n; i++) {
        const struct ratios r = ratios_of(&totals[i]);
        cmd_table_cell(&t, totals[i].setting);
        add_count(&t, totals[i].documents);
        add_count(&t, totals[i].num_tokens);
        add_count(&t, totals[i].num_scored);
        add_number(&t, r.ppl);
        add_number(&t, r.word_ppl);
        add_number(&t, r.byte_ppl);
        add_number(&t, r.bits_per_byte);
    }
    cmd_table_print(&t, b);
}

static void put_written(struct sbuf *b, const struct report_total *totals, int n) {
    static const char *const heads[] = {"setting", "documents", "prompts",
                                        "written", "stopped",   "ppl"};
    struct cmd_table t = {.n_col = COUNTOF(heads)};
    for (size_t i = 0; i < COUNTOF(heads); i++) cmd_table_cell(&t, heads[i]);
    for (int i = 0; i < n; i++) {
        cmd_table_cell(&t, totals[i].setting);
        add_count(&t, totals[i].documents);
        add_count(&t, totals[i].num_tokens);
        add_count(&t, totals[i].num_scored);
        add_count(&t, totals[i].stopped);
        add_number(&t, ratios_of(&totals[i]).ppl);
    }
    cmd_table_print(&t, b);
}

static int stats_main(const struct cmd_sub *self, int argc, char **argv) {
    struct options o = {.json = false};
    struct report_total *totals = NULL;
    struct sbuf b;
    struct err e = {.code = OK};
    int n = 0, n_total = 0, code = 0;
    if (!cmd_args_read(&self->args, argc, argv, &o, &n, &code)) return code;
    if (report_stats(argv[0], &totals, &n_total, &e) != OK) {
        mem_free(totals);
        return cmd_fail(&e, CMD_FROM_RESULTS);
    }
    sbuf_init(&b);
    for (int i = 0; i < n_total && o.json; i++) put_json(&b, &totals[i]);
    const bool written = n_total > 0 && totals[0].written;
    if (!o.json && written) put_written(&b, totals, n_total);
    if (!o.json && !written) put_people(&b, totals, n_total);
    mem_free(totals);
    return cmd_out_text(&b);
}

const struct cmd_sub cmd_stats = {
    .args =
        {
            .name = "stats",
            .operands = "DIR",
            .min_operands = 1,
            .max_operands = 1,
            .summary = "totals of the corpus for each cache setting: perplexities, bits per byte",
            .about = "Of a generate job: tokens of prompts and answers, how many answers ended by\n"
                     "themselves, and the perplexity of what was written.\n"
                     "Sums first, then ratios. Word and byte figures need text: \"-\" where some\n"
                     "documents were given as token ids. Counts what is there so far.\n",
            .examples = "  basin stats out/books\n"
                        "  basin stats out/books --json | jq -c '[.setting, .ppl]'\n",
            .options = table,
            .n_option = COUNTOF(table),
        },
    .main = stats_main,
};
