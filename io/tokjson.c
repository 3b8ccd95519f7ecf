#include "io/tokjson.h"

#include "base/mem.h"
#include "base/sbuf.h"
#include "io/fmap.h"
#include "io/json.h"
#include "io/tokjson_impl.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct keep { // what outlives the reading: the parsed file, whose strings the structs point into
    struct json *file;
};

struct reading {
    struct tokjson *t;
    struct json *file;        /* borrowed: from t->keep */
    struct json *config;      /* owned; NULL when there is no tokenizer_config.json */
    struct tokjson_map vocab; /* owned: text -> id, the model's own tokens */
    struct tokjson_map added; /* owned: text -> id, added tokens */
    int32_t template_bos;     /* -1 when the post-processor puts nothing first */
};

/* ---- the model ---- */

static bool is_null_or_empty(const struct jnode *v) {
    if (v == NULL || json_kind_of(v) == JSON_NIL) return true;
    size_t n = 1;
    if (json_kind_of(v) == JSON_STR) json_str(v, &n);
    return n == 0;
}

static enum status read_model_flags(struct reading *r, const struct jnode *m, struct err *e) {
    enum status st = OK;
    const struct json *j = r->file;
    struct tokjson_str type = {"BPE", 3}; // old files have no type: then merges make it BPE
    if (json_get(m, "type") != NULL || json_get(m, "merges") == NULL) {
        TRY(tokjson_string(j, m, "$.model", "type", &type, e));
    }
    if (strcmp(type.s, "BPE") != 0) {
        st = tokjson_fail(j, e, E_UNSUPPORTED, "$.model.type",
                          "tokenizer model \"%.40s\" is not supported, only BPE is", type.s);
        goto done;
    }
    const struct jnode *dropout = json_get(m, "dropout");
    if (dropout != NULL && json_kind_of(dropout) != JSON_NIL && json_num(dropout) != 0.0) {
        st = tokjson_fail(j, e, E_UNSUPPORTED, "$.model.dropout",
                          "random merges are not supported; set it to null");
        goto done;
    }
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < COUNTOF(affixes); i++) {
        if (is_null_or_empty(json_get(m, affixes[i]))) continue;
        char at[64];
        snprintf(at, sizeof at, "$.model.%s", affixes[i]);
        st = tokjson_fail(j, e, E_UNSUPPORTED, at, "word affixes are not supported");
        goto done;
    }
    // The first two act only on characters outside the vocabulary: see read_chars for byte-level ones.
    TRY(tokjson_bool(j, m, "$.model", "fuse_unk", false, &r->t->fuse_unk, e));
    TRY(tokjson_bool(j, m, "$.model", "byte_fallback", false, &r->t->byte_fallback, e));
    TRY(tokjson_bool(j, m, "$.model", "ignore_merges", false, &r->t->ignore_merges, e));
done:
    return st;
}

static enum status read_vocab(struct reading *r, const struct jnode *m, struct err *e) {
    enum status st = OK;
    const struct json *j = r->file;
    struct tokjson *t = r->t;
    uint8_t *seen = NULL;
    const struct jnode *v = json_get(m, "vocab");
    TRY(tokjson_want(j, v, "$.model.vocab", JSON_OBJ, e));
    const size_t n = json_len(v);
    TRY(mem_zalloc(&t->tokens, n, sizeof *t->tokens, e));
    TRY(tokjson_map_init(&r->vocab, n, e));
    TRY(mem_zalloc(&seen, TOKJSON_MAX_ID + 1, 1, e));
    for (struct json_iter it = json_iter(v); it.key != NULL; json_next(&it)) {
        struct tokjson_token *tok = &t->tokens[t->n_tokens++];
        tok->text = (struct tokjson_str){it.key, strlen(it.key)};
        TRY(tokjson_id(j, it.value, "$.model.vocab", it.key, &tok->id, e));
        if (seen[tok->id]) {
            st = tokjson_fail(j, e, E_FORMAT, "$.model.vocab", "duplicate id %d (of \"%.60s\")",
                              tok->id, it.key);
            goto done;
        }
        seen[tok->id] = 1;
        tokjson_map_put(&r->vocab, tok->text, tok->id);
    }
done:
    mem_free(seen);
    return st;
}

// The two halves of one element of `merges`: "a b" or ["a", "b"].
static enum status merge_halves(const struct json *j, const struct jnode *v, const char *path,
                                struct tokjson_str half[2], struct err *e) {
    enum status st = OK;
    if (json_kind_of(v) == JSON_STR) {
        size_t n;
        const char *s = json_str(v, &n);
        const char *space = memchr(s, ' ', n);
        if (space == NULL || memchr(space + 1, ' ', n - (size_t)(space + 1 - s)) != NULL) {
            st = tokjson_fail(j, e, E_FORMAT, path, "must be two tokens with one space between");
            goto done;
        }
        half[0] = (struct tokjson_str){s, (size_t)(space - s)};
        half[1] = (struct tokjson_str){space + 1, n - half[0].n - 1};
        goto done;
    }
    TRY(tokjson_want(j, v, path, JSON_ARR, e));
    for (size_t i = 0; i < 2; i++) {
        const struct jnode *h = json_at(v, i);
        if (json_len(v) != 2 || json_kind_of(h) != JSON_STR) {
            st = tokjson_fail(j, e, E_FORMAT, path, "must be an array of two strings");
            goto done;
        }
        half[i].s = json_str(h, &half[i].n);
    }
done:
    return st;
}

static enum status read_merge(struct reading *r, const struct jnode *v, size_t index,
                              struct sbuf *join, struct err *e) {
    enum status st = OK;
    const struct json *j = r->file;
    struct tokjson_str half[2];
    char path[64];
    snprintf(path, sizeof path, "$.model.merges[%zu]", index);
    TRY(merge_halves(j, v, path, half, e));
    struct tokjson_merge *m = &r->t->merges[r->t->n_merges++];
    sbuf_clear(join);
    for (size_t i = 0; i < 2; i++) {
        const int32_t id = tokjson_map_get(&r->vocab, half[i].s, half[i].n);
        if (id < 0) {
            st = tokjson_fail(j, e, E_FORMAT, path, "\"%.*s\" is not in the vocabulary",
                              (int)(half[i].n < 60 ? half[i].n : 60), half[i].s);
            goto done;
        }
        *(i == 0 ? &m->left : &m->right) = id;
        sbuf_add(join, half[i].s, half[i].n);
    }
    TRY(sbuf_status(join, e));
    m->made = tokjson_map_get(&r->vocab, sbuf_str(join), join->n);
    if (m->made < 0) {
        st = tokjson_fail(j, e, E_FORMAT, path, "its result \"%.60s\" is not in the vocabulary",
                          sbuf_str(join));
    }
done:
    return st;
}

static enum status read_merges(struct reading *r, const struct jnode *m, struct err *e) {
    enum status st = OK;
    struct sbuf join;
    sbuf_init(&join);
    const struct jnode *v = json_get(m, "merges");
    TRY(tokjson_want(r->file, v, "$.model.merges", JSON_ARR, e));
    const size_t n = json_len(v);
    TRY(mem_zalloc(&r->t->merges, n, sizeof *r->t->merges, e));
    for (size_t i = 0; i < n; i++) {
        const struct jnode *one = json_at(v, i);
        // The header line of a merges.txt that was pasted in whole; the library skips it too.
        if (json_kind_of(one) == JSON_STR && strncmp(json_str(one, NULL), "#version", 8) == 0) {
            continue;
        }
        TRY(read_merge(r, one, i, &join, e));
    }
done:
    sbuf_fini(&join);
    return st;
}

// What becomes of characters that the vocabulary lacks. A byte-level one without `unk` drops them; any
// other must have them all (checked when it is opened). A merge that names a byte's token would join bytes of
// characters that the vocabulary lacks: none is made so, and its text would have two meanings.
static enum status read_chars(struct reading *r, const struct jnode *m, struct err *e) {
    enum status st = OK;
    struct tokjson *t = r->t;
    uint8_t *is_byte = NULL;
    const bool has_unk = !is_null_or_empty(json_get(m, "unk_token"));
    if (t->model == TOKJSON_BYTES) {
        t->byte_drops = !has_unk && !t->byte_fallback && !t->ignore_merges;
        goto done;
    }
    if (has_unk) {
        struct tokjson_str unk;
        TRY(tokjson_string(r->file, m, "$.model", "unk_token", &unk, e));
        t->unk = tokjson_map_get(&r->vocab, unk.s, unk.n);
        if (t->unk < 0) {
            st = tokjson_fail(r->file, e, E_FORMAT, "$.model.unk_token",
                              "\"%.60s\" is not in the vocabulary", unk.s);
            goto done;
        }
    }
    if (!t->byte_fallback) goto done;
    TRY(mem_zalloc(&is_byte, TOKJSON_MAX_ID + 1, 1, e));
    for (size_t i = 0; i < t->n_tokens; i++) {
        if (tokjson_byte_of(t->tokens[i].text) < 0) continue;
        t->tokens[i].kind = TOKJSON_BYTE;
        is_byte[t->tokens[i].id] = 1;
    }
    for (size_t i = 0; i < t->n_merges; i++) {
        const struct tokjson_merge *g = &t->merges[i];
        if (!is_byte[g->left] && !is_byte[g->right] && !is_byte[g->made]) continue;
        char path[64];
        snprintf(path, sizeof path, "$.model.merges[%zu]", i);
        st = tokjson_fail(r->file, e, E_UNSUPPORTED, path, "names the token of a byte");
        goto done;
    }
done:
    mem_free(is_byte);
    return st;
}

/* ---- added tokens ---- */

// The id the library gives: that of the vocabulary, or the next one behind everything so far.
// The id in the file is only a remark to it, so a file where they differ has two meanings.
static enum status check_added_id(struct reading *r, const struct tokjson_added *a,
                                  const char *path, int32_t *last, struct err *e) {
    int32_t want = tokjson_map_get(&r->vocab, a->text.s, a->text.n);
    if (want < 0) {
        const int32_t n = (int32_t)r->t->n_tokens;
        want = *last >= n ? *last + 1 : n;
    }
    if (a->id != want) {
        return tokjson_fail(r->file, e, E_FORMAT, path,
                            "id %d of \"%.60s\" disagrees with the vocabulary, which makes it %d",
                            a->id, a->text.s, want);
    }
    if (want > *last) *last = want;
    return OK;
}

static enum status read_added_one(struct reading *r, const struct jnode *v, const char *path,
                                  struct tokjson_added *a, struct err *e) {
    enum status st = OK;
    const struct json *j = r->file;
    char at[96];
    TRY(tokjson_want(j, v, path, JSON_OBJ, e));
    TRY(tokjson_string(j, v, path, "content", &a->text, e));
    if (a->text.n == 0) {
        snprintf(at, sizeof at, "%s.content", path);
        st = tokjson_fail(j, e, E_FORMAT, at, "empty");
        goto done;
    }
    snprintf(at, sizeof at, "%s.id", path);
    TRY(tokjson_id(j, json_get(v, "id"), at, a->text.s, &a->id, e));
    TRY(tokjson_bool(j, v, path, "single_word", false, &a->single_word, e));
    TRY(tokjson_bool(j, v, path, "lstrip", false, &a->lstrip, e));
    TRY(tokjson_bool(j, v, path, "rstrip", false, &a->rstrip, e));
    TRY(tokjson_bool(j, v, path, "normalized", true, &a->normalized, e));
    TRY(tokjson_bool(j, v, path, "special", false, &a->special, e));
done:
    return st;
}

static enum status read_added(struct reading *r, const struct jnode *root, struct err *e) {
    enum status st = OK;
    struct tokjson *t = r->t;
    int32_t last = -1;
    const struct jnode *v = json_get(root, "added_tokens");
    const bool none = v == NULL || json_kind_of(v) == JSON_NIL;
    if (!none) TRY(tokjson_want(r->file, v, "$.added_tokens", JSON_ARR, e));
    const size_t n = none ? 0 : json_len(v);
    TRY(mem_zalloc(&t->added, n, sizeof *t->added, e));
    TRY(tokjson_map_init(&r->added, n, e));
    for (size_t i = 0; i < n; i++) {
        char path[64];
        snprintf(path, sizeof path, "$.added_tokens[%zu]", i);
        struct tokjson_added *a = &t->added[t->n_added];
        TRY(read_added_one(r, json_at(v, i), path, a, e));
        if (tokjson_map_get(&r->added, a->text.s, a->text.n) >= 0) {
            st = tokjson_fail(r->file, e, E_FORMAT, path, "\"%.60s\" is there twice", a->text.s);
            goto done;
        }
        TRY(check_added_id(r, a, path, &last, e));
        tokjson_map_put(&r->added, a->text, a->id);
        t->n_added++;
    }
done:
    return st;
}

static int32_t find_token(const struct reading *r, const char *s, size_t n) {
    const int32_t id = tokjson_map_get(&r->added, s, n);
    return id >= 0 ? id : tokjson_map_get(&r->vocab, s, n);
}

/* ---- configuration ---- */

// bos_token / eos_token: a string, or an object with `content`; -1 when there is none.
static int32_t config_token(const struct reading *r, const char *key, struct hash *h) {
    const struct jnode *v = r->config != NULL ? json_get(json_root(r->config), key) : NULL;
    if (v != NULL && json_kind_of(v) == JSON_OBJ) v = json_get(v, "content");
    if (v == NULL || json_kind_of(v) != JSON_STR) return -1;
    size_t n;
    const char *s = json_str(v, &n);
    hash_add(h, key, strlen(key));
    hash_add(h, s, n + 1);
    return find_token(r, s, n);
}

static enum status read_config(struct reading *r, struct hash *h, struct err *e) {
    enum status st = OK;
    struct tokjson *t = r->t;
    const int32_t bos = config_token(r, "bos_token", h);
    t->eos = config_token(r, "eos_token", h);
    t->adds_bos = r->template_bos >= 0;
    if (r->config != NULL) {
        const struct jnode *root = json_root(r->config);
        TRY(tokjson_bool(r->config, root, "$", "add_bos_token", t->adds_bos, &t->adds_bos, e));
    }
    t->bos = r->template_bos >= 0 && t->adds_bos ? r->template_bos : bos;
    hash_add(h, t->adds_bos ? "+" : "-", 1);
    if (t->adds_bos && t->bos < 0) {
        st = tokjson_fail(r->config, e, E_FORMAT, "$.add_bos_token",
                          "is true, but bos_token names no token of tokenizer.json");
    }
done:
    return st;
}

/* ---- files ---- */

static enum status open_file(struct json **out, const char *path, struct hash *h, struct err *e) {
    enum status st = OK;
    struct fmap *m = NULL;
    TRY(fmap_open(&m, path, e));
    const size_t n = fmap_bytes(m);
    if (n > TOKJSON_MAX_BYTES) {
        FAIL(e, E_FORMAT, "%s: %zu bytes; at most %d are read from such a file", path, n,
             TOKJSON_MAX_BYTES);
    }
    const void *data = fmap_borrow_data(m);
    if (h != NULL) hash_add(h, data, n);
    TRY(json_open_text(out, path, data != NULL ? data : "", n, e));
    TRY(tokjson_want(*out, json_root(*out), "$", JSON_OBJ, e));
    if (fmap_torn(m)) FAIL(e, E_IO, "%s: cut short while it was read", path);
done:
    if (st != OK) {
        json_close(*out);
        *out = NULL;
    }
    fmap_close(m);
    return st;
}

// `truncation` and `padding` are for batches; whoever loads a model for text sets them aside.
static const char *const top_keys[] = {
    "version",       "truncation",     "padding", "added_tokens", "normalizer",
    "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
static const char *const model_keys[] = {"type",
                                         "dropout",
                                         "unk_token",
                                         "continuing_subword_prefix",
                                         "end_of_word_suffix",
                                         "fuse_unk",
                                         "byte_fallback",
                                         "ignore_merges",
                                         "vocab",
                                         "merges",
                                         NULL};

static enum status read_all(struct reading *r, struct hash *h, struct err *e) {
    enum status st = OK;
    const struct jnode *root = json_root(r->file), *model = json_get(root, "model");
    TRY(tokjson_only_known(r->file, root, "$", top_keys, e));
    TRY(tokjson_want(r->file, model, "$.model", JSON_OBJ, e));
    TRY(read_model_flags(r, model, e));
    TRY(tokjson_only_known(r->file, model, "$.model", model_keys, e));
    TRY(read_vocab(r, model, e));
    TRY(read_merges(r, model, e));
    TRY(read_added(r, root, e));
    TRY(tokjson_read_pipeline(r->t, r->file, e));
    TRY(read_chars(r, model, e));
    TRY(tokjson_read_post(r->file, &r->template_bos, e));
    TRY(read_config(r, h, e));
done:
    return st;
}

enum status tokjson_open(struct tokjson **out, const char *model_dir, struct err *e) {
    enum status st = OK;
    struct reading r = {.template_bos = -1};
    struct keep *keep = NULL;
    struct hash *h = NULL;
    struct sbuf path;
    *out = NULL;
    sbuf_init(&path);
    TRY(hash_open(&h, e));
    TRY(mem_zalloc(&r.t, 1, sizeof *r.t, e));
    r.t->unk = -1;
    TRY(mem_zalloc(&keep, 1, sizeof *keep, e));
    r.t->keep = keep;
    sbuf_printf(&path, "%s/tokenizer_config.json", model_dir);
    TRY(sbuf_status(&path, e));
    if (access(sbuf_str(&path), F_OK) == 0) TRY(open_file(&r.config, sbuf_str(&path), NULL, e));
    sbuf_clear(&path);
    sbuf_printf(&path, "%s/tokenizer.json", model_dir);
    TRY(sbuf_status(&path, e));
    if (access(sbuf_str(&path), F_OK) == 0) {
        TRY(open_file(&keep->file, sbuf_str(&path), h, e));
    } else {
        TRY(tokjson_open_pair(&keep->file, r.config, model_dir, h, e));
    }
    r.file = keep->file;
    TRY(read_all(&r, h, e));
    hash_text(h, r.t->identity);
    *out = r.t;
    r.t = NULL;
done:
    tokjson_close(r.t);
    json_close(r.config);
    tokjson_map_fini(&r.vocab);
    tokjson_map_fini(&r.added);
    sbuf_fini(&path);
    hash_close(h);
    return st;
}

void tokjson_close(struct tokjson *t) {
    if (t == NULL) return;
    struct keep *keep = t->keep;
    if (keep != NULL) json_close(keep->file);
    mem_free(keep);
    mem_free(t->tokens);
    mem_free(t->merges);
    mem_free(t->added);
    mem_free(t->norms);
    mem_free(t->pres);
    mem_free(t->texts);
    mem_free(t);
}
