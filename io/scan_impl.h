/* Texts and JSON lines, scanned from a cursor in constant memory. Private to io/.
 *
 * A line of JSON is read twice. scan_line() checks all of it and notes where the wanted value
 * begins; scan_text() or scan_ids() then decodes that value piece by piece. So the order of the
 * keys does not matter, and nothing of a bad line is ever handed out.
 *
 * Strict: RFC 8259, UTF-8, one object a line, nesting at most 64, at most 4,096 keys of at most
 * 4,096 bytes each in the line's own object and none of them twice (objects inside values are not
 * checked for that), an id of at most 65,536 bytes, a chat or a body of at most 4 MiB. */
#ifndef BASIN_IO_SCAN_IMPL_H
#define BASIN_IO_SCAN_IMPL_H

#include "base/err.h"
#include "base/sbuf.h"
#include "io/cursor_impl.h"

enum {
    SCAN_DEPTH = 64,
    SCAN_KEYS = 4096,
    SCAN_KEY_BYTES = 4096,
    SCAN_ID_BYTES = 65536,
    SCAN_JSON_BYTES = 4 << 20
};

/* What a line holds. */
enum scan_kind {
    SCAN_NOTHING,
    SCAN_TEXT,
    SCAN_IDS,
    SCAN_CHAT, /* the array under messages_key */
    SCAN_BODY  /* the object under "body", of an OpenAI batch line, whose id is "custom_id" */
};

struct scan {
    /* Set by the owner. */
    struct cursor *cur;       /* borrowed: outlives this */
    const char *source;       /* borrowed: for messages */
    const char *text_key;     /* borrowed; exactly one of text_key and ids_key is not NULL */
    const char *ids_key;      /* borrowed */
    const char *messages_key; /* borrowed; NULL: there are no chats */
    bool batch;               /* lines of an OpenAI batch are understood */
    const char *id_key;       /* borrowed; NULL: lines have no id */
    bool replace;             /* U+FFFD for what is not UTF-8, and for lone surrogates */
    int64_t line_no;          /* 1-based, for messages; 0 when not known */

    /* Results of scan_line(). */
    enum scan_kind kind;
    int64_t value; /* offset of the text's first byte, or of the bracket or brace; -1: not found */
    int64_t value_end; /* of chats and bodies: behind the value */
    bool has_id;       /* may also be true after an error */
    struct sbuf id;    /* NUL-terminated; without NUL inside */

    /* Private. */
    bool ids_begun;
    size_t n_keys;
    bool saw_custom_id, saw_body;
    int64_t body, body_end; /* where a body is; -1: not an object */
    struct sbuf names;      /* the first few keys, for messages */
    uint64_t key_hash[SCAN_KEYS];
    char piece[SCAN_KEY_BYTES + 4];
};

void scan_fini(struct scan *s); /* the buffers inside, not *s */

/* Checks the line from the cursor, which stands at its first byte that is not white space, and
 * moves behind its newline (or to the end of the file). Errors: E_FORMAT (the cursor is then
 * somewhere inside the line, not behind its newline), E_IO, E_NOMEM. */
enum status scan_line(struct scan *s, struct err *e) WARN_UNUSED;

/* The next whole code points of a text, at most cap (>= 4) bytes; out == NULL only checks. `quoted`
 * texts are JSON strings, the cursor behind the opening quote; others go to the end of the file.
 * *done: nothing follows, and the cursor is behind it. Errors: E_FORMAT, E_IO. */
enum status scan_text(struct scan *s, bool quoted, char *out, size_t cap, size_t *n, bool *done,
                      struct err *e) WARN_UNUSED;

/* The next ids of an array, at most cap; out == NULL only checks. Begin with scan_ids_begin(), the
 * cursor at the opening bracket. *done: nothing follows, and the cursor is behind the closing
 * bracket. Errors: E_FORMAT, E_IO. */
void scan_ids_begin(struct scan *s);
enum status scan_ids(struct scan *s, int32_t *out, size_t cap, size_t *n, bool *done,
                     struct err *e) WARN_UNUSED;

/* The next bytes of a chat or body from the cursor on, at most cap; *n is 0 at its end. Errors: E_IO. */
enum status scan_json(struct scan *s, char *out, size_t cap, size_t *n, struct err *e) WARN_UNUSED;

/* Skips spaces, tabs and carriage returns; *byte is the first other byte, -1 at the end. */
enum status scan_space(struct scan *s, int *byte, struct err *e) WARN_UNUSED;

/* E_FORMAT with "SOURCE: byte OFFSET (line N): " in front. */
enum status scan_fail(const struct scan *s, int64_t offset, struct err *e, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

#endif
