/* Corpora: the documents of input files, as streams in constant memory.
 *
 * A .txt file is one document. A line of a .jsonl file is one document: a JSON object with a text
 * or an array of token ids under a given key, perhaps an id. Neither a document, a line nor an
 * array of ids is ever held whole: a file costs one buffer of 256 KiB and some 40 KiB of state; a
 * compressed one two buffers and two decoders (io/unpack.h).
 *
 * Failures are of two kinds. A document that is not what it should be is E_FORMAT: its `doc` is
 * filled in, and corpus_next() goes on with the document behind it. Anything else (E_IO, E_NOINPUT,
 * E_NOMEM) is a failure of the file or the machine: corpus_next() may be tried again and then finds
 * the same document; after a failed read, corpus_seek() to the document's offset comes first.
 * Messages read "SOURCE: byte OFFSET (line N): what"; the line is left out where a slice does not
 * know it.
 *
 * JSON lines: RFC 8259, UTF-8 (a byte order mark in front of the file is skipped), CRLF allowed,
 * blank lines skipped, the last newline optional; see io/scan_impl.h for the limits. Text files:
 * every byte is content, a byte order mark too.
 *
 * Compressed files are read as their content: offsets are bytes of it. Where it ends before its
 * time (cut short, damaged, a bomb: io/unpack.h) the document in hand fails with E_FORMAT, or, when
 * none is, a document that stands for the rest, at the offset where that would begin; it is the
 * last. Lines in front of it are good, as far as a checksum that comes behind can tell.
 *
 * A struct corpus belongs to one thread at a time. */
#ifndef BASIN_IO_CORPUS_H
#define BASIN_IO_CORPUS_H

#include "base/sbuf.h"
#include "io/unpack.h"

enum corpus_kind { CORPUS_TXT, CORPUS_JSONL };

enum corpus_utf8 {
    CORPUS_UTF8_FAIL,   /* bytes that are not UTF-8 fail their document */
    CORPUS_UTF8_REPLACE /* each maximal ill-formed sequence (and each lone surrogate escape) becomes
                           U+FFFD, as with Python's errors="replace" */
};

/* A file, or a slice of it. Strings are borrowed: they outlive the corpus. */
struct corpus_file {
    const char *path;         /* to open; for messages only when fd >= 0 */
    const char *source;       /* as rows show it */
    int fd;                   /* -1: open `path`; else borrowed, seekable, read with pread() */
    enum unpack_kind packing; /* not UNPACK_NONE: the file is compressed */
    int64_t size;       /* as planned: the file ends here even if it has grown, and one that has
                           shrunk is E_IO; -1: its size when opened */
    int64_t begin, end; /* JSONL: the lines whose first byte lies in [begin, end); end -1: `size`.
                           TXT: 0 and -1 or `size`. Compressed: 0 and -1 */
    enum corpus_kind kind;
    const char *text_key;     /* JSONL: NULL is "text" */
    const char *id_key;       /* JSONL: NULL: lines have no id */
    const char *ids_key;      /* JSONL: not NULL: token ids are read, not text */
    const char *messages_key; /* JSONL: not NULL: a line may have a chat there instead of a text */
    bool batch;               /* JSONL: a line may be one of an OpenAI batch: custom_id and body */
    enum corpus_utf8 invalid_utf8;
    size_t buffer_bytes; /* 0: 256 KiB; tests make it small (at least 12) */
};

struct corpus_doc {
    const char *id;     /* borrowed until the next call: the value under id_key (a number as it is
                           written), else (none, or behind the fault of a failed line)
                           source#offset; the source for TXT */
    const char *source; /* borrowed from the corpus_file */
    int64_t offset;     /* of the byte at which the line begins; 0 for TXT */
    bool is_ids;
    bool is_json, is_body; /* neither text nor ids: a chat, or the body of a batch's line */
};

struct corpus; /* opaque */

/* Errors: E_ARG (slice out of order, buffer too small), E_NOINPUT (cannot be opened, not a regular
 * file), E_IO (shorter than planned), E_NOMEM. */
enum status corpus_open(struct corpus **out, const struct corpus_file *f,
                        struct err *e) WARN_UNUSED;
void corpus_close(struct corpus *c);

/* Moves to the next document, past whatever was not read of the present one. *end is set instead
 * when there is none. Errors: E_FORMAT (this document), E_IO, E_NOMEM. */
enum status corpus_next(struct corpus *c, struct corpus_doc *doc, bool *end,
                        struct err *e) WARN_UNUSED;

/* Makes the line that begins at `offset` the next document (0 for TXT), e.g. the offset of a
 * document seen before. What is read then is the same as without: where a slice knows its lines'
 * numbers, which is where it begins at 0, all that lies in front is read to count them. A compressed
 * file is decompressed up to there. Errors: E_ARG (outside the slice), E_FORMAT (no line begins
 * there), E_IO, E_NOMEM. */
enum status corpus_seek(struct corpus *c, int64_t offset, struct err *e) WARN_UNUSED;

/* The next bytes of the document's text: whole code points, valid UTF-8, at most cap (>= 4) bytes.
 * *n is 0 at its end only. A TXT document may fail here after bytes were handed out; a JSONL
 * document has been checked by corpus_next(). Errors: E_FORMAT, E_IO (also: the file was changed
 * meanwhile), E_ARG (no text document is open, cap too small). */
enum status corpus_read_text(struct corpus *c, char *buf, size_t cap, size_t *n,
                             struct err *e) WARN_UNUSED;

/* The next token ids, 0 .. 2^31 - 1, at most cap (>= 1). As corpus_read_text otherwise. */
enum status corpus_read_ids(struct corpus *c, int32_t *ids, size_t cap, size_t *n,
                            struct err *e) WARN_UNUSED;

/* Appends the document's chat or body: the bytes of one JSON value, at most 4 MiB. Errors: E_IO,
 * E_ARG (neither is open), E_NOMEM. */
enum status corpus_read_json(struct corpus *c, struct sbuf *out, struct err *e) WARN_UNUSED;

/* How far reading has come, for progress: bytes of the file itself, of a compressed one the
 * compressed ones. Up to a buffer more than was handed out. */
int64_t corpus_place(const struct corpus *c);

/* Copies what can still be read from descriptor `from` (a pipe, a terminal) to a file without a
 * name in the directory `dir`. *fd is owned by the caller; give it to corpus_file with *size.
 * Constant memory. stop (may be NULL) is asked several times a second while nothing comes.
 * Errors: E_OUTPUT (nothing can be created in `dir`), E_IO, E_CANCEL (asked to stop). */
struct corpus_stop {
    bool (*asked)(void *ctx);
    void *ctx;
};
enum status corpus_spool(int from, const char *dir, const struct corpus_stop *stop, int *fd,
                         int64_t *size, struct err *e) WARN_UNUSED;

/* The kind a path's suffix names, in front of .gz, .zst or .lz4 (unpack_kind_of()). `keys_given`:
 * the manifest names a text_key or ids_key, which makes JSON lines of an unknown suffix. Errors:
 * E_UNSUPPORTED (.bz2, .xz, .zip, ...), E_ARG (unknown suffix). */
enum status corpus_kind_of(const char *path, bool keys_given, enum corpus_kind *kind,
                           struct err *e) WARN_UNUSED;

/* Files that patterns have matched. Zeroed is the empty list. */
struct corpus_match {
    char *source; /* owned: in the form of the pattern, so relative to base_dir unless absolute */
    char *path;   /* owned: the same file, to be opened from the working directory */
    int64_t bytes;
};
struct corpus_list {
    struct corpus_match *v; /* owned */
    size_t n, cap;
};
void corpus_list_fini(struct corpus_list *list);

/* Appends the files that `pattern` (relative to base_dir) matches, in bytewise order of `source`,
 * each once. Directories are passed over, links that lead nowhere are an error.
 *
 *   ?      one character       [a-z] [!a-z]  one character of (not of) a set; a [ never closed is
 *   *      any characters                    itself
 *   **     as a whole component: any number of directories, none included, not through symbolic
 *          links; as the last one: every file below
 *
 * Wildcards match neither '/' nor a leading '.'. A file whose name is exactly the pattern is that
 * file, wildcards or not. Repeated slashes and a trailing one count as one and none.
 * Errors: E_NOINPUT (no such file, no match, a directory, a directory that cannot be read),
 * E_NOMEM; the list is as before then. */
enum status corpus_glob(const char *pattern, const char *base_dir, struct corpus_list *list,
                        struct err *e) WARN_UNUSED;

#endif
