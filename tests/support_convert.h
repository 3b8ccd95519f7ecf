/* Fixtures rewritten as GGUF files, as llama.cpp's converter writes them: tests/data/converted.txt says how
 * it does, tools/mkconverted.py what wrote that down. */
#ifndef BASIN_TESTS_SUPPORT_CONVERT_H
#define BASIN_TESTS_SUPPORT_CONVERT_H

#include "core/arch.h"
#include "tests/support_gguf.h"

/* How the metadata say which of gemma3's layers are local: by a number, by flags, or not at all. */
enum support_local { LOCAL_NUMBER, LOCAL_FLAGS, LOCAL_UNSAID };

/* The Hugging Face directory `dir`, all F32, to the file `path`. */
void support_convert(const char *dir, const char *path, enum support_local local);

/* The metadata of that file. */
void support_put_metadata(struct gw *w, const struct arch *a, enum support_local local);

/* Rows of q and k of the llama family as converters put them: pairs (k, k + d/2) of a head become
 * (2k, 2k + 1). Other roles' rows stay. */
int64_t support_paired_row(enum arch_role role, const struct arch *a, int64_t row);

#endif
