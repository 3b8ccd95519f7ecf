/* tokenizer.json and tokenizer_config.json (Hugging Face) as plain structs, validated.
 *
 * The struct also describes tokenizers that come from elsewhere (a GGUF's metadata, SentencePiece's
 * tokenizer.model, tiktoken): what is said below about `model` and what follows it.
 *
 * Read: BPE models, byte-level or of characters. Checked here: types, ids (unique, 0 .. 2^24),
 * every merge names two tokens of the vocabulary whose joined text is a token too, added tokens
 * have the ids that the `tokenizers` library would give them, and no setting is present that would
 * change ids without being understood: such a one is refused by name.
 *
 * Normalizers and pre-tokenizers come as flat lists: a Sequence applies its members one after the
 * other, so nesting carries no meaning.
 *
 * All strings are UTF-8 with a length (a token may hold NUL) and die with the struct. */
#ifndef BASIN_IO_TOKJSON_H
#define BASIN_IO_TOKJSON_H

#include "base/err.h"
#include "base/hash.h"

enum { TOKJSON_MAX_BYTES = 256 << 20, TOKJSON_MAX_ID = 1 << 24 };

struct tokjson_str {
    const char *s; /* borrowed: from the struct that holds it */
    size_t n;
};

/* What turns a piece of text into tokens. */
enum tokjson_model {
    TOKJSON_BYTES,  /* BPE over bytes written as byte-level characters; merges */
    TOKJSON_CHARS,  /* BPE over characters; merges */
    TOKJSON_SCORES, /* BPE over characters; neighbours join when they form a token, the one of the
                       highest score first */
    TOKJSON_UNIGRAM /* the sequence of tokens of the highest sum of scores */
};

enum tokjson_kind {
    TOKJSON_NORMAL,
    TOKJSON_BYTE,    /* "<0x41>": stands for a byte of a character without a token */
    TOKJSON_USER,    /* found in the text before anything else */
    TOKJSON_UNUSED,  /* never produced */
    TOKJSON_RESERVED /* control tokens, unknown: only an added token of that id is found in a text */
};

struct tokjson_token {
    struct tokjson_str text; /* as in the file: bytes written as byte-level characters */
    int32_t id;
    enum tokjson_kind kind; /* not for TOKJSON_BYTES */
    float score;            /* TOKJSON_SCORES, TOKJSON_UNIGRAM */
};

struct tokjson_merge { /* ids; the index in the list is the rank */
    int32_t left;
    int32_t right;
    int32_t made;
};

struct tokjson_added {
    struct tokjson_str text;
    int32_t id;
    bool single_word;
    bool lstrip;
    bool rstrip;
    bool normalized;
    bool special;
};

enum tokjson_norm_kind {
    TOKJSON_NFC,
    TOKJSON_NFD,
    TOKJSON_NFKC,
    TOKJSON_NFKD,
    TOKJSON_LOWERCASE,
    TOKJSON_PREPEND,  /* content */
    TOKJSON_REPLACE,  /* pattern, a plain string, by content */
    TOKJSON_CHARSMAP, /* content is a table of SentencePiece: see io/spmodel.h */
    TOKJSON_SQUEEZE   /* spaces at both ends go, of several in a row one stays */
};

struct tokjson_norm {
    enum tokjson_norm_kind kind;
    struct tokjson_str pattern;
    struct tokjson_str content;
};

enum tokjson_pre_kind {
    TOKJSON_BYTE_LEVEL,
    TOKJSON_SPLIT,
    TOKJSON_DIGITS,
    TOKJSON_PUNCTUATION,
    TOKJSON_WHITESPACE,
    TOKJSON_WHITESPACE_SPLIT
};

enum tokjson_behavior {
    TOKJSON_ISOLATED,
    TOKJSON_REMOVED,
    TOKJSON_CONTIGUOUS,
    TOKJSON_MERGED_WITH_PREVIOUS,
    TOKJSON_MERGED_WITH_NEXT
};

struct tokjson_pre {
    enum tokjson_pre_kind kind;
    enum tokjson_behavior behavior; /* split, punctuation */
    struct tokjson_str pattern;     /* split */
    bool is_regex;                  /* split: Oniguruma syntax, or a plain string */
    bool invert;                    /* split */
    bool add_prefix_space;          /* byte level */
    bool use_regex;                 /* byte level */
    bool individual_digits;         /* digits */
    char place[64];                 /* "$.pre_tokenizer.pretokenizers[0]", for messages */
};

/* Whether a space is put in front of a piece, behind the normalizers. */
enum tokjson_prefix {
    TOKJSON_PREFIX_NONE,
    TOKJSON_PREFIX_ALWAYS,
    TOKJSON_PREFIX_UNLESS_THERE, /* not where the piece begins with one */
    TOKJSON_PREFIX_FIRST         /* the same, and only at the beginning of the document */
};

struct tokjson {
    enum tokjson_model model;
    struct tokjson_token *tokens; /* owned [n_tokens]; in file order */
    size_t n_tokens;
    struct tokjson_merge *merges; /* owned [n_merges] */
    size_t n_merges;
    struct tokjson_added *added; /* owned [n_added] */
    size_t n_added;
    struct tokjson_norm *norms; /* owned [n_norms] */
    size_t n_norms;
    struct tokjson_pre *pres; /* owned [n_pres] */
    size_t n_pres;
    bool ignore_merges;
    bool rank_by_token; /* a merge's rank is the id it makes, not its index */
    /* TOKJSON_BYTES: bytes without a token yield nothing and join nothing, or are as if they were
     * not in the text; else a vocabulary without them is an error. */
    bool byte_gaps, byte_drops;

    /* All models but TOKJSON_BYTES: */
    int32_t unk;        /* for characters without a token; -1: they yield nothing */
    bool byte_fallback; /* but their bytes' tokens where all of them are there */
    bool fuse_unk;      /* one `unk` for a run of such characters */
    bool spaced;        /* U+2581 in tokens and texts means a space */
    bool split_spaces;  /* each space begins a piece */
    enum tokjson_prefix prefix;
    bool strip_space; /* a text is decoded without the space it begins with */

    int32_t bos;   /* id put first when adds_bos; otherwise the configured one, or -1 */
    int32_t eos;   /* or -1 */
    bool adds_bos; /* add_bos_token where it is given, else the post-processor's template */
    char identity[HASH_TEXT];
    void *keep;  /* owned: what the strings of tokenizer.json live in */
    char *texts; /* owned: what those of another source live in, each with a NUL behind it */
};

/* Reads DIR/tokenizer.json, or vocab.json and merges.txt of a GPT2Tokenizer, and, when there is one,
 * DIR/tokenizer_config.json.
 * Errors: E_NOINPUT, E_IO, E_NOMEM; E_FORMAT and E_UNSUPPORTED as "FILE:LINE: $.path: what". */
enum status tokjson_open(struct tokjson **out, const char *model_dir, struct err *e) WARN_UNUSED;
void tokjson_close(struct tokjson *t);

/* The byte that a token named "<0x41>" stands for, -1 for any other text. */
int tokjson_byte_of(struct tokjson_str text);

/* Text to number, open addressing; the texts are borrowed. */
struct tokjson_map {
    struct {
        struct tokjson_str key;
        int32_t value;
    } * slots;
    size_t cap; /* power of two, at least twice the number of entries */
};
enum status tokjson_map_init(struct tokjson_map *m, size_t n, struct err *e) WARN_UNUSED;
void tokjson_map_fini(struct tokjson_map *m);
void tokjson_map_put(struct tokjson_map *m, struct tokjson_str key, int32_t value);
int32_t tokjson_map_get(const struct tokjson_map *m, const char *s, size_t n); /* -1: none */

#endif
