#include "io/spmodel.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "io/fmap.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NOT_GIVEN = -2 };

/* ---- fields ---- */

struct part {                  // a message inside the file
    const unsigned char *base; // the file
    size_t at, end;
    const char *path;
    struct err *e;
};

struct field {
    uint32_t number;
    unsigned wire;
    uint64_t value;  // wire 0, 1, 5
    struct part sub; // wire 2
    size_t at;       // where it begins, for messages
};

static enum status bad(const struct part *p, size_t at, const char *what) {
    return err_fail(p->e, E_FORMAT, "%s: byte %zu: %s", p->path, at, what);
}

static enum status varint(struct part *p, uint64_t *out) {
    const size_t from = p->at;
    *out = 0;
    for (unsigned shift = 0; p->at < p->end; shift += 7) {
        const uint64_t byte = p->base[p->at++];
        if (shift == 63 && byte > 1) return bad(p, from, "a number of more than 64 bits");
        *out |= (byte & 0x7F) << shift;
        if (byte < 0x80) return OK;
    }
    return bad(p, from, "a number that is cut short");
}

static enum status fixed(struct part *p, size_t n, uint64_t *out) {
    if (n > p->end - p->at) return bad(p, p->at, "a number that is cut short");
    *out = 0;
    for (size_t i = 0; i < n; i++) *out |= (uint64_t)p->base[p->at + i] << 8 * i;
    p->at += n;
    return OK;
}

static enum status next_field(struct part *p, struct field *f) {
    enum status st = OK;
    uint64_t key, n;
    f->at = p->at;
    TRY(varint(p, &key));
    f->number = (uint32_t)(key >> 3);
    f->wire = (unsigned)(key & 7);
    if (key >> 3 == 0 || key >> 3 > 0x1FFFFFFF) {
        st = bad(p, f->at, "a field without a valid number");
        goto done;
    }
    switch (f->wire) {
    case 0: TRY(varint(p, &f->value)); break;
    case 1: TRY(fixed(p, 8, &f->value)); break;
    case 5: TRY(fixed(p, 4, &f->value)); break;
    case 2:
        TRY(varint(p, &n));
        if (n > p->end - p->at) {
            st = bad(p, f->at, "a field that reaches behind the end");
            goto done;
        }
        f->sub = (struct part){p->base, p->at, p->at + (size_t)n, p->path, p->e};
        p->at += (size_t)n;
        break;
    default: st = bad(p, f->at, "a field of unknown kind"); goto done;
    }
done:
    return st;
}

// Fields that are read have one kind each.
static enum status want(const struct part *p, const struct field *f, unsigned wire) {
    return f->wire == wire ? OK : bad(p, f->at, "a field of the wrong kind");
}

/* ---- messages ---- */

static enum status read_piece(struct spmodel *m, struct part p) {
    enum status st = OK;
    struct field f;
    struct spmodel_piece *k = &m->pieces[m->n_pieces];
    const size_t at = p.at;
    *k = (struct spmodel_piece){.type = SPMODEL_NORMAL};
    while (p.at < p.end) {
        TRY(next_field(&p, &f));
        if (f.number == 1) {
            TRY(want(&p, &f, 2));
            k->s = (const char *)p.base + f.sub.at;
            k->n = f.sub.end - f.sub.at;
        } else if (f.number == 2) {
            TRY(want(&p, &f, 5));
            const uint32_t bits = (uint32_t)f.value;
            memcpy(&k->score, &bits, sizeof k->score);
        } else if (f.number == 3) {
            TRY(want(&p, &f, 0));
            if (f.value < SPMODEL_NORMAL || f.value > SPMODEL_BYTE) {
                st = bad(&p, f.at, "an unknown type of piece");
                goto done;
            }
            k->type = (enum spmodel_piece_type)f.value;
        }
    }
    bool cut;
    if (k->n == 0) {
        st = bad(&p, at, "a piece without text");
    } else if (k->n > SPMODEL_MAX_PIECE) {
        st = bad(&p, at, "a piece of more than 65535 bytes");
    } else if (utf8_valid_prefix(k->s, k->n, &cut) < k->n) {
        st = bad(&p, at, "a piece that is not UTF-8");
    } else if (!isfinite(k->score)) {
        st = bad(&p, at, "a piece whose score is not finite");
    } else {
        m->n_pieces++;
    }
done:
    return st;
}

static enum status read_trainer(struct spmodel *m, struct part p) {
    enum status st = OK;
    struct field f;
    while (p.at < p.end) {
        TRY(next_field(&p, &f));
        if (f.number == 3) {
            TRY(want(&p, &f, 0));
            if (f.value < SPMODEL_UNIGRAM || f.value > SPMODEL_CHAR) {
                st = bad(&p, f.at, "an unknown type of model");
                goto done;
            }
            m->type = (enum spmodel_type)f.value;
        } else if (f.number == 24 || f.number == 35) {
            TRY(want(&p, &f, 0));
            *(f.number == 24 ? &m->suffix_spaces : &m->byte_fallback) = f.value != 0;
        } else if (f.number >= 40 && f.number <= 42) {
            TRY(want(&p, &f, 0));
            const int32_t id = f.value <= SPMODEL_MAX_PIECES ? (int32_t)f.value : -1;
            if (id < 0 && f.value <= INT32_MAX) {
                st = bad(&p, f.at, "the id of a special piece is too large");
                goto done;
            }
            *(f.number == 40 ? &m->unk : f.number == 41 ? &m->bos : &m->eos) = id;
        }
    }
done:
    return st;
}

static enum status read_normalizer(struct spmodel *m, struct part p) {
    enum status st = OK;
    struct field f;
    while (p.at < p.end) {
        TRY(next_field(&p, &f));
        if (f.number == 1) {
            TRY(want(&p, &f, 2));
            snprintf(m->norm_name, sizeof m->norm_name, "%.*s",
                     (int)(f.sub.end - f.sub.at < 63 ? f.sub.end - f.sub.at : 63),
                     (const char *)p.base + f.sub.at);
        } else if (f.number == 2) {
            TRY(want(&p, &f, 2));
            m->charsmap = (const char *)p.base + f.sub.at;
            m->n_charsmap = f.sub.end - f.sub.at;
        } else if (f.number >= 3 && f.number <= 5) {
            TRY(want(&p, &f, 0));
            *(f.number == 3   ? &m->dummy_prefix
              : f.number == 4 ? &m->squeeze_spaces
                              : &m->escape_spaces) = f.value != 0;
        }
    }
done:
    return st;
}

static enum status count_pieces(struct part p, size_t *n) {
    enum status st = OK;
    struct field f;
    *n = 0;
    while (p.at < p.end) {
        TRY(next_field(&p, &f));
        if (f.number == 1 && ++*n > SPMODEL_MAX_PIECES) {
            st = bad(&p, f.at, "more than 16777216 pieces");
            goto done;
        }
    }
    if (*n == 0) st = bad(&p, p.end, "no pieces: not a SentencePiece model");
done:
    return st;
}

static enum status read_model(struct spmodel *m, struct part p) {
    enum status st = OK;
    struct field f;
    size_t n;
    TRY(count_pieces(p, &n));
    TRY(mem_zalloc(&m->pieces, n, sizeof *m->pieces, p.e));
    while (p.at < p.end) {
        TRY(next_field(&p, &f));
        if (f.number > 3) continue;
        TRY(want(&p, &f, 2));
        TRY(f.number == 1   ? read_piece(m, f.sub)
            : f.number == 2 ? read_trainer(m, f.sub)
                            : read_normalizer(m, f.sub));
    }
done:
    return st;
}

/* ---- what must hold between them ---- */

static enum status check_model(struct spmodel *m, const char *path, struct err *e) {
    enum status st = OK;
    static const char *const names[] = {"BOS", "EOS"};
    int32_t *const ids[] = {&m->bos, &m->eos};
    size_t n_unknown = 0;
    for (size_t i = 0; i < m->n_pieces; i++) {
        if (m->pieces[i].type != SPMODEL_UNKNOWN) continue;
        m->unk = (int32_t)i; // the piece decides; the setting only says which it was meant to be
        n_unknown++;
    }
    if (n_unknown != 1) {
        FAIL(e, E_FORMAT, "%s: %zu unknown pieces; a model has one", path, n_unknown);
    }
    for (size_t i = 0; i < COUNTOF(ids); i++) {
        const bool given = *ids[i] != NOT_GIVEN;
        if (!given) *ids[i] = (int32_t)i + 1; // the defaults of the format
        if (*ids[i] < (int32_t)m->n_pieces) continue;
        if (given) {
            FAIL(e, E_FORMAT, "%s: the %s id %d is not one of %zu pieces", path, names[i], *ids[i],
                 m->n_pieces);
        }
        *ids[i] = -1;
    }
done:
    return st;
}

enum status spmodel_open(struct spmodel **out, const char *path, struct hash *h, struct err *e) {
    enum status st = OK;
    struct spmodel *m = NULL;
    struct fmap *map = NULL;
    *out = NULL;
    TRY(mem_zalloc(&m, 1, sizeof *m, e));
    m->type = SPMODEL_UNIGRAM; // the defaults of the format
    m->bos = m->eos = NOT_GIVEN;
    m->dummy_prefix = m->squeeze_spaces = m->escape_spaces = true;
    TRY(fmap_open(&map, path, e));
    const size_t n = fmap_bytes(map);
    if (n > SPMODEL_MAX_BYTES) {
        FAIL(e, E_FORMAT, "%s: %zu bytes; at most %d are read from such a file", path, n,
             SPMODEL_MAX_BYTES);
    }
    TRY(mem_alloc64(&m->keep, n + 1, 1, e));
    if (n > 0) memcpy(m->keep, fmap_borrow_data(map), n);
    if (fmap_torn(map)) FAIL(e, E_IO, "%s: cut short while it was read", path);
    hash_add(h, m->keep, n);
    TRY(read_model(m, (struct part){m->keep, 0, n, path, e}));
    TRY(check_model(m, path, e));
    *out = m;
    m = NULL;
done:
    fmap_close(map);
    spmodel_close(m);
    return st;
}

void spmodel_close(struct spmodel *m) {
    if (m == NULL) return;
    mem_free(m->pieces);
    mem_free(m->keep);
    mem_free(m);
}
