/* Private to core/tok*.c.
 *
 * A stream is a chain of stages. Each receives pieces of text (spans, then end) and hands smaller
 * or changed pieces to the next; the last one turns a piece into ids:
 *
 *   added tokens in raw text > normalizers > added tokens in normalized text > splits > BPE
 *
 * The last one is tok_bpe for byte-level models, tok_sp for all others.
 *
 * A stage may pass on the beginning of a piece before it knows its end, and keeps only the text it
 * cannot decide about yet. Each span carries the place in the document it came from. */
#ifndef BASIN_CORE_TOK_IMPL_H
#define BASIN_CORE_TOK_IMPL_H

#include "base/hash.h"
#include "base/sbuf.h"
#include "core/tok.h"
#include "io/tokjson.h"

#include <pcre2.h>

/* ---- text with places ---- */

enum tok_place {
    TOK_LINEAR, /* byte for byte as in the document */
    TOK_BLOCK,  /* rewritten as a whole: only its end has a place in the document */
    TOK_LOOSE   /* inserted, or part of a block: not even its end has */
};

struct tok_span {
    const char *s; /* borrowed for the call */
    size_t n;
    int64_t raw; /* document offset behind the last byte (or of the block's end) */
    enum tok_place place;
};

struct tok_run {
    uint64_t end; /* counted from the first byte ever appended */
    int64_t raw;
    enum tok_place place;
    uint32_t unit;     /* blocks of this many bytes each, ... */
    uint32_t raw_unit; /* ... that stand for so many bytes of the document; 0 while there is one */
};

/* Text not yet passed on; indices count from the oldest byte kept. Zeroed is empty. */
struct tok_text {
    char *s; /* owned */
    size_t head, tail, cap;
    uint64_t dropped;     /* bytes dropped so far */
    struct tok_run *runs; /* owned */
    size_t run_head, run_at, n_runs, runs_cap;
};
void tok_text_fini(struct tok_text *t);
void tok_text_clear(struct tok_text *t);
enum status tok_text_add(struct tok_text *t, struct tok_span v, struct err *e) WARN_UNUSED;
void tok_text_drop(struct tok_text *t, size_t n);
static inline const char *tok_text_at(const struct tok_text *t) {
    return t->s != NULL ? t->s + t->head : NULL; // NULL + 0 is undefined in C
}
static inline size_t tok_text_n(const struct tok_text *t) {
    return t->tail - t->head;
}
/* The longest span of one place that begins at `from` and ends by `to`. */
struct tok_span tok_text_span(struct tok_text *t, size_t from, size_t to);
/* text[from, to) as one span; of text that comes from several places only the end is known. */
struct tok_span tok_text_joined(struct tok_text *t, size_t from, size_t to);
/* The bytes [from, to) of a span. */
struct tok_span tok_span_cut(struct tok_span v, size_t from, size_t to);
/* Where the text before index i ends in the document; *exact: i has a place of its own. */
int64_t tok_text_raw(struct tok_text *t, size_t i, bool *exact);

/* ---- stages ---- */

struct tok_stage;
struct tok_stage_ops {
    enum status (*push)(struct tok_stage *, struct tok_span, struct err *);
    enum status (*whole)(struct tok_stage *, struct tok_span, struct err *); /* push + end */
    enum status (*end)(struct tok_stage *, struct err *);
};

struct tok_stage {
    const struct tok_stage_ops *ops;
    struct tok_stage *next; /* borrowed: from the stream; NULL for the last */
    struct tok_stream *stream;
    const void *conf;        /* borrowed: from struct tok; what it is depends on the ops */
    struct tok_text text;    /* owned */
    size_t pos;              /* text before it has been passed on */
    size_t look;             /* text before it has been decided about */
    size_t want;             /* bytes behind `look` needed before the next try */
    int flag;                /* split: -1 at the start of a piece, else was the last part a match */
    size_t last_match;       /* regex: where the last match ended, SIZE_MAX for none */
    bool open;               /* split: a part has been begun but not ended */
    bool was_word;           /* added: the character before the kept text is a word character */
    bool swallow;            /* added: white space here belongs to the token before */
    bool begun;              /* prefix, sp: the piece has begun */
    bool past;               /* prefix: the document's first piece has ended */
    uint32_t last_cp;        /* sp: the code point before `look` */
    pcre2_match_data *match; /* owned; regex */
};

/* The generic ones; `whole` for stages without a shortcut. */
enum status tok_stage_whole(struct tok_stage *g, struct tok_span v, struct err *e) WARN_UNUSED;
/* Passes text[from, to) on, without ending the piece. */
enum status tok_stage_send(struct tok_stage *g, size_t from, size_t to, struct err *e) WARN_UNUSED;

/* Passes `by` on in place of text[from, to). */
enum status tok_stage_replace(struct tok_stage *g, size_t from, size_t to, struct tokjson_str by,
                              struct err *e) WARN_UNUSED;
/* `end` of a stage that keeps nothing back. */
enum status tok_stage_pass_end(struct tok_stage *g, struct err *e) WARN_UNUSED;

extern const struct tok_stage_ops tok_added_ops;    /* conf: struct tok_added */
extern const struct tok_stage_ops tok_form_ops;     /* conf: struct tok_form */
extern const struct tok_stage_ops tok_lower_ops;    /* conf: none */
extern const struct tok_stage_ops tok_prefix_ops;   /* conf: struct tok_prefix */
extern const struct tok_stage_ops tok_replace_ops;  /* conf: struct tokjson_norm */
extern const struct tok_stage_ops tok_class_ops;    /* conf: struct tok_split */
extern const struct tok_stage_ops tok_regex_ops;    /* conf: struct tok_split */
extern const struct tok_stage_ops tok_charsmap_ops; /* conf: struct tok_charsmap */
extern const struct tok_stage_ops tok_squeeze_ops;  /* conf: none */
extern const struct tok_stage_ops tok_bpe_ops;      /* conf: none */
extern const struct tok_stage_ops tok_filter_ops;   /* conf: none */
extern const struct tok_stage_ops tok_sp_ops;       /* conf: none */

/* ---- added tokens ---- */

struct tok_added {
    struct tok_trie_node *nodes; /* owned; [0] is the root */
    size_t n_nodes, nodes_cap;
    struct tokjson_added *tokens; /* owned; text borrowed from the tokjson or from `arena` */
    size_t n_tokens;
    bool first[256]; /* bytes that begin a token */
    bool any_lstrip;
    bool any_single_word;
};
enum status tok_added_init(struct tok_added *a, size_t n_max, struct err *e) WARN_UNUSED;
void tok_added_fini(struct tok_added *a);
/* `text` is the form to match; on equal forms the first one added wins. */
enum status tok_added_put(struct tok_added *a, const struct tokjson_added *token, const char *text,
                          size_t n, struct err *e) WARN_UNUSED;
/* The longest token at s[0..n): its index in a->tokens, its length in *len. When further text could
 * make one: TOK_ADDED_MORE, unless this is the `last` of the text. */
enum { TOK_ADDED_NONE = -1, TOK_ADDED_MORE = -2 };
int32_t tok_added_longest(const struct tok_added *a, const char *s, size_t n, bool last,
                          size_t *len);

/* ---- normalizers ---- */

struct tok_form {    /* a Unicode normalization form */
    int options;     /* utf8proc's */
    uint8_t *starts; /* owned; bit per code point: normalization never reaches back across it */
    uint8_t *inert;  /* owned; bit per code point: alone it stays as it is */
};
enum status tok_form_init(struct tok_form *f, enum tokjson_norm_kind kind,
                          struct err *e) WARN_UNUSED;
void tok_form_fini(struct tok_form *f);

struct tok_prefix { /* text put before a piece */
    const char *s;  /* borrowed */
    size_t n;
    bool unless_there; /* not if the piece begins with it */
    bool first;        /* only in front of the document's first piece */
};

/* SentencePiece's table of replacements; see io/spmodel.h for its form. */
struct tok_charsmap {
    uint32_t *units; /* owned [n_units]; a double array: where keys lead */
    size_t n_units;
    const char *texts; /* borrowed [n_texts]; what is put in their place, NUL behind each */
    size_t n_texts;
    bool plain[128];              /* ASCII that stays as it is, whatever ASCII follows */
    const struct tok_added *user; /* borrowed: texts that stay as they are */
};
enum status tok_charsmap_init(struct tok_charsmap *c, struct tokjson_str table,
                              const struct tok_added *user, struct err *e) WARN_UNUSED;
void tok_charsmap_fini(struct tok_charsmap *c);

/* ---- splits ---- */

struct tok_regex {
    pcre2_code *code;   /* owned */
    bool jit;           /* both kinds of match are compiled */
    size_t look_behind; /* code points a match may look back */
    struct tok_begin {
        bool alone;       /* a match can begin with this ASCII character ... */
        bool before[128]; /* ... and go on with that one */
    } * begins;           /* owned [128]; NULL until tok_regex_find_begins */
};
/* Appends the pattern, which is in Oniguruma's syntax, in PCRE2's. Errors: as tok_regex_init. */
enum status tok_regex_rewrite(const char *pattern, size_t n, struct sbuf *out,
                              struct err *e) WARN_UNUSED;
/* Compiles a pattern in Oniguruma's syntax, or a plain string. Errors: E_UNSUPPORTED names the construct; E_FORMAT. */
enum status tok_regex_init(struct tok_regex *r, const char *pattern, size_t n, bool literal,
                           bool bytes, struct err *e) WARN_UNUSED;
/* Fills r->begins, for patterns that look at many small pieces. */
enum status tok_regex_find_begins(struct tok_regex *r, struct err *e) WARN_UNUSED;
void tok_regex_fini(struct tok_regex *r);

enum tok_class { TOK_CLASS_DIGIT, TOK_CLASS_PUNCTUATION, TOK_CLASS_SPACE, TOK_CLASS_WORD };

struct tok_split {
    enum tokjson_behavior behavior;
    bool invert;
    bool bytes; /* behind ByteLevel: each byte is a character (see tok_byte_char) */
    enum tok_class cls;
    struct tok_regex re; /* owned; code is NULL for class splits */
    int8_t quick[256];   /* class of ASCII, or of every byte with `bytes`; -1: look it up */
};
void tok_class_init(struct tok_split *p);

/* ---- Unicode ---- */

uint32_t tok_byte_char(unsigned char byte); /* the character that stands for a byte */
int tok_char_byte(uint32_t cp);             /* and back; -1 for any other */
bool tok_is_space(uint32_t cp);             /* White_Space */
bool tok_is_word(uint32_t cp);              /* \w of Rust's regex */
int tok_class_of(enum tok_class c, uint32_t cp);
/* Ranges that Unicode assigned to a general category after the version 14 of older PCRE2. */
struct tok_range {
    uint32_t first, last;
};
const struct tok_range *tok_newer_ranges(const char *category, size_t *n);

/* ---- BPE ---- */

struct tok_pair {
    int32_t left, right;
    uint32_t rank;
    int32_t made;
};

struct tok_piece {
    uint32_t at;
    uint32_t n; /* UINT32_MAX: no such id */
};

/* ---- models of characters ---- */

/* Symbols are what joining works on: ids of tokens, and behind them (from n_vocab on) characters
 * that occur in tokens but are none, and last `unknown`, any character that occurs in no token.
 *
 * A cut between two characters is safe when no token holds the two side by side: then no join, and
 * no token of a unigram path, ever lies across it, and what stands left and right of it are
 * encoded independently. Words are the text between such cuts. */
struct tok_chars {
    int32_t ascii[128]; /* symbols */
    struct tok_char {
        uint32_t cp;
        int32_t symbol; /* -1: free */
    } * by_cp;          /* owned; open addressing */
    size_t cp_mask;
    uint8_t joined_ascii[128][16]; /* bit per pair */
    uint64_t *joined; /* owned; pairs first << 32 | second, 0 is free; open addressing */
    size_t joined_mask;
    size_t max_piece; /* bytes of the longest token */
    int32_t unknown;
    int32_t byte_token[256]; /* -1: none */
    struct tok_added user;   /* texts that are tokens wherever they stand */
};
enum status tok_chars_init(struct tok *t, struct err *e) WARN_UNUSED;
void tok_chars_fini(struct tok_chars *c);
/* What a token's name stands for, to out[n]: U+2581 is a space when `spaced`. Returns the length. */
size_t tok_chars_piece(const char *s, size_t n, bool spaced, char *out);
/* Symbols of s[0..n), at most n; returns how many. */
size_t tok_chars_symbols(const struct tok_chars *c, const char *s, size_t n, int32_t *out);
/* Whether a cut between a and b is safe. */
bool tok_chars_cut(const struct tok_chars *c, uint32_t a, uint32_t b);

struct tok_trie_edge {
    uint64_t key; /* node << 8 | byte, plus 1; 0: free */
    uint32_t to;
};
struct tok_unigram {
    struct tok_trie_edge *edges; /* owned; open addressing */
    size_t mask;
    int32_t *token; /* owned [n_nodes]; -1: none ends here */
    float *score;   /* owned [n_vocab] */
    size_t n_nodes, n_pieces;
    float unknown; /* score of a character without a token */
};
enum status tok_unigram_init(struct tok *t, struct err *e) WARN_UNUSED;
void tok_unigram_fini(struct tok_unigram *u);
/* The best path through text; symbols go behind s->out_tail, *n of them. */
enum status tok_unigram_encode(struct tok_stream *s, const char *text, size_t n, size_t *n_ids,
                               struct err *e) WARN_UNUSED;

struct tok {
    struct tokjson *json; /* owned; borrowed by several members */
    int32_t n_vocab;
    int32_t n_symbols;        /* n_vocab, or more: see struct tok_chars */
    struct tok_piece *pieces; /* owned [n_symbols, and one more] */
    char *arena;              /* owned; bytes of the pieces */
    uint8_t *special;         /* owned [n_vocab] */

    int32_t byte_id[256];   /* n_vocab: none */
    struct tok_pair *pairs; /* owned; open addressing, left = -1 is free */
    size_t pair_mask;
    int pair_shift;
    int32_t *words; /* owned; ignore_merges: ids by the hash of their bytes, -1 is free */
    size_t word_mask;

    struct tok_chars chars;     /* zero for TOKJSON_BYTES */
    struct tok_unigram unigram; /* zero but for TOKJSON_UNIGRAM */
    struct tok_charsmap charsmap;
    struct tok_prefix space; /* the space in front of pieces; n = 0 for none */

    struct tok_added raw_added;
    struct tok_added norm_added;
    struct tok_form *forms;      /* owned [n_norms]; those of other kinds stay zero */
    struct tok_prefix *prefixes; /* owned [n_norms]; likewise */
    struct tok_split *splits;    /* owned [n_splits] */
    size_t n_splits;
    bool prefix_space;
    size_t prefix_before; /* the space goes in front of this split */
    bool drops;           /* what has no token is as if it were not in the text */
};

struct tok_cached {
    uint8_t n, n_ids;
    char key[30];
    int32_t ids[8];
};

struct tok_bpe {              /* work space of a stream */
    struct tok_cached *cache; /* owned [TOK_CACHE] */
    int32_t *block;           /* owned; result of the last block */
    size_t n_block, block_cap;
    char *block_text; /* owned; what it was the result of */
    size_t block_n, block_text_cap;
    uint64_t *heap; /* owned */
    size_t heap_cap;
    struct tok_symbol *symbols; /* owned */
    size_t symbols_cap;
    int32_t *spare; /* owned; symbols of a word while its ids are written */
    size_t spare_cap;
    double *best; /* owned; unigram: a ring of scores */
    size_t best_cap;
    uint16_t *back; /* owned; unigram: how long the last token of the best path to a place is */
    size_t back_cap;
};
enum { TOK_CACHE = 1 << 14 };
enum status tok_bpe_init(struct tok *t, struct err *e) WARN_UNUSED;
/* An empty table of pairs with room for n; of a pair put twice the last one counts. */
enum status tok_pairs_init(struct tok *t, size_t n, struct err *e) WARN_UNUSED;
void tok_pairs_put(struct tok *t, struct tok_pair pair);
/* A table of the tokens that are words by themselves, with room for n. */
enum status tok_words_init(struct tok *t, size_t n, struct err *e) WARN_UNUSED;
void tok_words_put(struct tok *t, int32_t id);
int32_t tok_words_get(const struct tok *t, const char *s, size_t n); /* -1: none */
/* The symbols of one word: *symbols is borrowed until the stream changes, and may lie at
 * s->ids + s->out_tail. */
enum status tok_encode(struct tok_stream *s, const char *text, size_t n, const int32_t **symbols,
                       size_t *n_symbols, struct err *e) WARN_UNUSED;
enum status tok_bpe_stage_init(struct tok_bpe *b, struct err *e) WARN_UNUSED;
void tok_bpe_stage_reset(struct tok_bpe *b);
void tok_bpe_stage_fini(struct tok_bpe *b);
size_t tok_bpe_bytes(const struct tok_bpe *b);

/* ---- the stream ---- */

/* An id ends where the one before it ends plus the length of its piece, except where a mark says
 * otherwise: so ids of one long word cost 4 bytes each, not 12. */
struct tok_mark {
    int64_t id; /* counted from the first id of the document */
    int64_t raw;
};

struct tok_stream {
    const struct tok *t;      /* borrowed */
    struct tok_stage *stages; /* owned [n_stages] */
    size_t n_stages;
    struct tok_bpe bpe;
    pcre2_match_context *match_context; /* owned */
    pcre2_jit_stack *jit_stack;         /* owned; NULL without JIT */
    int32_t *ids; /* owned; [out_head, out_tail) are produced and not yet taken */
    size_t out_head, out_tail, ids_cap;
    int64_t n_taken;        /* ids taken so far */
    int64_t taken_end;      /* place of the last id taken */
    int64_t out_end;        /* place of the last id produced */
    struct tok_mark *marks; /* owned; the places that do not follow from lengths, oldest first */
    size_t mark_head, mark_tail, marks_cap;
    int64_t fed;  /* bytes passed to the first stage */
    char held[4]; /* a code point the last feed cut */
    size_t n_held;
    bool unk_last; /* sp: the id emitted last is `unk`, and the text goes on behind it */
    bool finished;
    enum status failed;
    int64_t work;
    struct tok_text *collect; /* borrowed; when set, text before the added tokens goes there */
};

/* One id that ends at `raw`. */
enum status tok_emit(struct tok_stream *s, int32_t id, int64_t raw, struct err *e) WARN_UNUSED;
/* The ids of a word that lies in the document byte for byte, the last one ending at `raw`; `ids`
 * may be s->ids + s->out_tail. */
enum status tok_emit_word(struct tok_stream *s, const int32_t *ids, size_t n, int64_t start,
                          int64_t raw, struct err *e) WARN_UNUSED;
/* The last id covers what is before `raw` too; there is one that has not been taken. */
enum status tok_emit_more(struct tok_stream *s, int64_t raw, struct err *e) WARN_UNUSED;
enum status tok_too_long(int64_t raw, struct err *e);
/* Runs `text` through the normalizers; the result is appended to *out. */
enum status tok_normalize(const struct tok *t, const char *text, size_t n, struct tok_text *out,
                          struct err *e) WARN_UNUSED;
/* Memory for PCRE2, through base/mem.h. */
pcre2_general_context *tok_pcre_memory(void);

/* ---- where tokenizers come from ---- */

/* From a GGUF's metadata; the file is closed again. Errors: as gguf_open, and E_FORMAT,
 * E_UNSUPPORTED as "PATH: KEY: what". */
enum status tok_read_gguf(struct tokjson **out, const char *path, struct err *e) WARN_UNUSED;
/* From DIR/tokenizer.model and, when there is one, DIR/tokenizer_config.json. */
enum status tok_read_spmodel(struct tokjson **out, const char *dir, struct err *e) WARN_UNUSED;

/* From `path`, a qwen.tiktoken: nothing else of Qwen 1 that describes its tokenizer is data. */
enum status tok_read_tiktoken(struct tokjson **out, const char *path, struct err *e) WARN_UNUSED;

/* How a GGUF's `tokenizer.ggml.pre` cuts text into words: each pattern cuts what the ones before it
 * left, matches and what lies between them becoming pieces. */
struct tok_pre {
    const char *name;
    const char *const *patterns; /* NULL behind the last one */
    bool ignore_merges;
    bool add_bos; /* where the file does not say */
};
const struct tok_pre *tok_pre_get(const char *name, size_t n); /* NULL: unknown */

#endif
