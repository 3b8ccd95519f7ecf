/* What a stream remembers of its document beside the cache. */
#include "core/stream_impl.h"

#include "base/mem.h"

#include <string.h>

void stream_how_init(struct stream_how *how) {
    *how = (struct stream_how){.contrastive_window = STREAM_CONTRAST_WINDOW};
    samp_neutral(&how->samp);
}

static enum status check_ids(const char *name, const int32_t *ids, int n, int64_t n_vocab,
                             struct err *e) {
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= n_vocab)
            return err_fail(e, E_ARG, "%s: token id %d is outside the vocabulary of %lld", name,
                            (int)ids[i], (long long)n_vocab);
    return OK;
}

enum status stream_how_check(const struct stream_how *how, int64_t n_vocab, struct err *e) {
    enum status st = samp_check(&how->samp, n_vocab, e);
    if (st != OK) return st;
    if (how->max_new < 1) return err_fail(e, E_ARG, "max_new_tokens must be at least 1");
    if (how->min_new < 0 || how->min_new > how->max_new)
        return err_fail(e, E_ARG, "min_new_tokens must be 0 to max_new_tokens");
    if (how->n_eos < 0 || how->n_stop < 0 || how->n_eos > STREAM_MOST_STOP - how->n_stop)
        return err_fail(e, E_ARG, "stop_token_ids: more than %d ids", STREAM_MOST_STOP);
    if (how->n_logprob < 0 || how->n_logprob > SAMP_MOST_TOP)
        return err_fail(e, E_ARG, "logprobs must be 0 to %d", SAMP_MOST_TOP);
    if (!(how->penalty_alpha >= 0 && how->penalty_alpha <= 1))
        return err_fail(e, E_ARG, "penalty_alpha must be 0 to 1, is %g", how->penalty_alpha);
    if (how->contrastive_window < 1)
        return err_fail(e, E_ARG, "contrastive_window must be at least 1");
    if (how->first_step < 0) return err_fail(e, E_ARG, "first_step must be at least 0");
    if (stream_contrastive(how) && (how->samp.top_k < 2 || how->samp.top_k > SAMP_MOST_TOP))
        return err_fail(e, E_ARG, "penalty_alpha: contrastive search needs a top_k of 2 to %d",
                        SAMP_MOST_TOP);
    if (stream_contrastive(how) && how->samp.temperature != 0)
        return err_fail(e, E_ARG, "penalty_alpha: contrastive search takes no temperature");
    st = check_ids("eos", how->eos, how->n_eos, n_vocab, e);
    return st != OK ? st : check_ids("stop_token_ids", how->stop, how->n_stop, n_vocab, e);
}

enum status stream_past_open(struct stream_past **out, const struct model_on *mo,
                             const struct stream_how *how, struct err *e) {
    enum status st = OK;
    struct stream_past *p = NULL;
    *out = NULL;
    TRY(mem_zalloc(&p, 1, sizeof *p, e));
    p->mo = mo;
    p->window = stream_contrastive(how) ? how->contrastive_window : 0;
    TRY(samp_seen_open(&p->seen, &how->samp, model_arch(mo->model)->n_vocab, e));
    *out = p;
    p = NULL;
done:
    stream_past_close(p);
    return st;
}

void stream_past_close(struct stream_past *p) {
    if (p == NULL) return;
    samp_seen_close(p->seen);
    buf_free(p->hidden);
    mem_free(p);
}

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

// Room for `need` rows in all, at most the window.
static enum status grow(struct stream_past *p, int64_t need, struct err *e) {
    enum status st = OK;
    struct buf *bigger = NULL;
    const int64_t have = p->hidden != NULL ? buf_rows(p->hidden) : 0;
    need = min64(need, p->window);
    if (need <= have) return OK;
    const int64_t cap = min64(p->window, need > 2 * have ? need + 64 : 2 * have);
    TRY(buf_new(&bigger, p->mo->dev, BUF_ACT, cap, model_arch(p->mo->model)->d_model, e));
    if (have > 0) { // below the window, so that rows lie in order
        dev_copy(p->mo->dev, bigger, 0, p->hidden, 0, min64(p->n_hidden, have));
        TRY(dev_sync(p->mo->dev, e));
    }
    buf_free(p->hidden);
    p->hidden = bigger;
    bigger = NULL;
done:
    buf_free(bigger);
    return st;
}

enum status stream_past_hidden(struct stream_past *p, struct dev *from, const struct buf *x,
                               int64_t row, int64_t n, struct err *e) {
    enum status st = OK;
    if (p->window == 0) return OK;
    if (n > p->window) { // only the last ones will be there in the end
        p->n_hidden += n - p->window;
        row += n - p->window;
        n = p->window;
        TRY(grow(p, p->window, e));
    }
    TRY(grow(p, p->n_hidden + n, e));
    while (n > 0) {
        const int64_t at = p->n_hidden % p->window, rows = min64(n, p->window - at);
        dev_copy_peer(p->mo->dev, p->hidden, at, from, x, row, rows);
        p->n_hidden += rows;
        row += rows;
        n -= rows;
    }
done:
    return st;
}

enum status stream_past_add(struct stream_past *p, const struct span *sp, int64_t row,
                            const int32_t *ids, int64_t n, struct err *e) {
    enum status st = OK;
    samp_seen_prompt(p->seen, ids, n);
    if (p->window > 0) {
        TRY(stream_past_hidden(p, span_device(sp), span_hidden(sp), row, n, e));
        TRY(dev_sync(p->mo->dev, e));
    }
done:
    return st;
}

/* ---- saved: what has been seen; int64 n_hidden, then the rows that are kept, as they lie ---- */

enum status stream_past_save(const struct stream_past *p, struct sbuf *out, struct err *e) {
    enum status st = OK;
    char *rows = NULL;
    const int64_t n = min64(p->n_hidden, p->window);
    samp_seen_save(p->seen, out);
    sbuf_add(out, &p->n_hidden, sizeof p->n_hidden);
    if (n > 0) {
        const size_t bytes = (size_t)n * buf_row_bytes(p->hidden);
        TRY(mem_zalloc(&rows, bytes, 1, e));
        dev_read(p->mo->dev, p->hidden, 0, n, rows);
        TRY(dev_sync(p->mo->dev, e));
        sbuf_add(out, rows, bytes);
    }
    TRY(sbuf_status(out, e));
done:
    mem_free(rows);
    return st;
}

enum status stream_past_restore(struct stream_past *p, const char *bytes, size_t n, size_t *used,
                                struct err *e) {
    enum status st = OK;
    size_t at = 0;
    int64_t n_hidden = 0;
    TRY(samp_seen_restore(p->seen, bytes, n, &at, e));
    if (n - at < sizeof n_hidden) FAIL(e, E_FORMAT, "saved stream: cut short");
    memcpy(&n_hidden, bytes + at, sizeof n_hidden);
    at += sizeof n_hidden;
    if (n_hidden < 0 || (n_hidden > 0 && p->window == 0) || n_hidden > INT64_MAX / 8)
        FAIL(e, E_FORMAT, "saved stream: bad number of hidden states");
    const int64_t rows = min64(n_hidden, p->window);
    if (rows > 0) {
        // Against the bytes before memory is taken: an element is at least 4 bytes.
        if ((n - at) / 4 / (size_t)model_arch(p->mo->model)->d_model < (size_t)rows)
            FAIL(e, E_FORMAT, "saved stream: cut short");
        TRY(grow(p, rows, e));
        const size_t row_bytes = buf_row_bytes(p->hidden);
        if ((n - at) / row_bytes < (size_t)rows) FAIL(e, E_FORMAT, "saved stream: cut short");
        dev_write(p->mo->dev, p->hidden, 0, rows, bytes + at);
        TRY(dev_sync(p->mo->dev, e));
        at += (size_t)rows * row_bytes;
    }
    p->n_hidden = n_hidden;
    *used = at;
done:
    return st;
}
