#include "jobs/doc.h"

#include "base/mem.h"

#include <string.h>

enum { READ_BYTES = 65536, TAKE_IDS = 8192 };

enum status doc_new(struct doc **out, const struct corpus_doc *from, int slice, int n_setting,
                    struct err *e) {
    enum status st = OK;
    struct doc *d = NULL;
    *out = NULL;
    TRY(mem_zalloc(&d, 1, sizeof *d, e));
    TRY(mem_dup(&d->id, from->id, strlen(from->id), e));
    TRY(mem_zalloc(&d->tracks, (size_t)n_setting, sizeof *d->tracks, e));
    d->n_setting = n_setting;
    d->source = from->source;
    d->offset = from->offset;
    d->is_ids = from->is_ids;
    d->slice = slice;
    *out = d;
    d = NULL;
done:
    doc_free(d);
    return st;
}

void doc_free(struct doc *d) {
    if (d == NULL) return;
    for (int i = 0; d->tracks != NULL && i < d->n_setting; i++) {
        cache_close(d->tracks[i].cache);
        mem_free(d->tracks[i].logp);
    }
    mem_free(d->tracks);
    mem_free(d->block_ids);
    mem_free(d->id);
    mem_free(d);
}

enum status doc_open_block(struct doc *d, struct err *e) {
    enum status st = OK;
    if (d->block_ids != NULL) goto done;
    for (int i = 0; i < d->n_setting; i++) {
        if (d->tracks[i].logp != NULL) continue;
        TRY(mem_zalloc(&d->tracks[i].logp, DOC_BLOCK, sizeof(double), e));
    }
    TRY(mem_zalloc(&d->block_ids, DOC_BLOCK, sizeof *d->block_ids, e));
done:
    return st;
}

enum status doc_reader_init(struct doc_reader *r, const struct tok *tok, const struct manifest *man,
                            bool add_bos, struct err *e) {
    enum status st = OK;
    memset(r, 0, sizeof *r);
    r->tok = tok;
    r->man = man;
    r->add_bos = add_bos;
    if (tok != NULL) TRY(tok_stream_open(&r->stream, tok, e));
    TRY(hash_open(&r->hash, e));
    TRY(mem_zalloc(&r->ends, TAKE_IDS, sizeof *r->ends, e));
done:
    return st;
}

void doc_reader_fini(struct doc_reader *r) {
    tok_stream_close(r->stream);
    hash_close(r->hash);
    mem_free(r->queue);
    mem_free(r->ends);
    mem_free(r->text);
    memset(r, 0, sizeof *r);
}

static void begin(struct doc_reader *r, struct corpus *c, struct doc *d) {
    r->corpus = c;
    r->given = NULL;
    r->n_given = r->given_pos = 0;
    r->doc = d;
    r->n_queue = 0;
    r->n_text = 0;
    r->text_pos = 0;
    r->text_ended = false;
    hash_reset(r->hash);
}

static enum status begin_text(struct doc_reader *r, bool bos, struct err *e) {
    enum status st = OK;
    tok_stream_reset(r->stream);
    if (!bos) goto done;
    TRY(mem_grow(&r->queue, &r->cap_queue, 1, sizeof *r->queue, e));
    r->queue[r->n_queue++] = tok_bos(r->tok);
    r->doc->n_tok = 1;
    r->doc->bos = true;
done:
    return st;
}

enum status doc_reader_begin(struct doc_reader *r, struct corpus *c, struct doc *d, struct err *e) {
    begin(r, c, d);
    return d->is_ids ? OK : begin_text(r, r->add_bos, e); // ids are used exactly as they stand
}

enum status doc_reader_begin_text(struct doc_reader *r, struct doc *d, const char *text, size_t n,
                                  bool bos, struct err *e) {
    begin(r, NULL, d);
    r->given = text;
    r->n_given = n;
    return begin_text(r, bos, e);
}

enum status doc_reader_begin_ids(struct doc_reader *r, struct doc *d, const int32_t *ids, size_t n,
                                 struct err *e) {
    enum status st = OK;
    begin(r, NULL, d);
    d->is_ids = true;
    d->ended = true;
    d->n_tok = (int64_t)n;
    TRY(mem_grow(&r->queue, &r->cap_queue, n, sizeof *r->queue, e));
    memcpy(r->queue, ids, n * sizeof *ids);
    r->n_queue = n;
done:
    return st;
}

// The document's own failures end it; anything else is the caller's.
static enum status own_failure(struct doc *d, enum status st, const struct err *why,
                               struct err *e) {
    if (st == E_FORMAT || st == E_UNSUPPORTED || st == E_ARG) {
        d->failure = *why;
        d->ended = true;
        return OK;
    }
    return err_fail(e, st, "%s", why->msg);
}

// Text up to `end` (an offset in the document) is covered by accepted tokens: count and hash it.
static void cover(struct doc_reader *r, int64_t end) {
    const size_t n = (size_t)(end - r->text_pos);
    CHECK(end >= r->text_pos && n <= r->n_text);
    utf8_count(&r->doc->counts, r->text, n);
    hash_add(r->hash, r->text, n);
    memmove(r->text, r->text + n, r->n_text - n);
    r->n_text -= n;
    r->text_pos = end;
}

static void finish(struct doc_reader *r) {
    r->doc->ended = true;
    if (!r->doc->is_ids) hash_text(r->hash, r->doc->text_hash);
}

// How many of n ids the limit lets in. Seeing one more than it lets in is how truncation is known.
static size_t admit(struct doc_reader *r, size_t n) {
    struct doc *d = r->doc;
    const int64_t limit = r->man->score.limit_tokens;
    if (limit > 0 && (int64_t)n > limit - d->n_tok) {
        d->truncated = true;
        n = (size_t)(limit - d->n_tok);
    }
    d->n_tok += (int64_t)n;
    r->n_queue += n;
    return n;
}

static enum status read_text(struct doc_reader *r, char *at, size_t *got, struct err *e) {
    if (r->corpus != NULL) return corpus_read_text(r->corpus, at, READ_BYTES, got, e);
    *got = r->n_given - r->given_pos < READ_BYTES ? r->n_given - r->given_pos : READ_BYTES;
    memcpy(at, r->given + r->given_pos, *got);
    r->given_pos += *got;
    return OK;
}

static enum status fill_text(struct doc_reader *r, struct err *e) {
    enum status st = OK;
    struct doc *d = r->doc;
    struct err why = {0};
    TRY(mem_grow(&r->queue, &r->cap_queue, r->n_queue + TAKE_IDS, sizeof *r->queue, e));
    const size_t n = tok_take(r->stream, r->queue + r->n_queue, r->ends, TAKE_IDS);
    if (n > 0) {
        const size_t taken = admit(r, n);
        if (taken > 0) cover(r, r->ends[taken - 1]);
        if (d->truncated) finish(r);
        goto done;
    }
    if (r->text_ended) {
        cover(r, r->text_pos + (int64_t)r->n_text); // text that no token stands for
        finish(r);
        goto done;
    }
    TRY(mem_grow(&r->text, &r->cap_text, r->n_text + READ_BYTES, 1, e));
    size_t got = 0;
    char *at = r->text + r->n_text;
    st = read_text(r, at, &got, &why);
    if (st == OK && got > 0) st = tok_feed(r->stream, at, got, &why);
    if (st == OK && got == 0) {
        st = tok_finish(r->stream, &why);
        r->text_ended = true;
    }
    if (st != OK) TRY(own_failure(d, st, &why, e));
    r->n_text += got;
    st = OK;
done:
    return st;
}

static enum status fill_ids(struct doc_reader *r, struct err *e) {
    enum status st = OK;
    struct err why = {0};
    size_t got = 0;
    TRY(mem_grow(&r->queue, &r->cap_queue, r->n_queue + TAKE_IDS, sizeof *r->queue, e));
    st = corpus_read_ids(r->corpus, r->queue + r->n_queue, TAKE_IDS, &got, &why);
    if (st != OK) {
        TRY(own_failure(r->doc, st, &why, e));
        st = OK;
        goto done;
    }
    admit(r, got);
    if (got == 0 || r->doc->truncated) finish(r);
done:
    return st;
}

enum status doc_reader_fill(struct doc_reader *r, size_t want, struct err *e) {
    enum status st = OK;
    while (!r->doc->ended && r->n_queue < want) {
        TRY(r->doc->is_ids ? fill_ids(r, e) : fill_text(r, e));
    }
done:
    return st;
}

void doc_reader_advance(struct doc_reader *r, size_t n) {
    memmove(r->queue, r->queue + n, (r->n_queue - n) * sizeof *r->queue);
    r->n_queue -= n;
}
