/* The tokenizer of Qwen 1: its vocabulary is DIR/qwen.tiktoken; the pattern, the names of the special
 * tokens behind it and the normalization (NFC, before special tokens are looked for) stand in the
 * code that Qwen publishes beside it.
 *
 * tiktoken has no list of merges: two neighbours join when their bytes together are a token, that of
 * the lowest rank first, the leftmost of equals; and a word that is a token is taken as it is. */
#include "base/mem.h"
#include "base/sbuf.h"
#include "base/utf8.h"
#include "core/tok_impl.h"
#include "io/tiktoken.h"

#include <stdio.h>
#include <string.h>

enum { N_EXTRA = 205, N_SPECIAL = 3 + N_EXTRA, MAX_NAME = 16 };

static const char PATTERN[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                              "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
                              "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

// Tokens with their bytes written as byte-level characters, and the special ones behind them.
static enum status copy_tokens(struct tokjson *t, const struct tiktoken *v, struct err *e) {
    enum status st = OK;
    char map[256][4];
    size_t len[256], at = 0;
    for (int b = 0; b < 256; b++) len[b] = utf8_encode(tok_byte_char((unsigned char)b), map[b]);
    TRY(mem_zalloc(&t->texts, 2 * v->n_bytes + v->n_tokens + N_SPECIAL * MAX_NAME, 1, e));
    TRY(mem_zalloc(&t->tokens, v->n_tokens, sizeof *t->tokens, e));
    TRY(mem_zalloc(&t->added, N_SPECIAL, sizeof *t->added, e));
    for (; t->n_tokens < v->n_tokens; t->n_tokens++, at++) {
        const struct tokjson_str *k = &v->tokens[t->n_tokens];
        struct tokjson_token *out = &t->tokens[t->n_tokens];
        out->id = (int32_t)t->n_tokens;
        out->text.s = t->texts + at;
        for (size_t i = 0; i < k->n; i++) {
            const unsigned char b = (unsigned char)k->s[i];
            memcpy(t->texts + at, map[b], len[b]);
            at += len[b];
        }
        out->text.n = (size_t)(t->texts + at - out->text.s);
    }
    static const char *const first[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    for (; t->n_added < N_SPECIAL; t->n_added++, at += MAX_NAME) {
        const int i = (int)t->n_added;
        char *name = t->texts + at;
        if (i < 3) snprintf(name, MAX_NAME, "%s", first[i]);
        if (i >= 3) snprintf(name, MAX_NAME, "<|extra_%d|>", i - 3);
        t->added[i] = (struct tokjson_added){.text = {name, strlen(name)},
                                             .id = (int32_t)v->n_tokens + i,
                                             .normalized = true,
                                             .special = true};
    }
done:
    return st;
}

// Every two tokens whose bytes together are a token.
static enum status find_merges(struct tokjson *t, const struct tiktoken *v, struct err *e) {
    enum status st = OK;
    size_t cap = 0;
    t->rank_by_token = true;
    for (size_t i = 0; i < v->n_tokens; i++) {
        const struct tokjson_str k = v->tokens[i];
        for (size_t cut = 1; cut < k.n; cut++) {
            const int32_t left = tokjson_map_get(&v->ids, k.s, cut);
            if (left < 0) continue;
            const int32_t right = tokjson_map_get(&v->ids, k.s + cut, k.n - cut);
            if (right < 0) continue;
            TRY(mem_grow(&t->merges, &cap, t->n_merges + 1, sizeof *t->merges, e));
            t->merges[t->n_merges++] = (struct tokjson_merge){left, right, (int32_t)i};
        }
    }
done:
    return st;
}

static enum status set_pipeline(struct tokjson *t, struct err *e) {
    enum status st = OK;
    TRY(mem_zalloc(&t->norms, 1, sizeof *t->norms, e));
    TRY(mem_zalloc(&t->pres, 2, sizeof *t->pres, e));
    t->norms[t->n_norms++].kind = TOKJSON_NFC;
    t->pres[t->n_pres++] = (struct tokjson_pre){.kind = TOKJSON_SPLIT,
                                                .behavior = TOKJSON_ISOLATED,
                                                .pattern = {PATTERN, sizeof PATTERN - 1},
                                                .is_regex = true,
                                                .place = "Qwen's pattern"};
    t->pres[t->n_pres++] = (struct tokjson_pre){.kind = TOKJSON_BYTE_LEVEL, .place = "bytes"};
done:
    return st;
}

enum status tok_read_tiktoken(struct tokjson **out, const char *path, struct err *e) {
    enum status st = OK;
    struct tiktoken *v = NULL;
    struct tokjson *t = NULL;
    struct hash *h = NULL;
    *out = NULL;
    TRY(hash_open(&h, e));
    TRY(mem_zalloc(&t, 1, sizeof *t, e));
    TRY(tiktoken_open(&v, path, h, e));
    t->model = TOKJSON_BYTES;
    t->ignore_merges = true;
    t->unk = t->bos = -1;
    t->eos = (int32_t)v->n_tokens; // <|endoftext|>
    TRY(copy_tokens(t, v, e));
    TRY(find_merges(t, v, e));
    TRY(set_pipeline(t, e));
    hash_add(h, "qwen", 4);
    hash_text(h, t->identity);
    *out = t;
    t = NULL;
done:
    hash_close(h);
    tokjson_close(t);
    tiktoken_close(v);
    return st;
}
