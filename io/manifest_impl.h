/* Private to io/manifest*.c: reading members of JSON objects into structs by tables of fields, with
 * every finding collected. */
#ifndef BASIN_IO_MANIFEST_IMPL_H
#define BASIN_IO_MANIFEST_IMPL_H

#include "base/err.h"
#include "base/sbuf.h"
#include "io/json.h"
#include "io/manifest.h"

enum { MAN_MAX_SETTINGS = 64 }; /* in a list */

struct man_reader {
    const struct json *doc; /* borrowed: from the caller, outlives this */
    unsigned flags;
    struct manifest *m;
    struct man_problems *problems;
    struct sbuf place;                    /* of the value being read, "$.input[2].path" */
    const char *(*home)(const char *key); /* the section a key belongs in; NULL when none */
    bool out_of_memory;                   /* asked once, at the end */
};

enum man_kind { MAN_K_BOOL, MAN_K_INT, MAN_K_REAL, MAN_K_STRING, MAN_K_WORD, MAN_K_OWN };

/* What a MAN_K_OWN key looks like, for the schema. */
enum man_form {
    MAN_F_OWN,            /* as `schema` says */
    MAN_F_OBJECT,         /* an object: `section` */
    MAN_F_PATH_OR_OBJECT, /* a path, or `section` with the path in it */
    MAN_F_LIST,           /* `section`, or a list of 1..hi of them */
    MAN_F_LIST_OF_PATHS   /* a path or `section`, or a list of 1..hi of those */
};

struct man_field {
    const char *key;
    enum man_kind kind;
    size_t offset;            /* in the section's struct */
    int64_t lo, hi;           /* MAN_K_INT; MAN_F_LIST */
    double rlo, rhi;          /* MAN_K_REAL ... */
    bool above;               /* ... which must be above rlo */
    const char *const *words; /* MAN_K_WORD: index is the value; ended by NULL */
    const char *const *later; /* MAN_K_WORD: known, but not in this version; or NULL */
    void (*own)(struct man_reader *r, const struct jnode *v); /* MAN_K_OWN; fills r->m */
    bool required;
    unsigned unless; /* flags of man_parse() with which it is not */
    /* for the schema only */
    const char *about;                 /* a sentence for people */
    const char *fallback;              /* the default as JSON, or NULL */
    const char *schema;                /* further members of its schema, or NULL */
    enum man_form form;                /* MAN_K_OWN */
    const struct man_section *section; /* MAN_K_OWN with objects */
};

struct man_section {
    const struct man_field *fields;
    size_t n_fields;
    bool (*foreign)(struct man_reader *r, const struct jnode *object,
                    const char *key); /* or NULL */
    const char *const *rules; /* schemas of what must hold between keys; ended by NULL; or NULL */
    const char *in_list;      /* key that is required where the section stands in a list */
};

/* Records a finding at r->place, or at its member `key` when that is not NULL. Code OK: a warning.
 */
void man_complain(struct man_reader *r, enum status code, const char *key, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

/* "must be WHAT, found an integer" at r->place. */
void man_expect(struct man_reader *r, const char *what, const struct jnode *v);

/* A number in the range of `f`, into *out. */
void man_read_int(struct man_reader *r, const struct man_field *f, const struct jnode *v,
                  int64_t *out);
void man_read_real(struct man_reader *r, const struct man_field *f, const struct jnode *v,
                   double *out);

/* A string without NUL characters that is not empty, into *out (owned). */
void man_read_string(struct man_reader *r, const struct jnode *v, char **out);

/* Reads the members of an object into the struct at `base` and complains of required ones that are
 * missing. False when it is no object at all. */
bool man_read_section(struct man_reader *r, const struct man_section *s, const struct jnode *v,
                      void *base);

bool man_given(const struct jnode *object, const char *key);
bool man_word_is(const struct jnode *object, const char *key, const char *word);

/* Zeroed room in *out (owned) for the elements of a list, or for the single one that stands for a
 * list of one. Returns their number; 0 (nothing allocated) after a finding or without memory. */
size_t man_list_length(struct man_reader *r, const struct jnode *v, size_t max, size_t size,
                       void *out);

/* *key becomes a copy of `value` unless it is set. */
void man_set_default(struct man_reader *r, char **key, const char *value);

/* The schema of a string as man_read_string() takes it. */
#define MAN_TEXT "\"type\":\"string\",\"minLength\":1,\"not\":{\"pattern\":\"\\\\u0000\"}"

/* add_bos, which both jobs have (manifest_parse.c). */
#define MAN_BOS_SCHEMA "\"enum\":[\"auto\",true,false]"
void man_read_add_bos(struct man_reader *r, const struct jnode *v, enum man_bos *out);
const char *man_bos_json(enum man_bos v);

/* The section "generate" (manifest_generate.c). */
extern const struct man_section man_generate_section;
void man_read_generate(struct man_reader *r, const struct jnode *v);
void man_generate_fini(struct man_generate *g);
void man_put_generate(struct sbuf *out, const struct man_generate *g);

extern const struct man_section man_root_section; /* the whole manifest (manifest_parse.c) */

/* What the job decides about a setting, as schemas of check_setting() (manifest_cache.c). */
#define MAN_GENERATE_SETTING                                                                       \
    "{\"properties\":{\"prefill_tokens\":false,\"chunk_tokens\":{\"const\":1}}}"
#define MAN_SCORE_SETTING                                                                          \
    "{\"if\":{\"required\":[\"prefill\"],\"properties\":{\"prefill\":{\"const\":\"dense\"}}},"     \
    "\"then\":{\"required\":[\"prefill_tokens\"]},"                                                \
    "\"else\":{\"properties\":{\"prefill_tokens\":false}}}"

/* The section "cache", and what stands for it where it is not given (manifest_cache.c). */
extern const struct man_section man_setting_section;
void man_read_cache(struct man_reader *r, const struct jnode *v);
void man_default_cache(struct man_reader *r);

#endif
