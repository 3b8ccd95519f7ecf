/* Quantized weights: blocks of elements that share their scales, as GGUF files store them.
 *
 * A row of a matrix is a run of blocks; every number is little-endian, h is an IEEE half. Within a
 * block of n elements, `lo i` and `hi i` are the lower and the upper four bits of byte i.
 *
 *   type  n    bytes                                         element
 *   Q8_0  32   h d; i8 q[32]                                 d q[i]
 *   Q4_0  32   h d; u8 q[16]                                 d (v - 8)
 *   Q4_1  32   h d, m; u8 q[16]                              d v + m
 *   Q5_0  32   h d; u32 high; u8 q[16]                       d (v + 16 bit i of high - 16)
 *   Q5_1  32   h d, m; u32 high; u8 q[16]                    d (v + 16 bit i of high) + m
 *              where v = lo i for i < 16, hi i - 16 for the rest
 *   Q4_K  256  h d, m; u8 s[12]; u8 q[128]                   d S v - m M
 *   Q5_K  256  h d, m; u8 s[12]; u8 high[32]; u8 q[128]      d S (v + 16 bit) - m M
 *              in groups g = i / 32 of 32, r = i % 32: v is lo of byte 32 (g / 2) + r of q when g is
 *              even, hi of it when g is odd; bit is bit g of high[r]; S and M have 6 bits:
 *                  g < 4   S = s[g] % 64                        M = s[g + 4] % 64
 *                  g >= 4  S = s[g + 4] % 16 + 16 (s[g - 4] / 64)
 *                          M = s[g + 4] / 16 + 16 (s[g] / 64)
 *   Q6_K  256  u8 q[128]; u8 high[64]; i8 s[16]; h d         d s[i / 16] (v - 32)
 *              with half = i / 128, part = i % 128 / 32, r = i % 32: v's lower four bits are lo
 *              (part < 2) or hi of byte 64 half + 32 (part % 2) + r of q, its upper two are bits
 *              2 part and 2 part + 1 of high[32 half + r]
 *
 * Products of a scale and a quant have at most 23 bits and are exact in float32; so an element is
 * one rounding at most away from the formula (the sum in Q4_1, Q5_1, Q4_K, Q5_K), and every way of
 * computing it gives the same float. A scale that is NaN or infinite gives elements that are not
 * finite. Source: the block formats of the GGUF specification and of ggml. */
#ifndef BASIN_KERNELS_QUANT_H
#define BASIN_KERNELS_QUANT_H

#include "base/dtype.h"

/* Expands n elements, a multiple of dtype_block(type), that begin at p (any alignment).
 * type: DT_Q8_0 or behind it. False when one of them is not finite. */
bool dev_quant_floats(float *out, const unsigned char *p, enum dtype type, int64_t n);

/* Whether the scales of the block at p are finite; then all of its elements are. */
bool dev_quant_finite(const unsigned char *p, enum dtype type);

#endif
