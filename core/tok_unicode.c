#include "core/tok_impl.h"

#include <utf8proc.h>

/* GPT-2's table: printable Latin-1 stands for itself, the other 68 bytes for U+0100 and up. */
static bool itself(unsigned char b) {
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
}

uint32_t tok_byte_char(unsigned char byte) {
    if (itself(byte)) return byte;
    uint32_t k = 0;
    for (unsigned char b = 0; b < byte; b++) k += !itself(b);
    return 0x100 + k;
}

int tok_char_byte(uint32_t cp) {
    if (cp < 0x100) return itself((unsigned char)cp) ? (int)cp : -1;
    uint32_t k = 0x100;
    for (int b = 0; b < 256; b++) {
        if (!itself((unsigned char)b) && k++ == cp) return b;
    }
    return -1;
}

bool tok_is_space(uint32_t cp) {
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

static bool in_newer(const char *category, uint32_t cp) {
    size_t n;
    const struct tok_range *r = tok_newer_ranges(category, &n);
    for (size_t i = 0; i < n; i++) {
        if (cp >= r[i].first && cp <= r[i].last) return true;
    }
    return false;
}

bool tok_is_word(uint32_t cp) {
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    case UTF8PROC_CATEGORY_CN: return in_newer("L", cp) || in_newer("M", cp) || in_newer("Nd", cp);
    default: break;
    }
    // Join_Control, and Other_Alphabetic outside the above.
    return cp == 0x200C || cp == 0x200D || (cp >= 0x24B6 && cp <= 0x24E9) ||
           (cp >= 0x1F130 && cp <= 0x1F149) || (cp >= 0x1F150 && cp <= 0x1F169) ||
           (cp >= 0x1F170 && cp <= 0x1F189);
}

/* The library decides about punctuation by tables of Unicode 8; this is what came later. */
static const struct tok_range later_punctuation[] = {
    {0x61D, 0x61D},     {0x9FD, 0x9FD},     {0xA76, 0xA76},     {0xC77, 0xC77},
    {0xC84, 0xC84},     {0x1B7D, 0x1B7E},   {0x2E43, 0x2E4F},   {0x2E52, 0x2E5D},
    {0x10EAD, 0x10EAD}, {0x10F55, 0x10F59}, {0x10F86, 0x10F89}, {0x1144B, 0x1144F},
    {0x1145A, 0x1145B}, {0x1145D, 0x1145D}, {0x11660, 0x1166C}, {0x116B9, 0x116B9},
    {0x1183B, 0x1183B}, {0x11944, 0x11946}, {0x119E2, 0x119E2}, {0x11A3F, 0x11A46},
    {0x11A9A, 0x11A9C}, {0x11A9E, 0x11AA2}, {0x11B00, 0x11B09}, {0x11C41, 0x11C45},
    {0x11C70, 0x11C71}, {0x11EF7, 0x11EF8}, {0x11F43, 0x11F4F}, {0x11FFF, 0x11FFF},
    {0x12FF1, 0x12FF2}, {0x16E97, 0x16E9A}, {0x16FE2, 0x16FE2}, {0x1E95E, 0x1E95F},
};

static bool is_punctuation(uint32_t cp) {
    if (cp < 0x80) {
        return (cp >= 0x21 && cp <= 0x2F) || (cp >= 0x3A && cp <= 0x40) ||
               (cp >= 0x5B && cp <= 0x60) || (cp >= 0x7B && cp <= 0x7E);
    }
    if (cp == 0x166D || cp == 0x111C9) return true; // they became symbol and mark
    for (size_t i = 0; i < COUNTOF(later_punctuation); i++) {
        if (cp >= later_punctuation[i].first && cp <= later_punctuation[i].last) return false;
    }
    const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO && !in_newer("P", cp);
}

static bool is_numeric(uint32_t cp) {
    const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO ||
           (c == UTF8PROC_CATEGORY_CN && in_newer("N", cp));
}

int tok_class_of(enum tok_class c, uint32_t cp) {
    switch (c) {
    case TOK_CLASS_DIGIT: return is_numeric(cp);
    case TOK_CLASS_PUNCTUATION: return is_punctuation(cp);
    case TOK_CLASS_SPACE: return tok_is_space(cp);
    case TOK_CLASS_WORD: break;
    }
    return tok_is_space(cp) ? 0 : tok_is_word(cp) ? 1 : 2;
}
