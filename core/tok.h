/* Tokenizers, as a stream: byte-level BPE, BPE of characters and unigram models, from
 * tokenizer.json, SentencePiece's tokenizer.model, Qwen 1's qwen.tiktoken or a GGUF's metadata.
 *
 * Bytes of a document go in, cut anywhere, and ids come out, in bounded memory: exactly the ids
 * that the library of that format gives for the whole text (`tokenizers`, `sentencepiece`,
 * `tiktoken`, llama.cpp with special tokens parsed), without the special tokens that a post-processor puts
 * around it (see tok_adds_bos).
 *
 *   struct tok is constant after opening: any number of threads may share it.
 *   struct tok_stream belongs to one thread; it borrows its struct tok.
 *
 * Some text cannot be cut before more of it is known: a run of one class of characters is a single
 * word to most patterns. Time stays linear in its length; memory grows with it, about 7 bytes per
 * byte (20 where normalization changes every character), up to TOK_MAX_STRETCH, beyond which the
 * document fails. */
#ifndef BASIN_CORE_TOK_H
#define BASIN_CORE_TOK_H

#include "base/err.h"

enum { TOK_MAX_STRETCH = 16 << 20 };

struct tok;        /* opaque */
struct tok_stream; /* opaque */

/* Reads a GGUF file (the metadata only: one without tensors will do), or of a directory, besides
 * tokenizer_config.json when there is one, the first that is there: tokenizer.json,
 * tokenizer.model, qwen.tiktoken, its one GGUF model.
 * Errors: E_NOINPUT, E_IO, E_NOMEM, E_FORMAT, E_UNSUPPORTED (names what is not understood). */
enum status tok_open(struct tok **out, const char *path, struct err *e) WARN_UNUSED;
void tok_close(struct tok *t);

const char *tok_kind(const struct tok *t); /* static, for people: "byte-level BPE" */
int32_t tok_n_vocab(const struct tok *t);  /* highest id + 1 */
int32_t tok_bos(const struct tok *t);      /* -1 when there is none */
int32_t tok_eos(const struct tok *t);      /* -1 when there is none */

/* Whether the tokenizer's own configuration puts tok_bos() before a text: `add_bos_token` where it
 * is given, else a post-processor that puts a special token first. */
bool tok_adds_bos(const struct tok *t);

/* XXH128 (32 hex digits) of what was read: the vocabulary's file and the settings used
 * from tokenizer_config.json, or the entries used of a GGUF. */
const char *tok_identity(const struct tok *t);

/* The bytes that `id` stands for, *n of them: those of its byte-level characters, its name with
 * spaces in place of U+2581, or an added token's content. A text is decoded by joining its pieces
 * and leaving out tok_decode_skip() bytes in front if they are spaces; one piece may end inside a
 * code point.
 * NULL for an id the tokenizer does not have. Borrowed from t. */
const char *tok_borrow_piece(const struct tok *t, int32_t id, size_t *n);
/* Spaces that the tokenizer puts in front of a text and decoding takes away: 0 or 1. */
size_t tok_decode_skip(const struct tok *t);
bool tok_is_special(const struct tok *t, int32_t id); /* an added token marked special */

enum status tok_stream_open(struct tok_stream **out, const struct tok *t,
                            struct err *e) WARN_UNUSED;
void tok_stream_close(struct tok_stream *s);
/* Makes the stream as new, ready for another document. */
void tok_stream_reset(struct tok_stream *s);

/* The next n bytes of the document. Errors: E_FORMAT (not UTF-8, by byte offset), E_UNSUPPORTED (a
 * stretch that cannot be split passes TOK_MAX_STRETCH, by byte offset), E_NOMEM. After an error
 * only reset and close are meaningful. */
enum status tok_feed(struct tok_stream *s, const char *bytes, size_t n, struct err *e) WARN_UNUSED;
/* The document ends here; everything can be taken afterwards. Errors: as tok_feed. */
enum status tok_finish(struct tok_stream *s, struct err *e) WARN_UNUSED;

/* Moves out up to `cap` ids in order, returns how many.
 *   ids       i32 [cap] written
 *   end_bytes i64 [cap] written, may be NULL; bytes of the document covered once the id is taken:
 *             not decreasing, the document's length for the last one. Where normalization changed
 *             the text, the end of the changed piece. */
size_t tok_take(struct tok_stream *s, int32_t *ids, int64_t *end_bytes, size_t cap);

/* Bytes and symbols looked at by all steps so far: what a test of linear time counts. */
int64_t tok_work(const struct tok_stream *s);

/* Bytes of memory the stream holds now. */
size_t tok_stream_bytes(const struct tok_stream *s);

#endif
