#include "core/tok.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "core/tok_impl.h"

#include <string.h>

static const char GPT2_PATTERN[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* ---- pieces: what each id stands for ---- */

enum { IS_SPECIAL = 1, IS_MADE = 2 }; // in struct tok's `special`; IS_MADE: BPE can produce it

// The bytes of byte-level characters into out; SIZE_MAX when some character stands for no byte.
static size_t unmap(struct tokjson_str text, char *out, const int16_t *byte_of) {
    size_t n = 0;
    for (size_t i = 0, len; i < text.n; i += len) {
        uint32_t cp;
        len = utf8_decode(text.s + i, text.n - i, &cp);
        if (len == 0 || cp >= 0x200 || byte_of[cp] < 0) return SIZE_MAX;
        out[n++] = (char)byte_of[cp];
    }
    return n;
}

static void put_piece(struct tok *t, size_t *end, int32_t id, struct tokjson_str text,
                      const int16_t *byte_of) {
    char *out = t->arena + *end;
    size_t n = byte_of != NULL ? unmap(text, out, byte_of) : SIZE_MAX;
    if (n == SIZE_MAX) {
        memcpy(out, text.s, text.n);
        n = text.n;
    }
    t->pieces[id] = (struct tok_piece){(uint32_t)*end, (uint32_t)n};
    *end += n;
}

static enum status init_pieces(struct tok *t, struct err *e) {
    enum status st = OK;
    const struct tokjson *j = t->json;
    size_t bytes = 0, end = 0;
    int16_t byte_of[0x200];
    for (uint32_t c = 0; c < COUNTOF(byte_of); c++) byte_of[c] = (int16_t)tok_char_byte(c);
    for (size_t i = 0; i < j->n_tokens; i++) {
        if (j->tokens[i].id >= t->n_vocab) t->n_vocab = j->tokens[i].id + 1;
        bytes += j->tokens[i].text.n;
    }
    for (size_t i = 0; i < j->n_added; i++) {
        if (j->added[i].id >= t->n_vocab) t->n_vocab = j->added[i].id + 1;
        bytes += j->added[i].text.n;
    }
    const size_t n = (size_t)t->n_vocab;
    TRY(mem_zalloc(&t->arena, bytes, 1, e));
    TRY(mem_zalloc(&t->special, n, 1, e));
    TRY(mem_zalloc(&t->pieces, n, sizeof *t->pieces, e));
    for (size_t i = 0; i < n; i++) t->pieces[i].n = UINT32_MAX;
    for (size_t i = 0; i < j->n_merges; i++) t->special[j->merges[i].made] |= IS_MADE;
    for (size_t i = 0; i < j->n_tokens; i++) {
        put_piece(t, &end, j->tokens[i].id, j->tokens[i].text, byte_of);
        if (t->pieces[j->tokens[i].id].n == 1) t->special[j->tokens[i].id] |= IS_MADE;
    }
    // An added token stands for its content, unless BPE makes it too: then for its bytes.
    for (size_t i = 0; i < j->n_added; i++) {
        const struct tokjson_added *a = &j->added[i];
        if (!(t->special[a->id] & IS_MADE)) put_piece(t, &end, a->id, a->text, NULL);
        if (a->special) t->special[a->id] |= IS_SPECIAL;
    }
done:
    return st;
}

/* ---- added tokens ---- */

static enum status put_added(struct tok *t, const struct tokjson_added *a, struct tok_text *form,
                             struct err *e) {
    enum status st = OK;
    if (!a->normalized) {
        TRY(tok_added_put(&t->raw_added, a, a->text.s, a->text.n, e));
        goto done;
    }
    form->head = form->tail;
    tok_text_clear(form);
    TRY(tok_normalize(t, a->text.s, a->text.n, form, e));
    if (tok_text_n(form) == 0) {
        FAIL(e, E_UNSUPPORTED, "added token \"%.60s\" is empty once normalized", a->text.s);
    }
    TRY(tok_added_put(&t->norm_added, a, tok_text_at(form), tok_text_n(form), e));
done:
    return st;
}

// Special ones first: of equal forms the library takes the first, and that is its order.
static enum status init_added(struct tok *t, struct err *e) {
    enum status st = OK;
    const struct tokjson *j = t->json;
    struct tok_text form = {0};
    TRY(tok_added_init(&t->raw_added, j->n_added, e));
    TRY(tok_added_init(&t->norm_added, j->n_added, e));
    for (int special = 1; special >= 0; special--) {
        for (size_t i = 0; i < j->n_added; i++) {
            if (j->added[i].special == special) TRY(put_added(t, &j->added[i], &form, e));
        }
    }
    t->never_safe = t->raw_added.any_single_word || t->norm_added.any_single_word;
done:
    tok_text_fini(&form);
    return st;
}

/* ---- normalizers and splits ---- */

static enum status init_norms(struct tok *t, struct err *e) {
    enum status st = OK;
    const struct tokjson *j = t->json;
    TRY(mem_zalloc(&t->forms, j->n_norms, sizeof *t->forms, e));
    TRY(mem_zalloc(&t->prefixes, j->n_norms, sizeof *t->prefixes, e));
    for (size_t i = 0; i < j->n_norms; i++) {
        const struct tokjson_norm *m = &j->norms[i];
        if (m->kind <= TOKJSON_NFKD) {
            TRY(tok_form_init(&t->forms[i], m->kind, e));
        } else if (m->kind == TOKJSON_PREPEND) {
            t->prefixes[i] = (struct tok_prefix){m->content.s, m->content.n, false};
            t->no_restart = true;
        }
    }
done:
    return st;
}

static enum status add_split(struct tok *t, const struct tokjson_pre *p, bool bytes,
                             struct err *e) {
    enum status st = OK;
    struct tok_split *s = &t->splits[t->n_splits++];
    s->behavior = p->behavior;
    s->invert = p->invert;
    s->bytes = bytes;
    switch (p->kind) {
    case TOKJSON_BYTE_LEVEL:
        s->behavior = TOKJSON_ISOLATED;
        TRY(tok_regex_init(&s->re, GPT2_PATTERN, sizeof GPT2_PATTERN - 1, false, false, e));
        break;
    case TOKJSON_SPLIT:
        TRY(tok_regex_init(&s->re, p->pattern.s, p->pattern.n, !p->is_regex, bytes, e));
        t->no_restart |= s->re.look_behind > 0;
        break;
    case TOKJSON_DIGITS:
        s->cls = TOK_CLASS_DIGIT;
        s->behavior = p->individual_digits ? TOKJSON_ISOLATED : TOKJSON_CONTIGUOUS;
        break;
    case TOKJSON_PUNCTUATION: s->cls = TOK_CLASS_PUNCTUATION; break;
    case TOKJSON_WHITESPACE: s->cls = TOK_CLASS_WORD; break;
    case TOKJSON_WHITESPACE_SPLIT:
        s->cls = TOK_CLASS_SPACE;
        s->behavior = TOKJSON_REMOVED;
        break;
    }
    if (s->re.code == NULL) tok_class_init(s);
done:
    if (st != OK) err_prefix(e, "%s: ", p->place);
    return st;
}

static enum status init_splits(struct tok *t, struct err *e) {
    enum status st = OK;
    const struct tokjson *j = t->json;
    bool bytes = false;
    TRY(mem_zalloc(&t->splits, j->n_pres, sizeof *t->splits, e));
    for (size_t i = 0; i < j->n_pres; i++) {
        const struct tokjson_pre *p = &j->pres[i];
        if (p->kind != TOKJSON_BYTE_LEVEL) {
            TRY(add_split(t, p, bytes, e));
            continue;
        }
        if (bytes) FAIL(e, E_UNSUPPORTED, "%s: a second ByteLevel", p->place);
        t->prefix_space = p->add_prefix_space;
        t->prefix_before = t->n_splits;
        t->no_restart |= p->add_prefix_space;
        if (p->use_regex) TRY(add_split(t, p, false, e));
        bytes = true; // what follows sees the characters that stand for bytes
    }
    if (!bytes) {
        FAIL(e, E_UNSUPPORTED,
             "$.pre_tokenizer: no ByteLevel; only byte-level tokenizers are supported");
    }
    if (t->n_splits > 0) t->splits[t->n_splits - 1].last = true;
done:
    return st;
}

/* ---- opening ---- */

enum status tok_open(struct tok **out, const char *model_dir, struct err *e) {
    enum status st = OK;
    struct tok *t = NULL;
    *out = NULL;
    TRY(mem_zalloc(&t, 1, sizeof *t, e));
    TRY(tokjson_open(&t->json, model_dir, e));
    st = init_pieces(t, e);
    if (st == OK) st = tok_bpe_init(t, e);
    if (st == OK) st = init_norms(t, e);
    if (st == OK) st = init_added(t, e);
    if (st == OK) st = init_splits(t, e);
    if (st != OK) {
        err_prefix(e, "%s/tokenizer.json: ", model_dir);
        goto done;
    }
    *out = t;
    t = NULL;
done:
    tok_close(t);
    return st;
}

void tok_close(struct tok *t) {
    if (t == NULL) return;
    for (size_t i = 0; t->forms != NULL && i < t->json->n_norms; i++) tok_form_fini(&t->forms[i]);
    for (size_t i = 0; i < t->n_splits; i++) tok_regex_fini(&t->splits[i].re);
    tok_added_fini(&t->raw_added);
    tok_added_fini(&t->norm_added);
    mem_free(t->forms);
    mem_free(t->prefixes);
    mem_free(t->splits);
    mem_free(t->pieces);
    mem_free(t->arena);
    mem_free(t->special);
    mem_free(t->pairs);
    mem_free(t->made);
    mem_free(t->words);
    tokjson_close(t->json);
    mem_free(t);
}

/* ---- questions ---- */

int32_t tok_n_vocab(const struct tok *t) {
    return t->n_vocab;
}

int32_t tok_bos(const struct tok *t) {
    return t->json->bos;
}

int32_t tok_eos(const struct tok *t) {
    return t->json->eos;
}

bool tok_adds_bos(const struct tok *t) {
    return t->json->adds_bos;
}

const char *tok_identity(const struct tok *t) {
    return t->json->identity;
}

const char *tok_borrow_piece(const struct tok *t, int32_t id, size_t *n) {
    *n = 0;
    if (id < 0 || id >= t->n_vocab || t->pieces[id].n == UINT32_MAX) return NULL;
    *n = t->pieces[id].n;
    return t->arena + t->pieces[id].at;
}

bool tok_is_special(const struct tok *t, int32_t id) {
    return id >= 0 && id < t->n_vocab && (t->special[id] & IS_SPECIAL) != 0;
}

const char *tok_kind(const struct tok *t) {
    (void)t; // the only kind so far
    return "byte-level BPE";
}
