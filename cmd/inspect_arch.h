/* What `basin inspect` says of an architecture. Each function appends to a string. */
#ifndef BASIN_CMD_INSPECT_ARCH_H
#define BASIN_CMD_INSPECT_ARCH_H

#include "base/sbuf.h"
#include "core/arch.h"

struct cmd_inspect_role {
    const char *key, *text; /* for machines, for people */
};
const struct cmd_inspect_role *cmd_inspect_role(enum arch_role role);

void cmd_inspect_put_json(struct sbuf *b, const struct arch *a); /* members of an open object */
void cmd_inspect_put_text(struct sbuf *b, const struct arch *a); /* lines */
void cmd_inspect_put_label(struct sbuf *b, const char *label);   /* the beginning of a line */

#endif
