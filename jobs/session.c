#include "jobs/session.h"

#include "base/cpu.h"
#include "base/suggest.h"
#include "jobs/gen.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool has_text(const struct plan *p) {
    for (int i = 0; i < p->n_slice; i++) {
        if (p->slices[i].file.ids_key == NULL) return true;
    }
    return false;
}

enum dtype session_auto_dtype(const struct model *m) {
    return model_stored_dtype(m) == DT_F32 ? DT_F32 : DT_BF16;
}

bool session_auto_int8(const struct model *m) {
    return dtype_block(model_stored_dtype(m)) > 1;
}

static enum status settle_dtype(struct session *s, const char *dtype, struct err *e) {
    if (dtype == NULL && s->man->compute.dtype == MAN_DTYPE_AUTO) {
        const char *on = s->o->devices != NULL ? s->o->devices : "auto";
        s->compute = session_auto_dtype(s->model);
        s->int8 = s->man->job == MAN_GENERATE && session_auto_int8(s->model) &&
                  (strcmp(on, "auto") == 0 || strcmp(on, "cpu") == 0);
        return OK;
    }
    if (dtype == NULL) dtype = man_dtype_name(s->man->compute.dtype);
    if (strcmp(dtype, "f32") == 0) {
        s->compute = DT_F32;
    } else if (strcmp(dtype, "bf16") == 0 || strcmp(dtype, "int8") == 0) {
        s->compute = DT_BF16;
        s->int8 = strcmp(dtype, "int8") == 0;
    } else {
        return err_fail(e, E_FORMAT, "dtype \"%s\" is not one this version computes in", dtype);
    }
    return OK;
}

static enum status open_tokenizer(struct session *s, const char *dir, struct err *e) {
    enum status st = OK;
    // What is written is text, whatever it continues.
    if (!has_text(s->plan) && s->man->job != MAN_GENERATE) goto done;
    TRY(tok_open(&s->tok, dir, e));
    const int64_t n_vocab = model_arch(s->model)->n_vocab;
    if (tok_bos(s->tok) >= n_vocab) {
        FAIL(e, E_FORMAT, "%s: the tokenizer's BOS id %d is outside the model's vocabulary of %lld",
             dir, tok_bos(s->tok), (long long)n_vocab);
    }
    const enum man_bos want = man_add_bos(s->man);
    s->add_bos = want == MAN_BOS_TRUE || (want == MAN_BOS_AUTO && tok_adds_bos(s->tok));
    if (s->add_bos && tok_bos(s->tok) < 0) {
        FAIL(e, E_FORMAT, "%s: the tokenizer names no BOS token; set \"add_bos\": false", dir);
    }
done:
    return st;
}

// By name, or as the model says; a model without one is refused when a chat comes.
static enum status choose_template(struct session *s, const char *dir, struct err *e) {
    enum status st = OK;
    const char *name = s->man->generate.template;
    if (strcmp(name, "auto") == 0) {
        st = chat_of_model(&s->chat, dir, &s->no_chat);
        return st == OK || st == E_UNSUPPORTED ? OK : err_fail(e, st, "%s", s->no_chat.msg);
    }
    s->chat = chat_find(name);
    if (s->chat != NULL) goto done;
    const char *near = suggest_closest(name, chat_names());
    FAIL(e, E_FORMAT, "$.generate.template: \"%.64s\" is not a template this program knows%s%s%s",
         name, near != NULL ? "; did you mean \"" : "", near != NULL ? near : "",
         near != NULL ? "\"?" : "");
done:
    return st;
}

static enum status open_generate(struct session *s, const char *dir, struct err *e) {
    enum status st = OK;
    if (s->man->job != MAN_GENERATE) return OK;
    TRY(choose_template(s, dir, e));
    const struct gen_model m = {dir, s->tok, s->chat, model_arch(s->model)->n_vocab};
    TRY(gen_ask_of_job(&s->ask, s->man, &m, e));
done:
    return st;
}

int64_t session_stream_bytes(const struct session *s, int n, int64_t n_tok) {
    int64_t most = 0;
    const struct stream_config c = {.n_stream = n,
                                    .n_candidate =
                                        s->ask.how.penalty_alpha > 0 ? s->ask.how.samp.top_k : 0,
                                    .n_logprob = s->ask.how.n_logprob};
    for (size_t i = 0; i < s->man->n_settings; i++) {
        const struct vis_rule rule = part_rule(&s->man->settings[i]);
        const struct stream_size size = {
            .arch = model_arch(s->model),
            .classes = s->devs[0].mo->classes,
            .class_of_layer = s->devs[0].mo->class_of_layer,
            .rule = &rule,
            .n_tok = n_tok,
            .window = s->ask.how.penalty_alpha > 0 ? s->ask.how.contrastive_window : 0,
            .kv_bytes = s->compute == DT_BF16 ? 2 : 4};
        const int64_t bytes = stream_bytes(&c, &size);
        if (bytes > most) most = bytes;
    }
    return most;
}

// As many as memory lets: results do not depend on it.
static void settle_streams(struct session *s) {
    s->n_stream = (int)s->man->generate.streams;
    if (s->man->job != MAN_GENERATE || s->n_stream > 0) return;
    const int64_t weights = stream_weights_bytes(s->model, s->compute == DT_BF16 ? 2 : 4);
    const int64_t left = cpu_memory_bytes();
    // A dense document of a few thousand tokens and its answer.
    const int64_t n_tok = 4096 + s->man->generate.max_new_tokens;
    s->n_stream =
        gen_default_streams(session_stream_bytes(s, 1, n_tok), left > weights ? left - weights : 0);
}

static void warn_settings(const struct session *s) {
    const struct run_hooks *h = &s->o->hooks;
    const int64_t n_ctx = model_arch(s->model)->n_ctx_train;
    for (size_t i = 0; h->note != NULL && i < s->man->n_settings; i++) {
        const struct man_setting *c = &s->man->settings[i];
        if (c->mode == MAN_DENSE || c->sink_tokens + c->window_tokens <= n_ctx) continue;
        char text[256];
        snprintf(
            text, sizeof text,
            "setting %s: a cache of %lld tokens is longer than the %lld the model was trained at",
            c->name, (long long)(c->sink_tokens + c->window_tokens), (long long)n_ctx);
        h->note(h->ctx, RUN_WARNING, text);
    }
}

enum status session_open(struct session *s, const struct manifest *man, const struct run_options *o,
                         const char *dtype, struct err *e) {
    enum status st = OK;
    struct sbuf dir;
    sbuf_init(&dir);
    memset(s, 0, sizeof *s);
    s->man = man;
    s->o = o;
    man_path(man, man->model_path, &dir);
    TRY(sbuf_status(&dir, e));
    TRY(plan_make(&s->plan, man, e));
    TRY(model_open(&s->model, sbuf_str(&dir), e));
    TRY(open_tokenizer(s, sbuf_str(&dir), e));
    TRY(settle_dtype(s, dtype, e));
    TRY(open_generate(s, sbuf_str(&dir), e));
    s->n_row = man->compute.span_tokens > 0 ? man->compute.span_tokens : SESSION_ROWS;
    warn_settings(s);
done:
    sbuf_fini(&dir);
    return st;
}

enum status session_start(struct session *s, struct err *e) {
    enum status st = OK;
    TRY(session_open_devices(s, e));
    if (s->man->job == MAN_GENERATE && strcmp(dev_kind(s->devs[0].dev), "ref") != 0) {
        const struct dev_config steps = {.n_thread = s->o->n_thread,
                                         .isa = s->o->isa,
                                         .compute = s->compute,
                                         .purpose = DEV_STEPS,
                                         .int8 = s->int8};
        if (strcmp(dev_kind(s->devs[0].dev), "cuda") == 0)
            TRY(dev_open_cuda(&s->step_dev, dev_ordinal(s->devs[0].dev), &steps, e));
        else
            TRY(dev_open_cpu(&s->step_dev, &steps, e));
        TRY(model_on_open(&s->step_mo, s->model, s->step_dev, e));
    }
    settle_streams(s);
done:
    return st;
}

void session_close(struct session *s) {
    for (int i = 0; s->plan != NULL && i < s->plan->n_slice; i++) {
        if (s->plan->slices[i].file.fd >= 0) close(s->plan->slices[i].file.fd);
    }
    model_on_close(s->step_mo);
    dev_close(s->step_dev);
    for (int i = 0; i < s->n_dev; i++) {
        model_on_close(s->devs[i].mo);
        dev_close(s->devs[i].dev);
    }
    gen_ask_fini(&s->ask);
    tok_close(s->tok);
    model_close(s->model);
    plan_free(s->plan);
    memset(s, 0, sizeof *s);
}

const char *session_dtype(const struct session *s) {
    return s->int8 ? "int8" : dtype_name(s->compute);
}

// What the model's own files have decided: a change of theirs is another job.
static void print_sampling(const struct session *s, struct sbuf *out) {
    const struct stream_how *h = &s->ask.how;
    sbuf_puts(out, ",\"template\":");
    if (s->chat == NULL) sbuf_puts(out, "null");
    if (s->chat != NULL) sbuf_printf(out, "\"%s\"", chat_name(s->chat));
    sbuf_puts(out, ",\"sampling\":{\"temperature\":");
    sbuf_json_double(out, h->samp.temperature);
    sbuf_printf(out, ",\"top_k\":%d,\"top_p\":", h->samp.top_k);
    sbuf_json_double(out, h->samp.top_p);
    sbuf_puts(out, ",\"min_p\":");
    sbuf_json_double(out, h->samp.min_p);
    sbuf_puts(out, ",\"repetition_penalty\":");
    sbuf_json_double(out, h->samp.repetition_penalty);
    sbuf_puts(out, ",\"eos\":[");
    for (int i = 0; i < h->n_eos; i++) sbuf_printf(out, i > 0 ? ",%d" : "%d", h->eos[i]);
    sbuf_puts(out, "]}");
}

enum status session_print_job(const struct session *s, struct sbuf *out, struct err *e) {
    struct sbuf man;
    sbuf_init(&man);
    man_canonical(s->man, &man);
    sbuf_printf(
        out, "{\"version\":1,\"identity\":{\"manifest\":%s,\"dtype\":\"%s\",\"cache_dtype\":\"%s\"",
        sbuf_str(&man), session_dtype(s), dtype_name(s->compute));
    sbuf_printf(out, ",\"model\":\"%s\",\"model_family\":\"%s\"", model_identity(s->model),
                model_arch(s->model)->family->name);
    if (s->tok != NULL) {
        sbuf_printf(out, ",\"tokenizer\":\"%s\"", tok_identity(s->tok));
    } else {
        sbuf_puts(out, ",\"tokenizer\":null");
    }
    if (s->man->job == MAN_GENERATE) print_sampling(s, out);
    sbuf_puts(out, "},\"parts\":");
    plan_print(s->plan, out);
    sbuf_puts(out, "}\n");
    const enum status st = sbuf_status(&man, e);
    sbuf_fini(&man);
    return st != OK ? st : sbuf_status(out, e);
}

void session_part_config(const struct session *s, int i, struct part_config *c) {
    memset(c, 0, sizeof *c);
    c->man = s->man;
    c->plan = s->plan;
    c->mo = s->devs[i].mo;
    c->step_mo = s->step_mo != NULL ? s->step_mo : c->mo;
    c->tok = s->tok;
    c->add_bos = s->add_bos;
    c->labels = (struct doc_labels){.dtype = session_dtype(s), .device = dev_kind(s->devs[i].dev)};
    c->model_identity = model_identity(s->model);
    c->n_row = s->devs[i].n_row;
    c->commit_s = 1;
    c->checkpoint_s = s->o->checkpoint_s > 0 ? s->o->checkpoint_s : 120;
    c->stop_save_s = s->o->stop_save_s > 0 ? s->o->stop_save_s : 4;
}

enum status session_spool_stdin(struct session *s, const char *dir, struct err *e) {
    enum status st = OK;
    for (int i = 0; i < s->plan->n_slice; i++) {
        struct corpus_file *f = &s->plan->slices[i].file;
        if (strcmp(f->source, "-") != 0 || f->fd >= 0) continue;
        int64_t size = 0;
        int fd = -1;
        const struct corpus_stop stop = {s->o->hooks.stop, s->o->hooks.ctx};
        TRY(corpus_spool(STDIN_FILENO, dir, stop.asked != NULL ? &stop : NULL, &fd, &size, e));
        f->fd = fd;
        f->size = size;
        f->packing = unpack_kind_of_fd(fd);
        f->end = f->packing == UNPACK_NONE ? size : -1;
    }
done:
    return st;
}

enum status session_fixed_dtype(const struct manifest *man, const char *dir, bool overwrite,
                                char dtype[16], struct err *e) {
    enum status st = OK;
    struct json *job = NULL;
    dtype[0] = '\0';
    if (man->compute.dtype != MAN_DTYPE_AUTO || overwrite) goto done;
    st = ledger_read_job(&job, dir, e);
    if (st == E_NOINPUT || st == E_FORMAT) { // whose directory it is, the ledger says
        if (e != NULL) e->code = OK;
        st = OK;
        goto done;
    }
    TRY(st);
    const struct jnode *identity = json_get(json_root(job), "identity");
    const struct jnode *v = identity != NULL ? json_get(identity, "dtype") : NULL;
    if (v != NULL && json_kind_of(v) == JSON_STR) snprintf(dtype, 16, "%s", json_str(v, NULL));
done:
    json_close(job);
    return st;
}
