/* Tokenizers from a GGUF's metadata (tokenizer.ggml.*). */
#include "base/mem.h"
#include "base/utf8.h"
#include "core/tok_impl.h"
#include "io/gguf.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define KEY(name) "tokenizer.ggml." name

enum { // tokenizer.ggml.token_type
    TYPE_NORMAL = 1,
    TYPE_UNKNOWN,
    TYPE_CONTROL,
    TYPE_USER,
    TYPE_UNUSED,
    TYPE_BYTE
};

struct reading {
    const struct gguf_files *file; // borrowed
    const char *path;
    struct tokjson *t; // borrowed
    const struct gguf_value *tokens, *types, *scores;
    const struct tok_pre *pre; // gpt2 only
    uint8_t *type;             // owned [n_tokens]
    struct hash *h;            // borrowed
};

/* ---- entries ---- */

static const struct gguf_value *get(const struct reading *r, const char *key) {
    const struct gguf_value *v = gguf_meta_get(r->file, key);
    if (v != NULL) { // what is used is what the identity covers
        hash_add(r->h, key, strlen(key) + 1);
        hash_add(r->h, v->data, v->bytes);
    }
    return v;
}

static enum status bad_type(const struct reading *r, const struct gguf_value *v, const char *what,
                            struct err *e) {
    return err_fail(e, E_FORMAT, "%s: %s: must be %s, not %s%s", r->path, v->key, what,
                    v->array ? "an array of " : "", gguf_type_name(v->type));
}

static bool is_int(enum gguf_type t) {
    return t <= GGUF_I32 || t == GGUF_U64 || t == GGUF_I64;
}

static enum status read_bool(struct reading *r, const char *key, bool *out, struct err *e) {
    const struct gguf_value *v = get(r, key);
    if (v == NULL) return OK;
    if (v->array || !gguf_get_bool(v, 0, out)) return bad_type(r, v, "a bool", e);
    return OK;
}

static enum status read_text(struct reading *r, const char *key, struct tokjson_str *out,
                             struct err *e) {
    const struct gguf_value *v = get(r, key);
    *out = (struct tokjson_str){"", 0};
    if (v == NULL) return OK;
    if (v->array || !gguf_get_str(v, 0, &out->s, &out->n)) return bad_type(r, v, "a string", e);
    return OK;
}

// An id of the vocabulary; *out stays as it is without the entry.
static enum status read_id(struct reading *r, const char *key, int32_t *out, struct err *e) {
    const struct gguf_value *v = get(r, key);
    int64_t id;
    if (v == NULL) return OK;
    if (v->array || !gguf_get_int(v, 0, &id)) return bad_type(r, v, "an integer", e);
    if (id < 0 || (uint64_t)id >= r->tokens->n) {
        return err_fail(e, E_FORMAT, "%s: %s: id %lld is not one of %zu tokens", r->path, key,
                        (long long)id, r->tokens->n);
    }
    *out = (int32_t)id;
    return OK;
}

// An array as long as the vocabulary, or NULL without the entry.
static enum status read_list(struct reading *r, const char *key, bool numbers,
                             const struct gguf_value **out, struct err *e) {
    enum status st = OK;
    const struct gguf_value *v = *out = get(r, key);
    if (v == NULL) goto done;
    const bool fits = numbers ? v->type == GGUF_F32 : is_int(v->type);
    if (!v->array || !fits) {
        st = bad_type(r, v, numbers ? "an array of f32" : "an array of integers", e);
    } else if (v->n != r->tokens->n) {
        FAIL(e, E_FORMAT, "%s: %s: %zu entries for %zu tokens", r->path, key, v->n, r->tokens->n);
    }
done:
    return st;
}

/* ---- tokens ---- */

static enum status find_lists(struct reading *r, bool scores, struct err *e) {
    enum status st = OK;
    r->tokens = get(r, KEY("tokens"));
    if (r->tokens == NULL) FAIL(e, E_FORMAT, "%s: no %s", r->path, KEY("tokens"));
    if (!r->tokens->array || r->tokens->type != GGUF_STR) {
        st = bad_type(r, r->tokens, "an array of strings", e);
        goto done;
    }
    if (r->tokens->n == 0 || r->tokens->n > TOKJSON_MAX_ID) {
        FAIL(e, E_FORMAT, "%s: %s: %zu tokens", r->path, KEY("tokens"), r->tokens->n);
    }
    TRY(read_list(r, KEY("token_type"), false, &r->types, e));
    if (!scores) goto done;
    TRY(read_list(r, KEY("scores"), true, &r->scores, e));
    if (r->scores == NULL) FAIL(e, E_FORMAT, "%s: no %s", r->path, KEY("scores"));
done:
    return st;
}

// The texts with a NUL behind each: the file is closed when the tokenizer is used.
static enum status copy_tokens(struct reading *r, struct err *e) {
    enum status st = OK;
    struct tokjson *t = r->t;
    const size_t n = r->tokens->n;
    size_t at = 0;
    TRY(mem_zalloc(&t->texts, r->tokens->bytes + n, 1, e)); // lengths leave room for the NULs
    TRY(mem_zalloc(&t->tokens, n, sizeof *t->tokens, e));
    TRY(mem_zalloc(&r->type, n, 1, e));
    for (size_t i = 0; i < n; i++) {
        struct tokjson_token *k = &t->tokens[t->n_tokens++];
        const char *s;
        int64_t type = TYPE_NORMAL;
        double score = 0.0;
        bool cut;
        k->id = (int32_t)i;
        (void)gguf_get_str(r->tokens, i, &s, &k->text.n);
        memcpy(t->texts + at, s, k->text.n);
        k->text.s = t->texts + at;
        at += k->text.n + 1;
        if (utf8_valid_prefix(s, k->text.n, &cut) < k->text.n) {
            FAIL(e, E_FORMAT, "%s: %s: token %zu is not UTF-8", r->path, KEY("tokens"), i);
        }
        if (r->types != NULL) (void)gguf_get_int(r->types, i, &type);
        r->type[i] = (uint8_t)(type >= 0 && type <= TYPE_BYTE ? type : 0);
        if (r->scores != NULL) (void)gguf_get_num(r->scores, i, &score);
        if (!isfinite(score)) {
            FAIL(e, E_FORMAT, "%s: %s: that of token %zu is not finite", r->path, KEY("scores"), i);
        }
        k->score = (float)score;
    }
done:
    return st;
}

static bool has_text(struct tokjson_str s, const char *text) {
    return s.n == strlen(text) && memcmp(s.s, text, s.n) == 0;
}

// Phi-3's special tokens swallow the white space behind them, which no entry says.
static bool is_phi3(struct reading *r) {
    struct tokjson_str name;
    struct err ignored = {0};
    char low[64] = "";
    if (read_text(r, "general.name", &name, &ignored) != OK) return false;
    for (size_t i = 0; i < name.n && i + 1 < sizeof low; i++) {
        low[i] = (char)tolower((unsigned char)name.s[i]);
    }
    return strstr(low, "phi-3") != NULL || strstr(low, "phi3") != NULL;
}

static enum status add_added(struct reading *r, struct err *e) {
    enum status st = OK;
    struct tokjson *t = r->t;
    const bool phi3 = is_phi3(r);
    size_t n = 0;
    for (size_t i = 0; i < t->n_tokens; i++) {
        n += r->type[i] == TYPE_USER || r->type[i] == TYPE_CONTROL || r->type[i] == TYPE_UNKNOWN;
    }
    TRY(mem_zalloc(&t->added, n, sizeof *t->added, e));
    for (size_t i = 0; i < t->n_tokens; i++) {
        const struct tokjson_token *k = &t->tokens[i];
        const bool user = r->type[i] == TYPE_USER;
        if (!user && r->type[i] != TYPE_CONTROL && r->type[i] != TYPE_UNKNOWN) continue;
        if (k->text.n == 0) continue;
        t->added[t->n_added++] = (struct tokjson_added){
            .text = k->text,
            .id = k->id,
            .special = !user,
            .rstrip = phi3 && !has_text(k->text, "<unk>") && !has_text(k->text, "<s>") &&
                      !has_text(k->text, "<|endoftext|>"),
        };
    }
done:
    return st;
}

/* ---- gpt2: byte-level BPE ---- */

static enum status read_merges(struct reading *r, const struct tokjson_map *ids, struct err *e) {
    enum status st = OK;
    struct tokjson *t = r->t;
    char *join = NULL;
    size_t cap = 0;
    const struct gguf_value *v = get(r, KEY("merges"));
    if (v == NULL) FAIL(e, E_FORMAT, "%s: no %s", r->path, KEY("merges"));
    if (!v->array || v->type != GGUF_STR) {
        st = bad_type(r, v, "an array of strings", e);
        goto done;
    }
    TRY(mem_zalloc(&t->merges, v->n, sizeof *t->merges, e));
    for (size_t i = 0; i < v->n; i++) {
        struct tokjson_merge *m = &t->merges[t->n_merges++];
        const char *s;
        size_t n;
        (void)gguf_get_str(v, i, &s, &n);
        const char *space = n > 1 ? memchr(s + 1, ' ', n - 1) : NULL;
        if (space == NULL) {
            FAIL(e, E_FORMAT, "%s: %s: entry %zu is not two tokens with a space between", r->path,
                 v->key, i);
        }
        const size_t left = (size_t)(space - s), right = n - left - 1;
        TRY(mem_grow(&join, &cap, n, 1, e));
        memcpy(join, s, left);
        memcpy(join + left, space + 1, right);
        m->left = tokjson_map_get(ids, s, left);
        m->right = tokjson_map_get(ids, space + 1, right);
        m->made = tokjson_map_get(ids, join, n - 1);
        if (m->left < 0 || m->right < 0 || m->made < 0) {
            FAIL(e, E_FORMAT, "%s: %s: entry %zu, \"%.*s\": %s is not in the vocabulary", r->path,
                 v->key, i, (int)(n < 60 ? n : 60), s,
                 m->made < 0 && m->left >= 0 && m->right >= 0 ? "its result" : "one of the two");
        }
    }
done:
    mem_free(join);
    return st;
}

static enum status map_tokens(struct reading *r, struct tokjson_map *ids, struct err *e) {
    enum status st = OK;
    const struct tokjson *t = r->t;
    TRY(tokjson_map_init(ids, t->n_tokens, e));
    for (size_t i = 0; i < t->n_tokens; i++) {
        const struct tokjson_token *k = &t->tokens[i];
        if (k->text.n == 0) continue;
        const int32_t other = tokjson_map_get(ids, k->text.s, k->text.n);
        if (other >= 0) {
            FAIL(e, E_FORMAT, "%s: %s: tokens %d and %d are both \"%.60s\"", r->path, KEY("tokens"),
                 other, k->id, k->text.s);
        }
        tokjson_map_put(ids, k->text, k->id);
    }
done:
    return st;
}

static enum status add_pres(struct reading *r, struct err *e) {
    enum status st = OK;
    struct tokjson *t = r->t;
    struct tokjson_str name;
    TRY(read_text(r, KEY("pre"), &name, e));
    if (name.n == 0) name = (struct tokjson_str){"default", 7};
    r->pre = tok_pre_get(name.s, name.n);
    if (r->pre == NULL) {
        FAIL(e, E_UNSUPPORTED, "%s: %s: pre-tokenizer \"%.*s\" is not known", r->path, KEY("pre"),
             (int)(name.n < 60 ? name.n : 60), name.s);
    }
    size_t n = 0;
    while (r->pre->patterns[n] != NULL) n++;
    TRY(mem_zalloc(&t->pres, n + 1, sizeof *t->pres, e));
    for (size_t i = 0; i <= n; i++) {
        struct tokjson_pre *p = &t->pres[t->n_pres++];
        snprintf(p->place, sizeof p->place, "%s", KEY("pre"));
        p->kind = i < n ? TOKJSON_SPLIT : TOKJSON_BYTE_LEVEL;
        p->behavior = TOKJSON_ISOLATED;
        p->is_regex = true;
        if (i < n)
            p->pattern = (struct tokjson_str){r->pre->patterns[i], strlen(r->pre->patterns[i])};
    }
    t->ignore_merges = r->pre->ignore_merges;
    t->adds_bos = r->pre->add_bos;
done:
    return st;
}

static enum status read_gpt2(struct reading *r, struct err *e) {
    enum status st = OK;
    struct tokjson_map ids = {0};
    r->t->model = TOKJSON_BYTES;
    r->t->byte_gaps = true;
    TRY(find_lists(r, false, e));
    TRY(add_pres(r, e));
    TRY(copy_tokens(r, e));
    TRY(map_tokens(r, &ids, e));
    TRY(read_merges(r, &ids, e));
done:
    tokjson_map_fini(&ids);
    return st;
}

/* ---- llama: BPE by scores over characters ---- */

static enum status set_kinds(struct reading *r, struct err *e) {
    enum status st = OK;
    struct tokjson *t = r->t;
    for (size_t i = 0; i < t->n_tokens; i++) {
        struct tokjson_token *k = &t->tokens[i];
        switch (r->type[i]) {
        case TYPE_UNKNOWN:
        case TYPE_CONTROL: k->kind = TOKJSON_RESERVED; break;
        case TYPE_USER: k->kind = TOKJSON_UNUSED; break; // found as added tokens instead
        case TYPE_BYTE: k->kind = TOKJSON_BYTE; break;
        default: k->kind = TOKJSON_NORMAL;
        }
        if (k->kind == TOKJSON_BYTE && tokjson_byte_of(k->text) < 0) {
            FAIL(e, E_FORMAT, "%s: %s: token %zu is to be a byte, but is \"%.60s\"", r->path,
                 KEY("tokens"), i, k->text.s);
        }
    }
done:
    return st;
}

static enum status read_llama(struct reading *r, struct err *e) {
    enum status st = OK;
    struct tokjson *t = r->t;
    bool prefix = true, squeeze = false;
    t->model = TOKJSON_SCORES;
    t->spaced = t->byte_fallback = t->adds_bos = true;
    TRY(find_lists(r, true, e));
    TRY(copy_tokens(r, e));
    TRY(set_kinds(r, e));
    TRY(read_bool(r, KEY("add_space_prefix"), &prefix, e));
    TRY(read_bool(r, KEY("remove_extra_whitespaces"), &squeeze, e));
    if (squeeze) {
        FAIL(e, E_UNSUPPORTED, "%s: %s: true is not supported with this model", r->path,
             KEY("remove_extra_whitespaces"));
    }
    t->prefix = prefix ? TOKJSON_PREFIX_ALWAYS : TOKJSON_PREFIX_NONE;
    t->strip_space = prefix;
    t->bos = t->n_tokens > 1 ? 1 : -1; // what llama.cpp takes without an entry
    t->eos = t->n_tokens > 2 ? 2 : -1;
    t->unk = 0;
    TRY(read_id(r, KEY("unknown_token_id"), &t->unk, e));
done:
    return st;
}

/* ---- all ---- */

static enum status read_all(struct reading *r, struct err *e) {
    enum status st = OK;
    struct tokjson *t = r->t;
    struct tokjson_str model;
    TRY(read_text(r, KEY("model"), &model, e));
    if (model.n == 0) FAIL(e, E_FORMAT, "%s: no %s: no tokenizer in it", r->path, KEY("model"));
    t->unk = t->bos = t->eos = -1;
    if (has_text(model, "gpt2")) {
        TRY(read_gpt2(r, e));
    } else if (has_text(model, "llama")) {
        TRY(read_llama(r, e));
    } else {
        FAIL(e, E_UNSUPPORTED, "%s: %s: tokenizer \"%.*s\" is not supported", r->path, KEY("model"),
             (int)(model.n < 60 ? model.n : 60), model.s);
    }
    TRY(add_added(r, e));
    TRY(read_id(r, KEY("bos_token_id"), &t->bos, e));
    TRY(read_id(r, KEY("eos_token_id"), &t->eos, e));
    TRY(read_bool(r, KEY("add_bos_token"), &t->adds_bos, e));
    if (t->adds_bos && t->bos < 0) {
        FAIL(e, E_FORMAT, "%s: a BOS token is to be added, but there is no %s", r->path,
             KEY("bos_token_id"));
    }
done:
    return st;
}

enum status tok_read_gguf(struct tokjson **out, const char *path, struct err *e) {
    enum status st = OK;
    struct gguf_files *file = NULL;
    struct tokjson *t = NULL;
    struct hash *h = NULL;
    struct reading r = {.path = path};
    *out = NULL;
    TRY(gguf_open(&file, path, e));
    TRY(hash_open(&h, e));
    TRY(mem_zalloc(&t, 1, sizeof *t, e));
    r.file = file;
    r.t = t;
    r.h = h;
    TRY(read_all(&r, e));
    if (gguf_torn(file, NULL)) FAIL(e, E_IO, "%s: cut short while it was read", path);
    hash_text(h, t->identity);
    *out = t;
    t = NULL;
done:
    mem_free(r.type);
    tokjson_close(t);
    hash_close(h);
    gguf_close(file);
    return st;
}
