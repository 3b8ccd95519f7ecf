#include "core/tok.h"

#include "base/mem.h"
#include "base/sbuf.h"
#include "base/utf8.h"
#include "core/tok_impl.h"
#include "io/gguf.h"

#include <string.h>
#include <unistd.h>

static const char GPT2_PATTERN[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* ---- pieces: what each id stands for ---- */

enum { IS_SPECIAL = 1, IS_MADE = 2 }; // in struct tok's `special`; IS_MADE: BPE can produce it

struct naming {             // how names of tokens become the bytes they stand for
    const int16_t *byte_of; // byte-level; else NULL
    bool chars, spaced;
};

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
                      const struct naming *how) {
    char *out = t->arena + *end;
    size_t n = SIZE_MAX;
    if (how != NULL && how->chars) n = tok_chars_piece(text.s, text.n, how->spaced, out);
    if (how != NULL && how->byte_of != NULL) n = unmap(text, out, how->byte_of);
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
    t->n_symbols = t->n_vocab;
    TRY(mem_zalloc(&t->arena, bytes, 1, e));
    TRY(mem_zalloc(&t->special, n, 1, e));
    TRY(mem_zalloc(&t->pieces, n + 1, sizeof *t->pieces, e));
    for (size_t i = 0; i < n; i++) t->pieces[i].n = UINT32_MAX;
    t->pieces[n].n = 1; // a byte without a token
    const bool chars = j->model != TOKJSON_BYTES;
    const struct naming how = {chars ? NULL : byte_of, chars, j->spaced};
    for (size_t i = 0; i < j->n_merges; i++) t->special[j->merges[i].made] |= IS_MADE;
    for (size_t i = 0; i < j->n_tokens; i++) {
        const struct tokjson_token *k = &j->tokens[i];
        const int byte = k->kind == TOKJSON_BYTE ? tokjson_byte_of(k->text) : -1;
        const char one = (char)byte;
        put_piece(t, &end, k->id, byte >= 0 ? (struct tokjson_str){&one, 1} : k->text,
                  byte >= 0 ? NULL : &how);
        if (chars && k->kind <= TOKJSON_USER) t->special[k->id] |= IS_MADE;
        if (k->kind == TOKJSON_RESERVED) t->special[k->id] |= IS_SPECIAL;
        if (t->pieces[k->id].n == 1) t->special[k->id] |= IS_MADE;
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
            t->prefixes[i] = (struct tok_prefix){m->content.s, m->content.n, false, false};
        } else if (m->kind == TOKJSON_CHARSMAP) {
            TRY(tok_charsmap_init(&t->charsmap, m->content, &t->chars.user, e));
        }
    }
    if (j->prefix != TOKJSON_PREFIX_NONE) {
        t->space = (struct tok_prefix){" ", 1, j->prefix != TOKJSON_PREFIX_ALWAYS,
                                       j->prefix == TOKJSON_PREFIX_FIRST};
    }
    t->drops |= j->model == TOKJSON_CHARS && j->unk < 0;
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
    // Those behind the first one get words, of which few hold a match.
    if (s->re.code != NULL && t->n_splits > 1) TRY(tok_regex_find_begins(&s->re, e));
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
        if (p->use_regex) TRY(add_split(t, p, false, e));
        bytes = true; // what follows sees the characters that stand for bytes
    }
done:
    return st;
}

/* ---- opening ---- */

static bool ends_with(const char *s, const char *tail) {
    const size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcmp(s + n - k, tail) == 0;
}

// DIR/NAME in *path; whether it is there.
static enum status find_file(struct sbuf *path, const char *dir, const char *name, bool *there,
                             struct err *e) {
    sbuf_clear(path);
    sbuf_printf(path, "%s/%s", dir, name);
    const enum status st = sbuf_status(path, e);
    *there = st == OK && access(sbuf_str(path), F_OK) == 0;
    return st;
}

// Reads what describes the tokenizer; *source becomes the file it was read from.
static enum status read_source(struct tok *t, const char *path, struct sbuf *source,
                               struct err *e) {
    enum status st = OK;
    bool there = false;
    if (ends_with(path, ".gguf")) {
        sbuf_puts(source, path);
        TRY(sbuf_status(source, e));
        TRY(tok_read_gguf(&t->json, path, e));
        goto done;
    }
    TRY(find_file(source, path, "tokenizer.json", &there, e));
    if (there) {
        TRY(tokjson_open(&t->json, path, e));
        goto done;
    }
    TRY(find_file(source, path, "tokenizer.model", &there, e));
    if (there) {
        TRY(tok_read_spmodel(&t->json, path, e));
        goto done;
    }
    TRY(find_file(source, path, "qwen.tiktoken", &there, e));
    if (there) {
        TRY(tok_read_tiktoken(&t->json, sbuf_str(source), e));
        goto done;
    }
    TRY(find_file(source, path, "vocab.json", &there, e));
    if (there) TRY(find_file(source, path, "merges.txt", &there, e));
    if (there) {
        TRY(tokjson_open(&t->json, path, e));
        goto done;
    }
    if (access(path, F_OK) != 0) FAIL(e, E_NOINPUT, "%s: not there", path);
    sbuf_clear(source);
    TRY(gguf_find(source, path, e));
    if (source->n == 0) {
        FAIL(e, E_NOINPUT,
             "%s: no tokenizer.json, tokenizer.model, qwen.tiktoken, vocab.json with merges.txt or "
             ".gguf in it",
             path);
    }
    TRY(tok_read_gguf(&t->json, sbuf_str(source), e));
done:
    return st;
}

enum status tok_open(struct tok **out, const char *path, struct err *e) {
    enum status st = OK;
    struct tok *t = NULL;
    struct sbuf source;
    *out = NULL;
    sbuf_init(&source);
    TRY(mem_zalloc(&t, 1, sizeof *t, e));
    TRY(read_source(t, path, &source, e));
    st = init_pieces(t, e);
    if (st == OK && t->json->model == TOKJSON_BYTES) st = tok_bpe_init(t, e);
    if (st == OK && t->json->model != TOKJSON_BYTES) st = tok_chars_init(t, e);
    if (st == OK) st = init_norms(t, e);
    if (st == OK) st = init_added(t, e);
    if (st == OK) st = init_splits(t, e);
    if (st != OK) {
        err_prefix(e, "%s: ", sbuf_str(&source));
        goto done;
    }
    *out = t;
    t = NULL;
done:
    sbuf_fini(&source);
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
    mem_free(t->words);
    tok_chars_fini(&t->chars);
    tok_unigram_fini(&t->unigram);
    tok_charsmap_fini(&t->charsmap);
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

size_t tok_decode_skip(const struct tok *t) {
    return t->json->strip_space ? 1 : 0;
}

bool tok_is_special(const struct tok *t, int32_t id) {
    return id >= 0 && id < t->n_vocab && (t->special[id] & IS_SPECIAL) != 0;
}

const char *tok_kind(const struct tok *t) {
    static const char *const names[] = {"byte-level BPE", "BPE of characters", "SentencePiece BPE",
                                        "unigram"}; // in the order of enum tokjson_model
    return names[t->json->model];
}
