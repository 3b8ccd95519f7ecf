/* Tokenizers from SentencePiece's tokenizer.model. */
#include "base/mem.h"
#include "base/sbuf.h"
#include "core/tok_impl.h"
#include "io/json.h"
#include "io/spmodel.h"

#include <string.h>
#include <unistd.h>

enum { CONFIG_MAX_BYTES = 64 << 20 };

static enum tokjson_kind kind_of(enum spmodel_piece_type type) {
    switch (type) {
    case SPMODEL_NORMAL: return TOKJSON_NORMAL;
    case SPMODEL_USER: return TOKJSON_USER;
    case SPMODEL_UNUSED: return TOKJSON_UNUSED;
    case SPMODEL_BYTE: return TOKJSON_BYTE;
    case SPMODEL_UNKNOWN:
    case SPMODEL_CONTROL: break;
    }
    return TOKJSON_RESERVED;
}

// Tokens and the table of replacements: the model's file is closed when they are used.
static enum status copy_texts(struct tokjson *t, const struct spmodel *m, const char *path,
                              struct err *e) {
    enum status st = OK;
    size_t bytes = m->n_charsmap, at = m->n_charsmap;
    for (size_t i = 0; i < m->n_pieces; i++) bytes += m->pieces[i].n + 1;
    TRY(mem_zalloc(&t->texts, bytes + 1, 1, e));
    TRY(mem_zalloc(&t->tokens, m->n_pieces, sizeof *t->tokens, e));
    if (m->n_charsmap > 0) memcpy(t->texts, m->charsmap, m->n_charsmap);
    for (size_t i = 0; i < m->n_pieces; i++) {
        const struct spmodel_piece *p = &m->pieces[i];
        memcpy(t->texts + at, p->s, p->n);
        t->tokens[t->n_tokens++] =
            (struct tokjson_token){{t->texts + at, p->n}, (int32_t)i, kind_of(p->type), p->score};
        at += p->n + 1;
        if (p->type == SPMODEL_BYTE && tokjson_byte_of(t->tokens[i].text) < 0) {
            FAIL(e, E_FORMAT, "%s: piece %zu is to be a byte, but is \"%.60s\"", path, i,
                 t->tokens[i].text.s);
        }
        if (p->type == SPMODEL_UNUSED && m->type == SPMODEL_BPE) {
            FAIL(e, E_UNSUPPORTED, "%s: piece %zu of a BPE model is marked unused", path, i);
        }
    }
done:
    return st;
}

static enum status set_norms(struct tokjson *t, const struct spmodel *m, struct err *e) {
    enum status st = OK;
    TRY(mem_zalloc(&t->norms, 2, sizeof *t->norms, e));
    if (m->n_charsmap > 0) {
        t->norms[t->n_norms++] =
            (struct tokjson_norm){.kind = TOKJSON_CHARSMAP, .content = {t->texts, m->n_charsmap}};
    }
    if (m->squeeze_spaces) t->norms[t->n_norms++].kind = TOKJSON_SQUEEZE;
    t->prefix = m->dummy_prefix ? TOKJSON_PREFIX_ALWAYS : TOKJSON_PREFIX_NONE;
    t->strip_space = m->dummy_prefix;
    t->spaced = m->escape_spaces;
done:
    return st;
}

static int32_t control(const struct spmodel *m, int32_t id) {
    return id >= 0 && m->pieces[id].type == SPMODEL_CONTROL ? id : -1;
}

static enum status take_model(struct tokjson *t, const struct spmodel *m, const char *path,
                              struct err *e) {
    enum status st = OK;
    if (m->type != SPMODEL_UNIGRAM && m->type != SPMODEL_BPE) {
        FAIL(e, E_UNSUPPORTED, "%s: models of %s are not supported, only unigram and BPE", path,
             m->type == SPMODEL_WORD ? "words" : "single characters");
    }
    if (m->suffix_spaces) {
        FAIL(e, E_UNSUPPORTED, "%s: spaces behind words (treat_whitespace_as_suffix)", path);
    }
    t->model = m->type == SPMODEL_BPE ? TOKJSON_SCORES : TOKJSON_UNIGRAM;
    t->unk = m->unk;
    t->bos = control(m, m->bos);
    t->eos = control(m, m->eos);
    t->byte_fallback = m->byte_fallback;
    t->fuse_unk = true;
    TRY(copy_texts(t, m, path, e));
    TRY(set_norms(t, m, e));
done:
    return st;
}

/* ---- tokenizer_config.json: only whether BOS is put in front ---- */

// The classes of the `transformers` library that add it unless told otherwise.
static bool class_adds_bos(const struct jnode *root) {
    static const char *const names[] = {"LlamaTokenizer", "LLaMATokenizer", "CodeLlamaTokenizer",
                                        "GemmaTokenizer"};
    const struct jnode *v = json_get(root, "tokenizer_class");
    if (v == NULL || json_kind_of(v) != JSON_STR) return false;
    for (size_t i = 0; i < COUNTOF(names); i++) {
        if (strcmp(json_str(v, NULL), names[i]) == 0) return true;
    }
    return false;
}

static enum status read_config(struct tokjson *t, const char *path, struct err *e) {
    enum status st = OK;
    struct json *j = NULL;
    if (access(path, F_OK) != 0) goto done;
    TRY(json_open(&j, path, CONFIG_MAX_BYTES, e));
    const struct jnode *root = json_root(j);
    if (json_kind_of(root) != JSON_OBJ) FAIL(e, E_FORMAT, "%s: must be an object", path);
    t->adds_bos = class_adds_bos(root) && t->bos >= 0;
    const struct jnode *v = json_get(root, "add_bos_token");
    if (v == NULL || json_kind_of(v) == JSON_NIL) goto done;
    if (json_kind_of(v) != JSON_BOOL) {
        FAIL(e, E_FORMAT, "%s: $.add_bos_token: must be true or false", path);
    }
    t->adds_bos = json_bool(v);
    if (t->adds_bos && t->bos < 0) {
        FAIL(e, E_FORMAT, "%s: $.add_bos_token: is true, but the model has no BOS", path);
    }
done:
    json_close(j);
    return st;
}

enum status tok_read_spmodel(struct tokjson **out, const char *dir, struct err *e) {
    enum status st = OK;
    struct spmodel *m = NULL;
    struct tokjson *t = NULL;
    struct hash *h = NULL;
    struct sbuf path;
    *out = NULL;
    sbuf_init(&path);
    TRY(hash_open(&h, e));
    TRY(mem_zalloc(&t, 1, sizeof *t, e));
    sbuf_printf(&path, "%s/tokenizer.model", dir);
    TRY(sbuf_status(&path, e));
    TRY(spmodel_open(&m, sbuf_str(&path), h, e));
    TRY(take_model(t, m, sbuf_str(&path), e));
    sbuf_clear(&path);
    sbuf_printf(&path, "%s/tokenizer_config.json", dir);
    TRY(sbuf_status(&path, e));
    TRY(read_config(t, sbuf_str(&path), e));
    hash_add(h, t->adds_bos ? "+" : "-", 1);
    hash_text(h, t->identity);
    *out = t;
    t = NULL;
done:
    sbuf_fini(&path);
    hash_close(h);
    tokjson_close(t);
    spmodel_close(m);
    return st;
}
