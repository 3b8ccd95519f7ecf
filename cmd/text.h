/* Numbers for people. Each appends to a string. */
#ifndef BASIN_CMD_TEXT_H
#define BASIN_CMD_TEXT_H

#include "base/sbuf.h"

void cmd_text_count(struct sbuf *b, int64_t n);  /* 1,234,567 */
void cmd_text_bytes(struct sbuf *b, int64_t n);  /* 512 bytes, 64.0 MiB */
void cmd_text_seconds(struct sbuf *b, double s); /* 0.31 s, 12.3 s, 4:05, 1:02:03, 2d 3:04:05 */
void cmd_text_plural(struct sbuf *b, int64_t n, const char *noun); /* 1 document, 2 documents */

/* `s` as a word of a shell command, quoted where it must be. */
void cmd_text_shell(struct sbuf *b, const char *s);

/* The key "name": of a JSON object behind what is there already, with a comma where needed. */
void cmd_text_key(struct sbuf *b, const char *name);
void cmd_text_json_int(struct sbuf *b, const char *name, int64_t v);
void cmd_text_json_num(struct sbuf *b, const char *name, double v);      /* null when not finite */
void cmd_text_json_str(struct sbuf *b, const char *name, const char *v); /* null when NULL */
void cmd_text_json_bool(struct sbuf *b, const char *name, bool v);

/* A table: the first column to the left, the others to the right. */
enum { CMD_TABLE_COLUMNS = 12 };
struct cmd_table {
    struct sbuf cells; /* each with a NUL behind it */
    int n_col;         /* 1 .. CMD_TABLE_COLUMNS */
};
void cmd_table_cell(struct cmd_table *t, const char *text);  /* the next cell, row by row */
void cmd_table_print(struct cmd_table *t, struct sbuf *out); /* and empties it */

#endif
