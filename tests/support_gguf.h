/* Models written by tests: GGUF and safetensors files, quantized blocks with random contents. */
#ifndef BASIN_TESTS_SUPPORT_GGUF_H
#define BASIN_TESTS_SUPPORT_GGUF_H

#include "base/dtype.h"
#include "base/sbuf.h"

/* A GGUF file in the making. Zeroed by gw_init, freed by gw_fini. */
struct gw {
    struct sbuf values, infos, data;
    uint64_t n_value, n_tensor;
    uint32_t version, alignment;
};
void gw_init(struct gw *w); /* version 3, alignment 32 */
void gw_fini(struct gw *w);
void gw_u32(struct gw *w, const char *key, uint32_t v);
void gw_u16(struct gw *w, const char *key, uint16_t v);
void gw_bool(struct gw *w, const char *key, bool v);
void gw_f32(struct gw *w, const char *key, float v);
void gw_str(struct gw *w, const char *key, const char *v);
void gw_u32s(struct gw *w, const char *key, const uint32_t *v, size_t n);
void gw_strs(struct gw *w, const char *key, const char *const *v, size_t n);
/* dim: row-major, the fastest last. */
void gw_tensor(struct gw *w, const char *name, int n_dim, const int64_t *dim, enum dtype type,
               const void *data, size_t bytes);
void gw_save(struct gw *w, const char *path);

/* A safetensors file of F32 tensors in the making. */
struct sw {
    struct sbuf header, data;
};
void sw_init(struct sw *w);
void sw_fini(struct sw *w);
void sw_tensor(struct sw *w, const char *name, int n_dim, const int64_t *dim, const float *data);
void sw_save(struct sw *w, const char *path);

void support_write(const char *path, const void *bytes, size_t n);

/* Random blocks of n elements whose values are about `scale` in size; any type weights may have. */
void support_blocks(unsigned char *out, int64_t n, enum dtype type, double scale, uint64_t *rng);

/* IEEE half nearest to x, which must be in its range. */
uint16_t support_half(double x);

#endif
