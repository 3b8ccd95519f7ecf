#include "jobs/session.h"

#include "base/num.h"

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

static enum status settle_dtype(struct session *s, const char *dtype, struct err *e) {
    if (dtype == NULL && s->man->compute.dtype == MAN_DTYPE_AUTO) {
        s->compute = session_auto_dtype(s->model);
        return OK;
    }
    if (dtype == NULL) dtype = man_dtype_name(s->man->compute.dtype);
    if (strcmp(dtype, "f32") == 0) {
        s->compute = DT_F32;
    } else if (strcmp(dtype, "bf16") == 0) {
        s->compute = DT_BF16;
    } else {
        return err_fail(e, E_FORMAT, "dtype \"%s\" is not one this version computes in", dtype);
    }
    return OK;
}

static enum status open_tokenizer(struct session *s, const char *dir, struct err *e) {
    enum status st = OK;
    if (!has_text(s->plan)) goto done;
    TRY(tok_open(&s->tok, dir, e));
    const int64_t n_vocab = model_arch(s->model)->n_vocab;
    if (tok_bos(s->tok) >= n_vocab) {
        FAIL(e, E_FORMAT, "%s: the tokenizer's BOS id %d is outside the model's vocabulary of %lld",
             dir, tok_bos(s->tok), (long long)n_vocab);
    }
    const enum man_bos want = s->man->score.add_bos;
    s->add_bos = want == MAN_BOS_TRUE || (want == MAN_BOS_AUTO && tok_adds_bos(s->tok));
    if (s->add_bos && tok_bos(s->tok) < 0) {
        FAIL(e, E_FORMAT, "%s: the tokenizer names no BOS token; set \"add_bos\": false", dir);
    }
done:
    return st;
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
    s->n_row = man->compute.span_tokens > 0 ? man->compute.span_tokens : SESSION_ROWS;
    warn_settings(s);
done:
    sbuf_fini(&dir);
    return st;
}

// cuda and cuda:N are one GPU each. A list is understood, and not served yet.
static enum status open_gpu(struct session *s, const char *want, const struct dev_config *c,
                            struct err *e) {
    int64_t ordinal = 0;
    enum status st = OK;
    if (strchr(want, ',') != NULL) {
        FAIL(
            e, E_DEVICE,
            "--devices %s: one run does not use several devices yet; start one run per device, for "
            "example --devices cuda:0 --shard 0/2 and --devices cuda:1 --shard 1/2",
            want);
    }
    if (strcmp(want, "auto") != 0 && strcmp(want, "cuda") != 0 &&
        (strncmp(want, "cuda:", 5) != 0 || !num_parse_int(want + 5, INT32_MAX, &ordinal))) {
        FAIL(e, E_ARG, "--devices %s: must be auto, cpu, cuda, cuda:0,1 or cpu,cuda", want);
    }
    st = dev_open_cuda(&s->dev, (int)ordinal, c, e);
    if (st != OK) {
        if (e != NULL) e->code = E_DEVICE;
        st = E_DEVICE;
        err_prefix(e, "--devices %s: ", want);
    }
done:
    return st;
}

// A GPU where one can be used, else the CPU; the person is told why.
static enum status open_any(struct session *s, const struct dev_config *c, struct err *e) {
    struct err why = {.code = OK};
    if (dev_cuda_count() > 0 && open_gpu(s, "auto", c, &why) == OK) return OK;
    const struct run_hooks *h = &s->o->hooks;
    if (why.code != OK && h->note != NULL) {
        char text[sizeof why.msg + 32];
        snprintf(text, sizeof text, "runs on the CPU: %s", why.msg);
        h->note(h->ctx, RUN_WARNING, text);
    }
    return dev_open_cpu(&s->dev, c, e);
}

enum status session_start(struct session *s, struct err *e) {
    enum status st = OK;
    const char *want = s->o->devices != NULL ? s->o->devices : "auto";
    const struct dev_config c = {
        .n_thread = s->o->n_thread, .isa = s->o->isa, .compute = s->compute};
    if (strcmp(want, "ref") == 0) {
        TRY(dev_open_ref(&s->dev, &c, e));
    } else if (strcmp(want, "cpu") == 0) {
        TRY(dev_open_cpu(&s->dev, &c, e));
    } else if (strcmp(want, "auto") == 0) {
        TRY(open_any(s, &c, e));
    } else {
        TRY(open_gpu(s, want, &c, e));
    }
    TRY(model_on_open(&s->mo, s->model, s->dev, e));
done:
    return st;
}

void session_close(struct session *s) {
    for (int i = 0; s->plan != NULL && i < s->plan->n_slice; i++) {
        if (s->plan->slices[i].file.fd >= 0) close(s->plan->slices[i].file.fd);
    }
    model_on_close(s->mo);
    dev_close(s->dev);
    tok_close(s->tok);
    model_close(s->model);
    plan_free(s->plan);
    memset(s, 0, sizeof *s);
}

const char *session_dtype(const struct session *s) {
    return s->compute == DT_BF16 ? "bf16" : "f32";
}

enum status session_print_job(const struct session *s, struct sbuf *out, struct err *e) {
    struct sbuf man;
    sbuf_init(&man);
    man_canonical(s->man, &man);
    sbuf_printf(
        out, "{\"version\":1,\"identity\":{\"manifest\":%s,\"dtype\":\"%s\",\"cache_dtype\":\"%s\"",
        sbuf_str(&man), session_dtype(s), session_dtype(s));
    sbuf_printf(out, ",\"model\":\"%s\",\"model_family\":\"%s\"", model_identity(s->model),
                model_arch(s->model)->family->name);
    if (s->tok != NULL) {
        sbuf_printf(out, ",\"tokenizer\":\"%s\"", tok_identity(s->tok));
    } else {
        sbuf_puts(out, ",\"tokenizer\":null");
    }
    sbuf_puts(out, "},\"parts\":");
    plan_print(s->plan, out);
    sbuf_puts(out, "}\n");
    const enum status st = sbuf_status(&man, e);
    sbuf_fini(&man);
    return st != OK ? st : sbuf_status(out, e);
}

void session_score_config(const struct session *s, struct score_config *c) {
    memset(c, 0, sizeof *c);
    c->man = s->man;
    c->mo = s->mo;
    c->tok = s->tok;
    c->add_bos = s->add_bos;
    c->labels = (struct doc_labels){.dtype = session_dtype(s), .device = dev_kind(s->dev)};
    c->model_identity = model_identity(s->model);
    c->n_row = s->n_row;
    c->commit_s = 1;
    c->checkpoint_s = s->o->checkpoint_s > 0 ? s->o->checkpoint_s : 120;
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
        f->size = f->end = size;
    }
done:
    return st;
}
