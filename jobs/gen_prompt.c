#include "jobs/gen_prompt.h"

#include "base/mem.h"

#include <string.h>

enum { MAX_MESSAGES = 65536 };

void gen_prompt_fini(struct gen_prompt *p) {
    sbuf_fini(&p->text);
    mem_free(p->ids);
    json_close(p->doc);
    memset(p, 0, sizeof *p);
}

static enum status need_template(const struct gen_chat *c, struct err *e) {
    if (c->t != NULL) return OK;
    return err_fail(e, E_UNSUPPORTED, "a chat, but no template: %s", c->missing->msg);
}

// "content": a text, or parts of which each is one; joined into *own where there are several.
static enum status read_content(const struct jnode *v, size_t i, struct chat_message *m,
                                struct sbuf *own, struct err *e) {
    enum status st = OK;
    if (v != NULL && json_kind_of(v) == JSON_STR) {
        m->content = json_str(v, &m->n);
        goto done;
    }
    if (v == NULL || json_kind_of(v) != JSON_ARR) {
        FAIL(e, E_FORMAT, "message %zu: \"content\" is %s, not a text", i,
             v == NULL ? "missing" : json_kind_name(json_kind_of(v)));
    }
    const size_t begin = own->n;
    for (size_t k = 0; k < json_len(v); k++) {
        const struct jnode *part = json_at(v, k);
        const struct jnode *text = json_kind_of(part) == JSON_OBJ ? json_get(part, "text") : NULL;
        if (text == NULL || json_kind_of(text) != JSON_STR) {
            FAIL(e, E_FORMAT, "message %zu: part %zu of its content is not a text", i, k);
        }
        size_t n = 0;
        const char *s = json_str(text, &n);
        sbuf_add(own, s, n);
    }
    TRY(sbuf_status(own, e));
    m->content = NULL; // set once `own` grows no more
    m->n = own->n - begin;
done:
    return st;
}

static enum status read_message(const struct jnode *v, size_t i, struct chat_message *m,
                                struct sbuf *own, struct err *e) {
    if (json_kind_of(v) != JSON_OBJ) {
        return err_fail(e, E_FORMAT, "message %zu: is %s, not an object", i,
                        json_kind_name(json_kind_of(v)));
    }
    const struct jnode *role = json_get(v, "role"), *calls = json_get(v, "tool_calls");
    if (role == NULL || json_kind_of(role) != JSON_STR) {
        return err_fail(e, E_FORMAT, "message %zu: no \"role\"", i);
    }
    if (calls != NULL && json_kind_of(calls) != JSON_NIL) {
        return err_fail(e, E_FORMAT, "message %zu: tool calls are not understood", i);
    }
    m->role = json_str(role, NULL);
    return read_content(json_get(v, "content"), i, m, own, e);
}

static enum status read_messages(struct gen_prompt *p, const struct gen_chat *c,
                                 const struct jnode *list, struct err *e) {
    enum status st = OK;
    struct chat_message *m = NULL; /* owned */
    struct sbuf own;
    const size_t n = json_len(list);
    sbuf_init(&own);
    p->kind = GEN_CHAT;
    TRY(need_template(c, e));
    if (n > MAX_MESSAGES) FAIL(e, E_FORMAT, "%zu messages; at most %d are read", n, MAX_MESSAGES);
    TRY(mem_zalloc(&m, n, sizeof *m, e));
    for (size_t i = 0; i < n; i++) TRY(read_message(json_at(list, i), i, &m[i], &own, e));
    const char *at = sbuf_str(&own);
    for (size_t i = 0; i < n; i++) {
        if (m[i].content != NULL) continue;
        m[i].content = at;
        at += m[i].n;
    }
    TRY(chat_render(c->t, c->tok, m, n, &p->text, e));
done:
    mem_free(m);
    sbuf_fini(&own);
    return st;
}

static enum status user_turn(const struct jnode *list, size_t i, struct chat_message *m,
                             struct err *e) {
    const struct jnode *v = json_at(list, i);
    if (json_kind_of(v) != JSON_STR) {
        return err_fail(e, E_FORMAT, "turn %zu: is %s, not a text", i,
                        json_kind_name(json_kind_of(v)));
    }
    m->role = "user";
    m->content = json_str(v, &m->n);
    return OK;
}

static enum status read_turns(struct gen_prompt *p, const struct gen_chat *c,
                              const struct jnode *list, struct err *e) {
    enum status st = OK;
    struct chat_message m;
    p->kind = GEN_TURNS;
    p->turns = list;
    p->n_turn = json_len(list);
    TRY(need_template(c, e));
    for (size_t i = p->n_turn; i-- > 0;) TRY(user_turn(list, i, &m, e)); // ends with the first
    TRY(chat_render(c->t, c->tok, &m, 1, &p->text, e));
done:
    return st;
}

static enum status read_ids(struct gen_prompt *p, const struct jnode *list, struct err *e) {
    enum status st = OK;
    const size_t n = json_len(list);
    p->is_ids = true;
    TRY(mem_zalloc(&p->ids, n, sizeof *p->ids, e));
    for (size_t i = 0; i < n; i++) {
        const struct jnode *v = json_at(list, i);
        if (json_kind_of(v) != JSON_INT || json_int(v) < 0 || json_int(v) > INT32_MAX) {
            FAIL(e, E_FORMAT, "body.prompt: element %zu is not a token id", i);
        }
        p->ids[p->n_ids++] = (int32_t)json_int(v);
    }
done:
    return st;
}

static enum status read_body(struct gen_prompt *p, const struct gen_chat *c,
                             const struct jnode *body, struct err *e) {
    const struct jnode *messages = json_get(body, "messages"), *prompt = json_get(body, "prompt");
    p->body = body;
    if ((messages != NULL) == (prompt != NULL)) {
        return err_fail(e, E_FORMAT, "body: %s of \"messages\" and \"prompt\"",
                        messages != NULL ? "both" : "none");
    }
    if (messages != NULL) {
        if (json_kind_of(messages) == JSON_ARR) return read_messages(p, c, messages, e);
        return err_fail(e, E_FORMAT, "body.messages: must be a list");
    }
    if (json_kind_of(prompt) == JSON_ARR) {
        const struct jnode *one = json_at(prompt, 0);
        if (one == NULL || json_kind_of(one) != JSON_STR) return read_ids(p, prompt, e);
        if (json_len(prompt) > 1) return err_fail(e, E_FORMAT, "body.prompt: several prompts");
        prompt = one;
    }
    if (json_kind_of(prompt) != JSON_STR) {
        return err_fail(e, E_FORMAT, "body.prompt: must be a text or a list of token ids");
    }
    size_t n = 0;
    const char *s = json_str(prompt, &n);
    sbuf_add(&p->text, s, n);
    return sbuf_status(&p->text, e);
}

enum status gen_prompt_read(struct gen_prompt *p, const struct gen_chat *c, const char *json,
                            size_t n, struct err *e) {
    enum status st = OK;
    memset(p, 0, sizeof *p);
    p->n_turn = 1;
    TRY(json_open_text(&p->doc, "the line's chat", json, n, e));
    const struct jnode *root = json_root(p->doc);
    if (json_kind_of(root) == JSON_OBJ) {
        TRY(read_body(p, c, root, e));
    } else if (json_len(root) == 0) {
        FAIL(e, E_FORMAT, "a chat without messages");
    } else if (json_kind_of(json_at(root, 0)) == JSON_STR) {
        TRY(read_turns(p, c, root, e));
    } else {
        TRY(read_messages(p, c, root, e));
    }
done:
    return st;
}

enum status gen_prompt_turn(const struct gen_prompt *p, const struct gen_chat *c, size_t i,
                            struct sbuf *out, struct err *e) {
    struct chat_message m;
    const enum status st = user_turn(p->turns, i, &m, e);
    return st != OK ? st : chat_render_turn(c->t, c->tok, &m, out, e);
}
