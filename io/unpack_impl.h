/* What the three libraries have in common. Private to io/unpack*.c.
 *
 * A codec decodes one frame at a time. It sees neither files nor limits, and says what is wrong in
 * words; unpack.c knows where. */
#ifndef BASIN_IO_UNPACK_IMPL_H
#define BASIN_IO_UNPACK_IMPL_H

#include "io/unpack.h"

enum { UNPACK_MAGIC_BYTES = 5 }; /* shown of a frame's beginning: magic, and LZ4's flags */

struct unpack_step {
    const char *in; /* n_in bytes, of which `used` were consumed */
    size_t n_in, used;
    char *out; /* room for n_out bytes, of which `made` were written */
    size_t n_out, made;
    bool end;      /* the frame is complete and all of its content is out */
    char why[120]; /* with E_FORMAT: what is wrong */
};

struct unpack_codec {
    const char *name;  /* "gzip" */
    const char *frame; /* what a unit of it is called */
    unsigned char magic[4];
    size_t n_magic;
    bool skippable; /* frames that begin with 5x 2A 4D 18 belong to the format too */

    enum status (*open)(void **state, struct err *e);
    void (*close)(void *state); /* NULL is fine */
    /* A frame begins with in[0 .. n_in). Its magic was recognised; nothing is consumed. Errors:
     * E_FORMAT with `why`. */
    enum status (*begin)(void *state, struct unpack_step *s);
    /* Decodes some. Neither used nor made means: it wants input. Errors: E_FORMAT, E_NOMEM. `used`
     * counts on E_FORMAT too, as exactly as the library tells. */
    enum status (*step)(void *state, struct unpack_step *s);
};

/* NULL for UNPACK_NONE. */
const struct unpack_codec *unpack_codec_of(enum unpack_kind kind);

#endif
