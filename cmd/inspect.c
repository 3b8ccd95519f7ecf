#include "cmd/cmd.h"
#include "cmd/exit.h"
#include "cmd/inspect_arch.h"
#include "cmd/out.h"
#include "cmd/text.h"
#include "core/cache.h"
#include "core/span.h"
#include "core/tok.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

enum { SINKS = 4, WINDOW = 1020, MOST_TYPES = 32 };

struct options {
    bool json;
};

#define AT(member) offsetof(struct options, member)
static const struct cmd_option table[] = {
    {.name = "json", .kind = CMD_FLAG, .offset = AT(json), .help = "as a JSON object"},
};

/* ---- what is looked at ---- */

struct type_count {
    const char *name; /* borrowed: from the model */
    int64_t tensors, params, bytes;
};

struct facts {
    const char *dir;
    struct model *model; /* owned, as the next */
    struct tok *tok;     /* NULL when it was refused */
    struct err tok_err;
    struct type_count types[MOST_TYPES];
    int n_type;
    int64_t params, n_tensor;
    int64_t token_bytes[2];  /* of a token in the cache: bf16, f32 */
    int64_t cache_bytes[2];  /* what a run allocates for a cache of SINKS and WINDOW */
    int64_t weight_bytes[2]; /* of files and panels in memory */
};

static const char *const words[2] = {"bf16", "f32"};

static int64_t params_of(const struct model_entry *t) {
    int64_t n = 1;
    for (int i = 0; i < t->n_dim; i++) n *= t->dim[i];
    return n;
}

static void count_type(struct facts *f, const struct model_entry *t) {
    int i = 0;
    while (i < f->n_type && strcmp(f->types[i].name, t->dtype_text) != 0) i++;
    if (i == MOST_TYPES) return; // more than any format has
    if (i == f->n_type) f->types[f->n_type++] = (struct type_count){.name = t->dtype_text};
    f->types[i].tensors++;
    f->types[i].params += params_of(t);
    f->types[i].bytes += t->bytes;
}

// Cache sizes come from the same sums as those of a run. No weight is read for them.
static enum status measure_cache(struct facts *f, struct err *e) {
    enum status st = OK;
    struct dev *d = NULL;
    struct model_on *mo = NULL;
    const struct dev_config config = {.n_thread = 1, .isa = CPU_PORTABLE, .compute = DT_F32};
    const struct vis_rule rule = {.n_sink = SINKS, .n_win = WINDOW, .n_chunk = 1};
    const struct arch *a = model_arch(f->model);
    TRY(dev_open_cpu(&d, &config, e));
    TRY(model_on_open(&mo, f->model, d, e));
    for (int i = 0; i < 2; i++) {
        const size_t word = i == 0 ? 2 : 4;
        f->token_bytes[i] = 2 * a->n_layer * a->n_kv * a->d_head * (int64_t)word;
        f->cache_bytes[i] =
            cache_bytes(a, mo->classes, mo->class_of_layer, &rule, INT64_MAX / 4, word);
        f->weight_bytes[i] = span_weights_bytes(f->model, word);
    }
done:
    model_on_close(mo);
    dev_close(d);
    return st;
}

static enum status gather(struct facts *f, struct err *e) {
    enum status st = OK;
    struct model_entry t;
    TRY(model_open(&f->model, f->dir, e));
    if (tok_open(&f->tok, f->dir, &f->tok_err) != OK) f->tok = NULL;
    for (size_t i = 0; model_entry_at(f->model, i, &t); i++) {
        f->n_tensor++;
        count_type(f, &t);
        if (t.use != NULL) f->params += params_of(&t);
    }
    TRY(measure_cache(f, e));
done:
    return st;
}

/* ---- for machines ---- */

static void put_object(struct sbuf *b, const char *name) {
    cmd_text_key(b, name);
    sbuf_puts(b, "{");
}

static void put_token_json(struct sbuf *b, const struct tok *t, const char *name, int32_t id) {
    size_t n = 0;
    const char *piece = tok_borrow_piece(t, id, &n);
    cmd_text_key(b, name);
    if (piece == NULL) {
        sbuf_puts(b, "null");
        return;
    }
    sbuf_printf(b, "{\"id\":%" PRId32 ",\"text\":", id);
    sbuf_json_string(b, piece, n);
    sbuf_puts(b, "}");
}

static void put_tokenizer_json(struct sbuf *b, const struct facts *f) {
    put_object(b, "tokenizer");
    if (f->tok == NULL) {
        cmd_text_json_str(b, "code", err_name(f->tok_err.code));
        cmd_text_json_str(b, "message", f->tok_err.msg);
    } else {
        cmd_text_json_str(b, "kind", tok_kind(f->tok));
        cmd_text_json_int(b, "vocabulary", tok_n_vocab(f->tok));
        put_token_json(b, f->tok, "bos", tok_bos(f->tok));
        put_token_json(b, f->tok, "eos", tok_eos(f->tok));
        cmd_text_json_bool(b, "adds_bos", tok_adds_bos(f->tok));
        cmd_text_json_str(b, "identity", tok_identity(f->tok));
    }
    sbuf_puts(b, "}");
}

static void put_pair_json(struct sbuf *b, const char *name, const int64_t pair[2]) {
    put_object(b, name);
    for (int i = 0; i < 2; i++) cmd_text_json_int(b, words[i], pair[i]);
    sbuf_puts(b, "}");
}

static void put_tensors_json(struct sbuf *b, const struct model *m) {
    struct model_entry t;
    cmd_text_key(b, "tensors");
    for (size_t i = 0; model_entry_at(m, i, &t); i++) {
        sbuf_puts(b, i == 0 ? "[{" : ",{");
        cmd_text_json_str(b, "name", t.name);
        cmd_text_json_str(b, "type", t.dtype_text);
        cmd_text_key(b, "shape");
        for (int k = 0; k < t.n_dim; k++)
            sbuf_printf(b, "%s%" PRId64, k == 0 ? "[" : ",", t.dim[k]);
        sbuf_puts(b, t.n_dim == 0 ? "[]" : "]");
        cmd_text_json_int(b, "bytes", t.bytes);
        cmd_text_json_str(b, "role", t.use != NULL ? cmd_inspect_role(t.use->role)->key : NULL);
        if (t.layer >= 0) cmd_text_json_int(b, "layer", t.layer);
        if (t.ignored != NULL) cmd_text_json_str(b, "ignored", t.ignored);
        sbuf_puts(b, "}");
    }
    sbuf_puts(b, "]");
}

static void put_json(struct sbuf *b, const struct facts *f) {
    sbuf_puts(b, "{");
    cmd_text_json_str(b, "model", f->dir);
    cmd_text_json_str(b, "identity", model_identity(f->model));
    cmd_text_json_int(b, "parameters", f->params);
    cmd_text_json_int(b, "file_bytes", model_file_bytes(f->model));
    cmd_text_key(b, "stored");
    for (int i = 0; i < f->n_type; i++) {
        sbuf_puts(b, i == 0 ? "[{" : ",{");
        cmd_text_json_str(b, "type", f->types[i].name);
        cmd_text_json_int(b, "tensors", f->types[i].tensors);
        cmd_text_json_int(b, "parameters", f->types[i].params);
        cmd_text_json_int(b, "bytes", f->types[i].bytes);
        sbuf_puts(b, "}");
    }
    sbuf_puts(b, "]");
    cmd_inspect_put_json(b, model_arch(f->model));
    put_tokenizer_json(b, f);
    put_pair_json(b, "cache_bytes_per_token", f->token_bytes);
    put_object(b, "cache");
    cmd_text_json_int(b, "sink_tokens", SINKS);
    cmd_text_json_int(b, "window_tokens", WINDOW);
    put_pair_json(b, "memory_bytes", f->cache_bytes);
    sbuf_puts(b, "}");
    put_pair_json(b, "weights_memory_bytes", f->weight_bytes);
    put_tensors_json(b, f->model);
    sbuf_puts(b, "}\n");
}

/* ---- for people ---- */

static void put_token(struct sbuf *b, const struct tok *t, const char *name, int32_t id) {
    size_t n = 0;
    const char *piece = tok_borrow_piece(t, id, &n);
    if (piece == NULL) {
        sbuf_printf(b, ", no %s", name);
        return;
    }
    struct sbuf text, shown;
    sbuf_init(&text);
    sbuf_init(&shown);
    sbuf_add(&text, piece, n);
    cmd_out_printable(&shown, sbuf_str(&text));
    sbuf_printf(b, ", %s %" PRId32 " \"%s\"", name, id, sbuf_str(&shown));
    sbuf_fini(&shown);
    sbuf_fini(&text);
}

static void put_tokenizer(struct sbuf *b, const struct facts *f) {
    cmd_inspect_put_label(b, "tokenizer");
    if (f->tok == NULL) {
        sbuf_puts(b, f->tok_err.code == E_NOINPUT ? "none, token ids only: " : "refused: ");
        cmd_out_printable(b, f->tok_err.msg);
        sbuf_puts(b, "\n");
        return;
    }
    sbuf_printf(b, "%s, ", tok_kind(f->tok));
    cmd_text_plural(b, tok_n_vocab(f->tok), "token");
    put_token(b, f->tok, "BOS", tok_bos(f->tok));
    if (tok_bos(f->tok) >= 0) {
        sbuf_puts(b, tok_adds_bos(f->tok) ? " (put before a text)" : " (not put before a text)");
    }
    put_token(b, f->tok, "EOS", tok_eos(f->tok));
    sbuf_puts(b, "\n");
}

static void put_pair(struct sbuf *b, const char *label, const int64_t pair[2], const char *what) {
    cmd_inspect_put_label(b, label);
    cmd_text_bytes(b, pair[0]);
    sbuf_printf(b, " %s in bf16, ", what);
    cmd_text_bytes(b, pair[1]);
    sbuf_puts(b, " in f32\n");
}

static void put_tensors(struct sbuf *b, const struct model *m) {
    struct cmd_table t = {.n_col = 4};
    struct model_entry x;
    struct sbuf cell;
    sbuf_init(&cell);
    cmd_table_cell(&t, "tensor");
    cmd_table_cell(&t, "type");
    cmd_table_cell(&t, "shape");
    cmd_table_cell(&t, "use");
    for (size_t i = 0; model_entry_at(m, i, &x); i++) {
        sbuf_clear(&cell);
        cmd_out_printable(&cell, x.name);
        cmd_table_cell(&t, sbuf_str(&cell));
        cmd_table_cell(&t, x.dtype_text);
        sbuf_clear(&cell);
        for (int k = 0; k < x.n_dim; k++)
            sbuf_printf(&cell, "%s%" PRId64, k == 0 ? "" : " x ", x.dim[k]);
        cmd_table_cell(&t, sbuf_str(&cell));
        sbuf_clear(&cell);
        if (x.layer >= 0) sbuf_printf(&cell, "layer %" PRId64 ", ", x.layer);
        sbuf_printf(&cell, "%s%s",
                    x.use != NULL ? cmd_inspect_role(x.use->role)->text : "ignored: ",
                    x.use != NULL ? "" : x.ignored);
        cmd_table_cell(&t, sbuf_str(&cell));
    }
    sbuf_fini(&cell);
    cmd_table_print(&t, b);
}

static void put_people(struct sbuf *b, const struct facts *f) {
    const struct arch *a = model_arch(f->model);
    cmd_inspect_put_label(b, "model");
    cmd_out_printable(b, f->dir);
    sbuf_puts(b, "\n");
    cmd_inspect_put_label(b, "family");
    sbuf_printf(b, "%s\n", a->family->name);
    cmd_inspect_put_label(b, "identity");
    sbuf_printf(b, "%s\n", model_identity(f->model));
    cmd_inspect_put_label(b, "parameters");
    cmd_text_count(b, f->params);
    sbuf_puts(b, ", stored as");
    for (int i = 0; i < f->n_type; i++) {
        sbuf_printf(b, "%s %s (", i == 0 ? "" : ",", f->types[i].name);
        cmd_text_plural(b, f->types[i].tensors, "tensor");
        sbuf_puts(b, ", ");
        cmd_text_bytes(b, f->types[i].bytes);
        sbuf_puts(b, ")");
    }
    sbuf_puts(b, "\n");
    cmd_inspect_put_text(b, a);
    put_tokenizer(b, f);
    struct sbuf with;
    sbuf_init(&with);
    sbuf_printf(&with, "with S=%d W=%d", SINKS, WINDOW);
    put_pair(b, "cache", f->token_bytes, "per token");
    put_pair(b, "", f->cache_bytes, sbuf_str(&with));
    put_pair(b, "weights", f->weight_bytes, "of memory");
    sbuf_fini(&with);
    sbuf_puts(b, "\n");
    put_tensors(b, f->model);
}

static int inspect_main(const struct cmd_sub *self, int argc, char **argv) {
    struct options o = {.json = false};
    struct facts f = {.n_type = 0};
    struct err e = {.code = OK};
    struct sbuf b;
    int n = 0, code = 0;
    if (!cmd_args_read(&self->args, argc, argv, &o, &n, &code)) return code;
    f.dir = argv[0];
    if (gather(&f, &e) != OK) {
        code = cmd_fail(&e, CMD_FROM_JOB);
    } else {
        sbuf_init(&b);
        if (o.json) {
            put_json(&b, &f);
        } else {
            put_people(&b, &f);
        }
        code = cmd_out_text(&b);
        if (f.tok == NULL && f.tok_err.code != E_NOINPUT) { // a model of ids alone is in order
            const int refused = cmd_fail(&f.tok_err, CMD_FROM_JOB);
            if (code == CMD_EXIT_OK) code = refused;
        }
    }
    tok_close(f.tok);
    model_close(f.model);
    return code;
}

const struct cmd_sub cmd_inspect = {
    .args =
        {
            .name = "inspect",
            .operands = "MODEL",
            .min_operands = 1,
            .max_operands = 1,
            .summary = "what a model is: architecture, tensors, tokenizer, memory it takes",
            .about = "Reads headers, no weights. A model or tokenizer that this program does not\n"
                     "compute with is refused by the name of what it does not support (exit 65).\n"
                     "The cache of a document takes its memory twice while a block is at work, "
                     "which is\n"
                     "in the figure; weights are the mapped files and the packed layer and head.\n",
            .examples = "  basin inspect models/smol\n"
                        "  basin inspect models/smol --json | jq -c '.tensors[] | [.name, "
                        ".shape]'\n",
            .options = table,
            .n_option = COUNTOF(table),
        },
    .main = inspect_main,
};
