/* The grammar of a line: one JSON object, of which one value is wanted. */
#include "io/scan_impl.h"

#include "base/hash.h"

#include <string.h>

enum { HINT_KEYS = 8, HINT_BYTES = 160 };

static enum status unexpected(struct scan *s, int c, const char *wanted, struct err *e) {
    const int64_t at = s->cur->pos;
    if (c == '\n' || c < 0) return scan_fail(s, at, e, "the line ends, expected %s", wanted);
    if (c > 0x20 && c < 0x7F) return scan_fail(s, at, e, "expected %s, found '%c'", wanted, c);
    return scan_fail(s, at, e, "expected %s, found 0x%02x", wanted, (unsigned)c);
}

// Skips white space and then exactly `c`.
static enum status expect(struct scan *s, char c, const char *wanted, struct err *e) {
    enum status st = OK;
    int byte = 0;
    TRY(scan_space(s, &byte, e));
    if (byte == c) {
        cursor_skip(s->cur, 1);
    } else {
        st = unexpected(s, byte, wanted, e);
    }
done:
    return st;
}

// A string whose opening quote is at the cursor; *n decoded bytes go to s->piece, at most
// SCAN_KEY_BYTES.
static enum status key_string(struct scan *s, size_t *n, struct err *e) {
    enum status st = OK;
    bool done = false;
    int c = 0;
    TRY(scan_space(s, &c, e));
    const int64_t at = s->cur->pos;
    if (c != '"') {
        st = unexpected(s, c, "a key", e);
        goto done;
    }
    cursor_skip(s->cur, 1);
    TRY(scan_text(s, true, s->piece, sizeof s->piece, n, &done, e));
    if (!done || *n > SCAN_KEY_BYTES) {
        st = scan_fail(s, at, e, "a key longer than %d bytes", SCAN_KEY_BYTES);
    }
done:
    return st;
}

static enum status skip_string(struct scan *s, struct err *e) {
    size_t n = 0;
    bool done = false;
    cursor_skip(s->cur, 1);
    return scan_text(s, true, NULL, 0, &n, &done, e);
}

static enum status keep_id(struct scan *s, const char *p, size_t n, struct err *e) {
    sbuf_add(&s->id, p, n);
    if (s->id.n > SCAN_ID_BYTES) {
        return scan_fail(s, s->cur->pos, e, "an id longer than %d bytes", SCAN_ID_BYTES);
    }
    return sbuf_status(&s->id, e);
}

// A run of digits, kept in s->id when wanted.
static enum status digits(struct scan *s, bool keep, struct err *e) {
    enum status st = OK;
    bool any = false;
    for (;;) {
        const char *p;
        size_t n, k = 0;
        TRY(cursor_view(s->cur, &p, &n, e));
        while (k < n && p[k] >= '0' && p[k] <= '9') k++;
        if (keep) TRY(keep_id(s, p, k, e));
        cursor_skip(s->cur, k);
        any = any || k > 0;
        if (k == n && n > 0) continue;
        if (!any) st = unexpected(s, n > 0 ? (unsigned char)p[0] : -1, "a digit", e);
        break;
    }
done:
    return st;
}

// Skips one byte when it is one of `set`, kept like digits.
static enum status one_of(struct scan *s, const char *set, bool keep, bool *was, struct err *e) {
    enum status st = OK;
    int c = 0;
    TRY(cursor_peek(s->cur, &c, e));
    *was = c > 0 && strchr(set, c) != NULL;
    if (!*was) goto done;
    const char byte = (char)c;
    if (keep) TRY(keep_id(s, &byte, 1, e));
    cursor_skip(s->cur, 1);
done:
    return st;
}

static enum status number(struct scan *s, bool keep, struct err *e) {
    enum status st = OK;
    bool was = false;
    TRY(one_of(s, "-", keep, &was, e));
    TRY(one_of(s, "0", keep, &was, e));
    if (!was) TRY(digits(s, keep, e)); // behind a leading 0 a digit is refused by who comes next
    TRY(one_of(s, ".", keep, &was, e));
    if (was) TRY(digits(s, keep, e));
    TRY(one_of(s, "eE", keep, &was, e));
    if (was) {
        TRY(one_of(s, "+-", keep, &was, e));
        TRY(digits(s, keep, e));
    }
done:
    return st;
}

static enum status literal(struct scan *s, int c, struct err *e) {
    const char *p;
    size_t n;
    const char *word = c == 't' ? "true" : c == 'f' ? "false" : "null";
    const enum status st = cursor_view(s->cur, &p, &n, e);
    if (st != OK) return st;
    const size_t k = strlen(word);
    if (n < k || memcmp(p, word, k) != 0) return unexpected(s, c, "a value", e);
    cursor_skip(s->cur, k);
    return OK;
}

static bool begins_number(int c) {
    return c == '-' || (c >= '0' && c <= '9');
}

static enum status scalar(struct scan *s, int c, struct err *e) {
    if (c == '"') return skip_string(s, e);
    if (begins_number(c)) return number(s, false, e);
    if (c == 't' || c == 'f' || c == 'n') return literal(s, c, e);
    return unexpected(s, c, "a value", e);
}

// The key and colon in front of a member's value, inside a value that is not wanted.
static enum status skip_key(struct scan *s, struct err *e) {
    enum status st = OK;
    int c = 0;
    TRY(scan_space(s, &c, e));
    if (c != '"') {
        st = unexpected(s, c, "a key", e);
        goto done;
    }
    TRY(skip_string(s, e));
    TRY(expect(s, ':', "':'", e));
done:
    return st;
}

// Goes on behind a value until the next value, or until `*depth` levels are closed. Bit i of
// `objects` says that level i is an object.
static enum status after_value(struct scan *s, uint64_t objects, int *depth, struct err *e) {
    enum status st = OK;
    while (*depth > 0) {
        const bool object = objects >> (*depth - 1) & 1;
        int c = 0;
        TRY(scan_space(s, &c, e));
        if (c == ',') {
            cursor_skip(s->cur, 1);
            if (object) TRY(skip_key(s, e));
            break;
        }
        if (c != (object ? '}' : ']')) {
            st = unexpected(s, c, object ? "',' or '}'" : "',' or ']'", e);
            break;
        }
        cursor_skip(s->cur, 1);
        (*depth)--;
    }
done:
    return st;
}

// Skips any value. Not recursive: a bit per open level.
static enum status skip_value(struct scan *s, struct err *e) {
    enum status st = OK;
    uint64_t objects = 0;
    int depth = 0;
    do {
        int c = 0, inside = 0;
        TRY(scan_space(s, &c, e));
        if (c != '{' && c != '[') {
            TRY(scalar(s, c, e));
            TRY(after_value(s, objects, &depth, e));
            continue;
        }
        // The line's own object is one level.
        if (depth == SCAN_DEPTH - 1) {
            st = scan_fail(s, s->cur->pos, e, "nested deeper than %d levels", SCAN_DEPTH);
            goto done;
        }
        const uint64_t bit = (uint64_t)1 << depth++;
        objects = c == '{' ? objects | bit : objects & ~bit;
        cursor_skip(s->cur, 1);
        TRY(scan_space(s, &inside, e));
        if (inside == c + 2) { // '{' + 2 is '}', '[' + 2 is ']': empty
            cursor_skip(s->cur, 1);
            depth--;
            TRY(after_value(s, objects, &depth, e));
        } else if (c == '{') {
            TRY(skip_key(s, e));
        }
    } while (depth > 0);
done:
    return st;
}

static const char *kind_name(int c) {
    switch (c) {
    case '"': return "a string";
    case '{': return "an object";
    case '[': return "an array";
    case 't':
    case 'f': return "a boolean";
    case 'n': return "null";
    default: return "a number";
    }
}

static enum status wrong_kind(struct scan *s, const char *key, int c, const char *wanted,
                              struct err *e) {
    if (c < 0 || (strchr("\"{[tfn", c) == NULL && !begins_number(c)) || c == 0) {
        return unexpected(s, c, "a value", e);
    }
    return scan_fail(s, s->cur->pos, e, "\"%.64s\" is %s, not %s", key, kind_name(c), wanted);
}

// Where a value that is kept as JSON lies; what is in it is looked at by who reads it.
static enum status json_value(struct scan *s, int64_t *begin, int64_t *end, struct err *e) {
    enum status st = OK;
    *begin = s->cur->pos;
    TRY(skip_value(s, e));
    *end = s->cur->pos;
    if (*end - *begin > SCAN_JSON_BYTES) {
        st = scan_fail(s, *begin, e,
                       "a value longer than %d bytes, which chats and requests may have",
                       SCAN_JSON_BYTES);
    }
done:
    return st;
}

static enum status wanted_value(struct scan *s, enum scan_kind kind, int c, struct err *e) {
    enum status st = OK;
    size_t n = 0;
    bool done = false;
    if (s->kind != SCAN_NOTHING) {
        return scan_fail(s, s->cur->pos, e, "both \"%.64s\" and \"%.64s\"", s->text_key,
                         s->messages_key);
    }
    s->kind = kind;
    if (kind == SCAN_TEXT) {
        if (c != '"') return wrong_kind(s, s->text_key, c, "a string", e);
        s->value = s->cur->pos + 1;
        TRY(skip_string(s, e));
    } else if (kind == SCAN_IDS) {
        if (c != '[') return wrong_kind(s, s->ids_key, c, "an array of integers", e);
        s->value = s->cur->pos;
        scan_ids_begin(s);
        TRY(scan_ids(s, NULL, 0, &n, &done, e));
    } else {
        if (c != '[') return wrong_kind(s, s->messages_key, c, "an array", e);
        TRY(json_value(s, &s->value, &s->value_end, e));
    }
done:
    return st;
}

static enum status id_value(struct scan *s, const char *key, int c, struct err *e) {
    enum status st = OK;
    const int64_t at = s->cur->pos;
    sbuf_clear(&s->id);
    if (begins_number(c)) {
        TRY(number(s, true, e));
    } else if (c == '"') {
        cursor_skip(s->cur, 1);
        for (bool done = false; !done;) {
            size_t n = 0;
            TRY(scan_text(s, true, s->piece, sizeof s->piece, &n, &done, e));
            TRY(keep_id(s, s->piece, n, e));
        }
        // Ids travel as C strings.
        if (s->id.n > 0 && memchr(s->id.s, '\0', s->id.n) != NULL) {
            st = scan_fail(s, at, e, "an id with U+0000 inside");
            goto done;
        }
    } else {
        st = wrong_kind(s, key, c, "a string or a number", e);
        goto done;
    }
    s->has_id = true;
done:
    return st;
}

static bool key_is(const struct scan *s, size_t n, const char *key) {
    return key != NULL && strlen(key) == n && memcmp(s->piece, key, n) == 0;
}

// Notes the key in s->piece. Keys are told apart by a 64-bit hash: memory stays constant, and two
// different keys of one line being taken for equal would fail that line, not score it wrongly.
static enum status note_key(struct scan *s, size_t n, int64_t at, struct err *e) {
    const uint64_t h = hash_64(s->piece, n);
    for (size_t i = 0; i < s->n_keys; i++) {
        if (s->key_hash[i] == h) {
            return scan_fail(s, at, e, "key \"%.*s\" twice", n < 64 ? (int)n : 64, s->piece);
        }
    }
    if (s->n_keys == SCAN_KEYS) return scan_fail(s, at, e, "more than %d keys", SCAN_KEYS);
    s->key_hash[s->n_keys++] = h;
    s->saw_custom_id = s->saw_custom_id || key_is(s, n, "custom_id");
    s->saw_body = s->saw_body || key_is(s, n, "body");
    if (s->n_keys <= HINT_KEYS && s->names.n + n < HINT_BYTES) {
        if (s->names.n > 0) sbuf_puts(&s->names, ", ");
        sbuf_json_string(&s->names, s->piece, n);
    }
    return sbuf_status(&s->names, e);
}

static enum status member(struct scan *s, struct err *e) {
    enum status st = OK;
    size_t n = 0;
    int c = 0;
    TRY(scan_space(s, &c, e));
    const int64_t at = s->cur->pos;
    TRY(key_string(s, &n, e));
    TRY(note_key(s, n, at, e));
    const enum scan_kind kind = key_is(s, n, s->text_key)       ? SCAN_TEXT
                                : key_is(s, n, s->ids_key)      ? SCAN_IDS
                                : key_is(s, n, s->messages_key) ? SCAN_CHAT
                                                                : SCAN_NOTHING;
    const bool custom = s->batch && key_is(s, n, "custom_id");
    const bool id = !custom && key_is(s, n, s->id_key) && !(s->batch && s->saw_custom_id);
    const bool body = s->batch && key_is(s, n, "body");
    TRY(expect(s, ':', "':'", e));
    TRY(scan_space(s, &c, e));
    if (kind != SCAN_NOTHING) {
        TRY(wanted_value(s, kind, c, e));
    } else if (id || custom) {
        TRY(id_value(s, custom ? "custom_id" : s->id_key, c, e));
    } else if (body && c == '{') {
        TRY(json_value(s, &s->body, &s->body_end, e));
    } else {
        TRY(skip_value(s, e));
    }
done:
    return st;
}

// A line with custom_id and body is one of an OpenAI batch.
static enum status settle_batch(struct scan *s, int64_t at, struct err *e) {
    if (!s->batch || !s->saw_custom_id || !s->saw_body) return OK;
    if (s->kind != SCAN_NOTHING) {
        return scan_fail(s, at, e, "custom_id and body, and a prompt of its own beside them");
    }
    if (s->body < 0) return scan_fail(s, at, e, "\"body\" is not an object");
    s->kind = SCAN_BODY;
    s->value = s->body;
    s->value_end = s->body_end;
    return OK;
}

static enum status missing(struct scan *s, int64_t at, struct err *e) {
    const char *key = s->text_key != NULL ? s->text_key : s->ids_key;
    if (s->saw_custom_id && s->saw_body && !s->batch) {
        return scan_fail(s, at, e,
                         "no key \"%.64s\": custom_id and body make this a line of an OpenAI "
                         "batch, input of a generate job; a score job reads a text or "
                         "token ids from each line",
                         key);
    }
    if (s->n_keys == 0) return scan_fail(s, at, e, "no key \"%.64s\": the object is empty", key);
    return scan_fail(s, at, e, "no key \"%.64s\"; the keys are %s", key, sbuf_str(&s->names));
}

enum status scan_line(struct scan *s, struct err *e) {
    enum status st = OK;
    int c = 0;
    s->kind = SCAN_NOTHING;
    s->value = s->value_end = s->body = s->body_end = -1;
    s->has_id = s->saw_custom_id = s->saw_body = false;
    s->n_keys = 0;
    sbuf_clear(&s->id);
    sbuf_clear(&s->names);
    const int64_t at = s->cur->pos;
    TRY(expect(s, '{', "a JSON object", e));
    TRY(scan_space(s, &c, e));
    if (c == '}') cursor_skip(s->cur, 1);
    while (c != '}') {
        TRY(member(s, e));
        TRY(scan_space(s, &c, e));
        if (c != ',' && c != '}') {
            st = unexpected(s, c, "',' or '}'", e);
            goto done;
        }
        cursor_skip(s->cur, 1);
    }
    TRY(scan_space(s, &c, e));
    if (c >= 0 && c != '\n') {
        st = unexpected(s, c, "the end of the line", e);
        goto done;
    }
    TRY(settle_batch(s, at, e));
    if (s->value < 0) {
        st = missing(s, at, e); // before the newline is passed: the line has failed
        goto done;
    }
    cursor_skip(s->cur, c == '\n');
done:
    return st;
}
