/* vocab.json and merges.txt, the form before tokenizer.json: written down as the tokenizer.json that
 * the `transformers` library makes of them for its GPT2Tokenizer. */
#include "base/mem.h"
#include "base/sbuf.h"
#include "io/file.h"
#include "io/tokjson_impl.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct jnode *member(const struct json *config, const char *key) {
    return config != NULL ? json_get(json_root(config), key) : NULL;
}

// A token is a string, or an object with `content`.
static const char *text_of(const struct jnode *v, size_t *n) {
    if (v != NULL && json_kind_of(v) == JSON_OBJ) v = json_get(v, "content");
    return v != NULL && json_kind_of(v) == JSON_STR ? json_str(v, n) : NULL;
}

// Other tokenizers are kept in such files too, with other rules of where words end.
static enum status check_class(const struct json *config, const char *dir, struct err *e) {
    const struct jnode *v = member(config, "tokenizer_class");
    const char *name = v != NULL && json_kind_of(v) == JSON_STR ? json_str(v, NULL) : "";
    if (strcmp(name, "GPT2Tokenizer") == 0 || strcmp(name, "GPT2TokenizerFast") == 0) return OK;
    return err_fail(e, E_UNSUPPORTED,
                    "%s: vocab.json and merges.txt are read where tokenizer_config.json says "
                    "tokenizer_class \"GPT2Tokenizer\"%s%.60s%s; a tokenizer.json would do",
                    dir, *name != '\0' ? ", not \"" : "", name, *name != '\0' ? "\"" : "");
}

// What else may bring tokens.
static enum status check_added(const struct json *config, const char *dir, struct err *e) {
    enum status st = OK;
    static const char *const keys[] = {"additional_special_tokens", "added_tokens_decoder"};
    struct sbuf path;
    sbuf_init(&path);
    sbuf_printf(&path, "%s/added_tokens.json", dir);
    TRY(sbuf_status(&path, e));
    if (access(path.s, F_OK) == 0) {
        FAIL(e, E_UNSUPPORTED, "%s: with vocab.json and merges.txt it is not read", path.s);
    }
    for (size_t i = 0; i < COUNTOF(keys); i++) {
        const struct jnode *v = member(config, keys[i]);
        if (v == NULL || json_len(v) == 0) continue;
        char at[64];
        snprintf(at, sizeof at, "$.%s", keys[i]);
        st = tokjson_fail(config, e, E_UNSUPPORTED, at,
                          "with vocab.json and merges.txt it is not read");
        goto done;
    }
done:
    sbuf_fini(&path);
    return st;
}

static enum status put_merges(const char *path, struct hash *h, struct sbuf *out, struct err *e) {
    enum status st = OK;
    struct sbuf text;
    bool any = false;
    sbuf_init(&text);
    TRY(file_read_all(path, TOKJSON_MAX_BYTES, &text, e));
    hash_add(h, text.s, text.n);
    if (strncmp(sbuf_str(&text), "#version", 8) != 0) {
        FAIL(e, E_FORMAT, "%s:1: does not begin with #version", path);
    }
    for (size_t at = 0, line = 1; at < text.n; line++) {
        const char *s = text.s + at, *newline = memchr(s, '\n', text.n - at);
        size_t n = newline != NULL ? (size_t)(newline - s) : text.n - at;
        at += n + 1;
        if (n > 0 && s[n - 1] == '\r') n--;
        if (line == 1 || n == 0) continue;
        sbuf_puts(out, any ? ",\n" : "\n");
        sbuf_json_string(out, s, n);
        any = true;
    }
done:
    sbuf_fini(&text);
    return st;
}

static void put_flags(const struct jnode *token, struct sbuf *out) {
    static const char *const flags[] = {"single_word", "lstrip", "rstrip"};
    for (size_t i = 0; i < COUNTOF(flags) && json_kind_of(token) == JSON_OBJ; i++) {
        const struct jnode *v = json_get(token, flags[i]);
        const bool on = v != NULL && json_kind_of(v) == JSON_BOOL && json_bool(v);
        if (on) sbuf_printf(out, ",\"%s\":true", flags[i]);
    }
}

// Those that the configuration names, where the vocabulary has them.
static void put_special(const struct json *config, const struct jnode *vocab, struct sbuf *out) {
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};
    const char *seen[COUNTOF(keys)];
    size_t n_seen = 0;
    for (size_t i = 0; i < COUNTOF(keys); i++) {
        size_t n = 0, k = 0;
        const char *s = text_of(member(config, keys[i]), &n);
        const struct jnode *id = s != NULL && strlen(s) == n ? json_get(vocab, s) : NULL;
        while (k < n_seen && s != NULL && strcmp(seen[k], s) != 0) k++;
        if (id == NULL || json_kind_of(id) != JSON_INT || k < n_seen) continue;
        seen[n_seen++] = s;
        sbuf_printf(out, "%s{\"id\":%lld,\"content\":", n_seen > 1 ? "," : "",
                    (long long)json_int(id));
        sbuf_json_string(out, s, n);
        put_flags(member(config, keys[i]), out);
        sbuf_puts(out, ",\"special\":true}");
    }
}

enum status tokjson_open_pair(struct json **out, const struct json *config, const char *dir,
                              struct hash *h, struct err *e) {
    enum status st = OK;
    struct json *vocab = NULL;
    struct sbuf path, text;
    size_t n = 0;
    bool prefix = false;
    sbuf_init(&path);
    sbuf_init(&text);
    TRY(check_class(config, dir, e));
    TRY(check_added(config, dir, e));
    TRY(tokjson_bool(config, json_root(config), "$", "add_prefix_space", false, &prefix, e));
    sbuf_printf(&path, "%s/vocab.json", dir);
    TRY(sbuf_status(&path, e));
    TRY(json_open(&vocab, path.s, TOKJSON_MAX_BYTES, e));
    TRY(tokjson_want(vocab, json_root(vocab), "$", JSON_OBJ, e));
    const char *whole = json_borrow_text(vocab, &n);
    hash_add(h, whole, n);
    // The vocabulary first, as it stands: its lines are those of vocab.json.
    sbuf_puts(&text, "{\"model\":{\"type\":\"BPE\",\"vocab\":");
    sbuf_add(&text, whole, n);
    sbuf_puts(&text, ",\"merges\":[");
    path.n -= strlen("vocab.json");
    sbuf_puts(&path, "merges.txt");
    TRY(sbuf_status(&path, e));
    TRY(put_merges(path.s, h, &text, e));
    sbuf_puts(&text, "]},\"added_tokens\":[");
    put_special(config, json_root(vocab), &text);
    sbuf_printf(&text,
                "],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":%s},\"decoder\":"
                "{\"type\":\"ByteLevel\"}}",
                prefix ? "true" : "false");
    TRY(sbuf_status(&text, e));
    sbuf_clear(&path);
    sbuf_printf(&path, "%s/vocab.json with merges.txt", dir);
    TRY(sbuf_status(&path, e));
    TRY(json_open_text(out, path.s, text.s, text.n, e));
done:
    json_close(vocab);
    sbuf_fini(&path);
    sbuf_fini(&text);
    return st;
}
