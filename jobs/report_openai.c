/* Rows of a generate job as lines of an OpenAI batch's output. What a row does not know (times, the
 * texts of single tokens) is 0, null or, of a token, "token_id:N". */
#include "jobs/report_impl.h"

#include <inttypes.h>
#include <string.h>

struct row {
    const struct jnode *v;
    struct sbuf *out;
};

static void put_string(struct row *r, const char *key, const char *otherwise) {
    const struct jnode *v = json_get(r->v, key);
    size_t n = 0;
    if (v != NULL && json_kind_of(v) == JSON_STR) {
        const char *s = json_str(v, &n);
        sbuf_json_string(r->out, s, n);
    } else {
        sbuf_puts(r->out, otherwise);
    }
}

static int64_t count(const struct row *r, const char *key) {
    const struct jnode *v = json_get(r->v, key);
    return v != NULL && json_kind_of(v) == JSON_INT ? json_int(v) : 0;
}

// "PREFIXsource#offset": the same in every run.
static void put_name(struct row *r, const char *prefix) {
    struct sbuf name;
    const struct jnode *source = json_get(r->v, "source");
    sbuf_init(&name);
    sbuf_puts(&name, prefix);
    if (source != NULL && json_kind_of(source) == JSON_STR)
        sbuf_puts(&name, json_str(source, NULL));
    sbuf_printf(&name, "#%" PRId64, count(r, "offset"));
    sbuf_json_string(r->out, sbuf_str(&name), name.n);
    if (name.failed) r->out->failed = true;
    sbuf_fini(&name);
}

static const struct jnode *list(const struct row *r, const char *key) {
    const struct jnode *v = json_get(r->v, key);
    return v != NULL && json_kind_of(v) == JSON_ARR ? v : NULL;
}

static void put_number(struct row *r, const struct jnode *v) {
    const bool number = v != NULL && (json_kind_of(v) == JSON_INT || json_kind_of(v) == JSON_NUM);
    if (number) {
        sbuf_json_double(r->out, json_num(v));
    } else {
        sbuf_puts(r->out, "null");
    }
}

static void put_token(struct row *r, const struct jnode *id, const struct jnode *logp) {
    const bool known = id != NULL && json_kind_of(id) == JSON_INT;
    sbuf_printf(r->out,
                "{\"token\":\"token_id:%" PRId64 "\",\"logprob\":", known ? json_int(id) : -1);
    put_number(r, logp);
    sbuf_puts(r->out, ",\"bytes\":null");
}

static void put_tops(struct row *r, const struct jnode *tops) {
    sbuf_puts(r->out, ",\"top_logprobs\":[");
    for (size_t k = 0; tops != NULL && k < json_len(tops); k++) {
        const struct jnode *pair = json_at(tops, k);
        if (k > 0) sbuf_putc(r->out, ',');
        put_token(r, json_at(pair, 0), json_at(pair, 1));
        sbuf_putc(r->out, '}');
    }
    sbuf_putc(r->out, ']');
}

// Needs ids: "token_ids" in the job.
static void put_logprobs(struct row *r, bool chat) {
    const struct jnode *ids = list(r, "token_ids"), *logp = list(r, "logprobs");
    const struct jnode *tops = list(r, "top_logprobs");
    if (ids == NULL || logp == NULL) {
        sbuf_puts(r->out, "null");
        return;
    }
    sbuf_puts(r->out, chat ? "{\"content\":[" : "{\"tokens\":[");
    for (size_t i = 0; i < json_len(ids); i++) {
        if (i > 0) sbuf_putc(r->out, ',');
        if (chat) {
            put_token(r, json_at(ids, i), json_at(logp, i));
            put_tops(r, tops != NULL ? json_at(tops, i) : NULL);
            sbuf_putc(r->out, '}');
        } else {
            sbuf_printf(r->out, "\"token_id:%" PRId64 "\"", json_int(json_at(ids, i)));
        }
    }
    if (!chat) {
        sbuf_puts(r->out, "],\"token_logprobs\":[");
        for (size_t i = 0; i < json_len(logp); i++) {
            if (i > 0) sbuf_putc(r->out, ',');
            put_number(r, json_at(logp, i));
        }
    }
    sbuf_puts(r->out, "]}");
}

static void put_response(struct row *r, const char *model) {
    const struct jnode *t = json_get(r->v, "template");
    const bool chat = t != NULL && json_kind_of(t) == JSON_STR;
    const int64_t prompt = count(r, "prompt_tokens"), answer = count(r, "completion_tokens");
    sbuf_puts(r->out, "{\"status_code\":200,\"request_id\":");
    put_name(r, "");
    sbuf_puts(r->out, ",\"body\":{\"id\":");
    put_name(r, chat ? "chatcmpl-" : "cmpl-");
    sbuf_printf(r->out, ",\"object\":\"%s\",\"created\":0,\"model\":",
                chat ? "chat.completion" : "text_completion");
    sbuf_json_string(r->out, model, strlen(model));
    sbuf_puts(r->out, ",\"choices\":[{\"index\":0,");
    sbuf_puts(r->out, chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    put_string(r, "text", "null");
    sbuf_puts(r->out, chat ? "},\"logprobs\":" : ",\"logprobs\":");
    put_logprobs(r, chat);
    sbuf_puts(r->out, ",\"finish_reason\":");
    put_string(r, "finish_reason", "null");
    sbuf_printf(r->out,
                "}],\"usage\":{\"prompt_tokens\":%" PRId64 ",\"completion_tokens\":%" PRId64
                ",\"total_tokens\":%" PRId64 "}}}",
                prompt, answer, prompt + answer);
}

enum status report_put_openai(const char *line, size_t n, bool failed, const char *model,
                              struct sbuf *out, struct err *e) {
    enum status st = OK;
    struct json *doc = NULL;
    TRY(json_open_text(&doc, "row", line, n, e));
    struct row r = {json_root(doc), out};
    if (json_kind_of(r.v) != JSON_OBJ) FAIL(e, E_FORMAT, "a row that is not an object");
    sbuf_puts(out, "{\"id\":");
    put_name(&r, "batch_req_");
    sbuf_puts(out, ",\"custom_id\":");
    put_string(&r, "id", "null");
    sbuf_puts(out, ",\"response\":");
    if (failed) {
        sbuf_puts(out, "null,\"error\":{\"code\":");
        put_string(&r, "code", "null");
        sbuf_puts(out, ",\"message\":");
        put_string(&r, "message", "null");
        sbuf_puts(out, "}}\n");
    } else {
        put_response(&r, model);
        sbuf_puts(out, ",\"error\":null}\n");
    }
    TRY(sbuf_status(out, e));
done:
    json_close(doc);
    return st;
}
