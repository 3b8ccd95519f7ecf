#include "base/mem.h"
#include "base/num.h"
#include "cmd/cmd.h"
#include "cmd/env.h"
#include "cmd/exit.h"
#include "cmd/out.h"
#include "core/tok.h"
#include "io/corpus.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PIECE_BYTES = 1 << 16, PIECE_IDS = 1 << 12 };

struct options {
    bool no_special, decode;
    const char *text_key, *id_key;
};

#define AT(member) offsetof(struct options, member)
static const struct cmd_option table[] = {
    {.name = "no-special",
     .kind = CMD_FLAG,
     .offset = AT(no_special),
     .help = "without BOS; with --decode, without special tokens"},
    {.name = "decode",
     .kind = CMD_FLAG,
     .offset = AT(decode),
     .help = "from ids to text: lines {\"token_ids\":[..]}, or numbers between\nwhite space"},
    {.name = "text-key",
     .value = "KEY",
     .kind = CMD_TEXT,
     .offset = AT(text_key),
     .help = "JSON lines: where the text is (default \"text\")"},
    {.name = "id-key",
     .value = "KEY",
     .kind = CMD_TEXT,
     .offset = AT(id_key),
     .help = "JSON lines: where the id is (default \"id\")"},
};

struct work {
    const struct options *o;
    const char *tmp_dir;
    struct tok *tok;
    struct tok_stream *stream;
    struct cmd_out out;
    char *piece;   /* owned [PIECE_BYTES] */
    int32_t *ids;  /* owned [PIECE_IDS] */
    size_t skip;   /* spaces still to leave out of the document being decoded: 0 or 1 */
    int64_t n_doc; /* begun */
    int64_t n_failed;
};

static enum status put(struct work *w, const char *s, size_t n, struct err *e) {
    return cmd_out_write(&w->out, s, n, e);
}

/* ---- text to ids ---- */

static enum status put_ids(struct work *w, const int32_t *ids, size_t n, bool *any, struct err *e) {
    enum status st = OK;
    char text[1024];
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (*any) text[at++] = ',';
        at += num_int(ids[i], text + at);
        *any = true;
        if (at + 1 + NUM_TEXT <= sizeof text && i + 1 < n) continue;
        TRY(put(w, text, at, e));
        at = 0;
    }
done:
    return st;
}

static enum status put_ready(struct work *w, bool *any, struct err *e) {
    enum status st = OK;
    for (size_t n = 0; (n = tok_take(w->stream, w->ids, NULL, PIECE_IDS)) > 0;) {
        TRY(put_ids(w, w->ids, n, any, e));
    }
done:
    return st;
}

static enum status put_head(struct work *w, const struct corpus_doc *doc, struct err *e) {
    struct sbuf b;
    sbuf_init(&b);
    sbuf_puts(&b, "{\"id\":");
    sbuf_json_string(&b, doc->id, strlen(doc->id));
    sbuf_puts(&b, ",\"token_ids\":[");
    enum status st = sbuf_status(&b, e);
    if (st == OK) st = put(w, b.s, b.n, e);
    sbuf_fini(&b);
    return st;
}

// One document's line, written as its ids come: memory does not grow with it.
static enum status encode_document(struct work *w, struct corpus *c, const struct corpus_doc *doc,
                                   struct err *e) {
    enum status st = OK;
    bool any = false;
    const int32_t bos = tok_bos(w->tok);
    tok_stream_reset(w->stream);
    TRY(put_head(w, doc, e));
    if (!w->o->no_special && tok_adds_bos(w->tok) && bos >= 0) TRY(put_ids(w, &bos, 1, &any, e));
    for (;;) {
        size_t n = 0;
        TRY(corpus_read_text(c, w->piece, PIECE_BYTES, &n, e));
        if (n == 0) break;
        TRY(tok_feed(w->stream, w->piece, n, e));
        TRY(put_ready(w, &any, e));
    }
    TRY(tok_finish(w->stream, e));
    TRY(put_ready(w, &any, e));
    TRY(put(w, "]}", 2, e));
done:
    return st;
}

/* ---- ids to text ---- */

static enum status put_pieces(struct work *w, const int32_t *ids, size_t n, struct err *e) {
    enum status st = OK;
    for (size_t i = 0; i < n; i++) {
        size_t len = 0;
        const char *s = tok_borrow_piece(w->tok, ids[i], &len);
        if (s == NULL) FAIL(e, E_FORMAT, "the tokenizer has no id %" PRId32, ids[i]);
        if (w->o->no_special && tok_is_special(w->tok, ids[i])) continue;
        if (w->skip > 0 && len > 0) { // the space that encoding put in front of the text
            const size_t skip = *s == ' ' ? 1 : 0;
            s += skip;
            len -= skip;
            w->skip = 0;
        }
        TRY(put(w, s, len, e));
    }
done:
    return st;
}

static enum status decode_document(struct work *w, struct corpus *c, struct err *e) {
    enum status st = OK;
    w->skip = tok_decode_skip(w->tok);
    for (;;) {
        size_t n = 0;
        TRY(corpus_read_ids(c, w->ids, PIECE_IDS, &n, e));
        if (n == 0) break;
        TRY(put_pieces(w, w->ids, n, e));
    }
done:
    return st;
}

// Numbers between white space: the whole file is one document.
static enum status decode_numbers(struct work *w, int fd, const char *name, struct err *e) {
    enum status st = OK;
    int64_t v = -1, at = 0; // v: the number being read, -1 between numbers
    w->skip = tok_decode_skip(w->tok);
    for (;;) {
        const ssize_t n = pread(fd, w->piece, PIECE_BYTES, at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            st = err_errno(e, E_IO, errno, "%s: cannot read byte %" PRId64, name, at);
            goto done;
        }
        for (ssize_t i = 0; i < n || (n == 0 && i == 0); i++) {
            const char c = n == 0 ? ' ' : w->piece[i]; // the end of the file ends a number
            if (c >= '0' && c <= '9') {
                v = (v < 0 ? 0 : v * 10) + (c - '0');
            } else if (c != ' ' && c != '\n' && c != '\t' && c != '\r') {
                FAIL(e, E_FORMAT, "%s: byte %" PRId64 ": not a token id", name, at + i);
            } else if (v >= 0) {
                const int32_t id = (int32_t)v;
                TRY(put_pieces(w, &id, 1, e));
                v = -1;
            }
            if (v > INT32_MAX)
                FAIL(e, E_FORMAT, "%s: byte %" PRId64 ": id too large", name, at + i);
        }
        if (n == 0) break;
        at += n;
    }
done:
    return st;
}

static bool begins_with_brace(int fd) {
    char c = ' ';
    for (int64_t at = 0; pread(fd, &c, 1, at) == 1; at++) {
        if (c != ' ' && c != '\n' && c != '\t' && c != '\r') return c == '{';
    }
    return false;
}

/* ---- files ---- */

// A document that fails is said and left behind; anything else ends the command. What was written
// of its line stays a line that no JSON reader takes for a whole one.
static enum status judge(struct work *w, enum status st, const char *source, const char *id,
                         struct err *e) {
    if (st != E_FORMAT && st != E_UNSUPPORTED) return st;
    cmd_say_about(id, source, e->msg);
    w->n_failed++;
    e->code = OK;
    e->msg[0] = '\0';
    return OK;
}

static enum status do_documents(struct work *w, const struct corpus_file *f, struct err *e) {
    enum status st = OK;
    struct corpus *c = NULL;
    const bool decode = w->o->decode;
    TRY(corpus_open(&c, f, e));
    for (;;) {
        struct corpus_doc doc = {.id = NULL};
        bool end = false;
        st = corpus_next(c, &doc, &end, e);
        if (st == OK && end) break;
        const bool begun = st == OK;
        if (begun && decode && w->n_doc++ > 0) TRY(put(w, "\n", 1, e));
        if (begun) st = decode ? decode_document(w, c, e) : encode_document(w, c, &doc, e);
        TRY(judge(w, st, f->source, doc.id, e));
        if (begun && !decode) TRY(put(w, "\n", 1, e));
    }
done:
    corpus_close(c);
    return st;
}

// path: what to open, "-" for stdin; source: its name in rows.
static enum status do_file(struct work *w, const char *path, const char *source, struct err *e) {
    enum status st = OK;
    struct corpus_file f = {.path = path, .source = source, .fd = -1, .size = -1, .end = -1};
    const bool from_stdin = strcmp(path, "-") == 0;
    if (from_stdin) {
        TRY(corpus_spool(STDIN_FILENO, w->tmp_dir, NULL, &f.fd, &f.size, e));
    } else if (w->o->decode) {
        f.fd = open(path, O_RDONLY | O_CLOEXEC);
        if (f.fd < 0) {
            st = err_errno(e, E_NOINPUT, errno, "%s: cannot be opened", path);
            goto done;
        }
    }
    f.packing = from_stdin ? unpack_kind_of_fd(f.fd) : unpack_kind_of(path);
    if (w->o->decode && f.packing == UNPACK_NONE && !begins_with_brace(f.fd)) {
        if (w->n_doc++ > 0) TRY(put(w, "\n", 1, e));
        TRY(judge(w, decode_numbers(w, f.fd, source, e), source, source, e));
        goto done;
    }
    const bool keys = w->o->text_key != NULL;
    if (w->o->decode) {
        f.kind = CORPUS_JSONL;
    } else if (from_stdin) {
        f.kind = keys ? CORPUS_JSONL : CORPUS_TXT;
    } else {
        TRY(corpus_kind_of(path, keys, &f.kind, e));
    }
    f.text_key = w->o->text_key;
    f.id_key = w->o->id_key != NULL ? w->o->id_key : "id";
    f.ids_key = w->o->decode ? "token_ids" : NULL;
    TRY(do_documents(w, &f, e));
done:
    if (f.fd >= 0) close(f.fd);
    return st;
}

static enum status do_all(struct work *w, char **operands, int n, struct err *e) {
    enum status st = OK;
    struct corpus_list files = {.v = NULL};
    TRY(tok_open(&w->tok, operands[0], e));
    TRY(tok_stream_open(&w->stream, w->tok, e));
    TRY(mem_alloc64(&w->piece, PIECE_BYTES, 1, e));
    TRY(mem_alloc64(&w->ids, PIECE_IDS, sizeof *w->ids, e));
    if (n == 1) TRY(do_file(w, "-", "-", e));
    for (int i = 1; i < n; i++) {
        if (strcmp(operands[i], "-") == 0) {
            TRY(do_file(w, "-", "-", e));
            continue;
        }
        const size_t first = files.n;
        TRY(corpus_glob(operands[i], ".", &files, e));
        for (size_t k = first; k < files.n; k++) {
            TRY(do_file(w, files.v[k].path, files.v[k].source, e));
        }
    }
done:
    corpus_list_fini(&files);
    return st;
}

static int tokenize_main(const struct cmd_sub *self, int argc, char **argv) {
    struct options o = {.decode = false};
    struct cmd_env env;
    struct work w = {.o = &o};
    struct err e = {.code = OK};
    int n = 0, code = 0;
    if (!cmd_args_read(&self->args, argc, argv, &o, &n, &code)) return code;
    cmd_env_read(&env);
    w.tmp_dir = env.tmp_dir;
    const enum status st = do_all(&w, argv, n, &e);
    if (w.n_failed > 0) code = CMD_EXIT_SOME_FAILED;
    if (st != OK && !w.out.gone && !w.out.failed) {
        (void)!cmd_out_flush(&w.out, NULL);
        code = cmd_fail(&e, CMD_FROM_JOB);
    }
    mem_free(w.piece);
    mem_free(w.ids);
    tok_stream_close(w.stream);
    tok_close(w.tok);
    return cmd_out_end(&w.out, code);
}

const struct cmd_sub cmd_tokenize = {
    .args =
        {
            .name = "tokenize",
            .operands = "MODEL [FILE...]",
            .min_operands = 1,
            .max_operands = -1,
            .summary = "texts to token ids, {\"id\",\"token_ids\"} a line, and back with --decode",
            .about =
                "MODEL is a .gguf file (one with only a vocabulary will do), or a directory with\n"
                "tokenizer.json, tokenizer.model, qwen.tiktoken, vocab.json with merges.txt or a\n"
                ".gguf in it: the first of these is taken.\n"
                "FILE is .txt, .jsonl (each also .gz, .zst or .lz4) or a pattern; without one, or\n"
                "with -, stdin is read, compressed or not. The lines are themselves an input "
                "(\"ids_key\":\n"
                "\"token_ids\"). BOS is put in front where the tokenizer is configured so.\n",
            .examples = "  basin tokenize models/smol book.txt > ids.jsonl\n"
                        "  echo 'It was a dark night' | basin tokenize models/smol\n"
                        "  basin tokenize models/smol ids.jsonl --decode --no-special\n"
                        "  echo '1 2 3' | basin tokenize models/smol --decode\n",
            .options = table,
            .n_option = COUNTOF(table),
        },
    .main = tokenize_main,
};
