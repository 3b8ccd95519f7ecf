/* SentencePiece's tokenizer.model: pieces, scores and settings as a plain struct, validated.
 *
 * The file is one protocol buffer message (sentencepiece_model.proto). Fields in any order, each a
 * varint key (number << 3 | wire type) and a value: 0 varint, 1 eight bytes, 2 varint length and
 * bytes, 5 four bytes. Read, all others skipped:
 *
 *   ModelProto       1 pieces (message, repeated)   2 trainer_spec   3 normalizer_spec
 *   SentencePiece    1 piece (string)   2 score (float)   3 type (varint: 1 normal, 2 unknown,
 *                    3 control, 4 user defined, 5 unused, 6 byte)
 *   TrainerSpec      3 model_type (1 unigram, 2 BPE, 3 word, 4 char)   24 treat_whitespace_as_suffix
 *                    35 byte_fallback   40 unk_id   41 bos_id   42 eos_id
 *   NormalizerSpec   1 name   2 precompiled_charsmap   3 add_dummy_prefix
 *                    4 remove_extra_whitespaces   5 escape_whitespaces
 *
 * precompiled_charsmap is empty (nothing is replaced) or: u32 (little-endian) bytes of a double
 * array, that array of u32 units (darts-clone: which keys there are, each with an offset), and
 * texts with a NUL behind each; a key found in a text, the longest one, is replaced by the text at
 * its offset.
 *
 * Limits: 256 MiB, 2^24 pieces, pieces of 65535 bytes. */
#ifndef BASIN_IO_SPMODEL_H
#define BASIN_IO_SPMODEL_H

#include "base/err.h"
#include "base/hash.h"

enum { SPMODEL_MAX_BYTES = 256 << 20, SPMODEL_MAX_PIECES = 1 << 24, SPMODEL_MAX_PIECE = 65535 };

enum spmodel_piece_type {
    SPMODEL_NORMAL = 1,
    SPMODEL_UNKNOWN,
    SPMODEL_CONTROL,
    SPMODEL_USER,
    SPMODEL_UNUSED,
    SPMODEL_BYTE
};
enum spmodel_type { SPMODEL_UNIGRAM = 1, SPMODEL_BPE, SPMODEL_WORD, SPMODEL_CHAR };

struct spmodel_piece {
    const char *s; /* borrowed: from the model; UTF-8, no NUL behind it */
    size_t n;      /* at least 1 */
    float score;   /* finite */
    enum spmodel_piece_type type;
};

struct spmodel {
    struct spmodel_piece *pieces; /* owned [n_pieces]; the index is the id */
    size_t n_pieces;
    enum spmodel_type type;
    int32_t unk, bos, eos; /* inside 0..n_pieces-1, or -1: none */
    bool byte_fallback;
    bool suffix_spaces; /* treat_whitespace_as_suffix */
    bool dummy_prefix, squeeze_spaces, escape_spaces;
    const char *charsmap; /* borrowed: from the model [n_charsmap] */
    size_t n_charsmap;
    char norm_name[64];
    unsigned char *keep; /* owned: the file */
};

/* Reads the file and, into *h, its bytes. Errors: E_NOINPUT, E_IO, E_NOMEM; E_FORMAT as
 * "PATH: byte N: what" or "PATH: piece N: what". */
enum status spmodel_open(struct spmodel **out, const char *path, struct hash *h,
                         struct err *e) WARN_UNUSED;
void spmodel_close(struct spmodel *m);

#endif
