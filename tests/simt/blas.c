/* The stand-in of cuBLASLt: Y = A^T B column-major, which is all that is asked for; anything else ends the
 * test. */
#include "kernels/cuda/cuda_impl.h"

#include <stdlib.h>
#include <string.h>

struct simt_lt {
    int device;
};
struct simt_lt_desc {
    cublasComputeType_t compute;
    int32_t trans_a, trans_b;
};
struct simt_lt_layout {
    cudaDataType_t type;
    uint64_t rows, cols;
    int64_t ld;
};
struct simt_lt_pref {
    uint64_t workspace;
    uint32_t reduction;
};

static int64_t g_rows; // of all products so far; -1: of different numbers

int64_t simt_product_rows(void) {
    return g_rows;
}

static void *fresh(size_t n) {
    void *p = calloc(1, n);
    if (p == NULL) simt_die("no memory");
    return p;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) {
    *h = fresh(sizeof **h);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) {
    free(h);
    return CUBLAS_STATUS_SUCCESS;
}
const char *cublasLtGetStatusString(cublasStatus_t s) {
    return s == CUBLAS_STATUS_SUCCESS ? "success" : "not supported";
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *d = fresh(sizeof **d);
    (*d)->compute = compute;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
    free(d);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d,
                                              cublasLtMatmulDescAttributes_t a, const void *value,
                                              size_t n) {
    if (n != sizeof(int32_t)) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(a == CUBLASLT_MATMUL_DESC_TRANSA ? &d->trans_a : &d->trans_b, value, n);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType_t type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
    *l = fresh(sizeof **l);
    **l = (struct simt_lt_layout){type, rows, cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
    free(l);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) {
    *p = fresh(sizeof **p);
    (*p)->reduction = ~0u;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
    free(p);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t a,
                                                    const void *value, size_t n) {
    const bool work = a == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
    if (n != (work ? sizeof p->workspace : sizeof p->reduction)) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(work ? (void *)&p->workspace : (void *)&p->reduction, value, n);
    return CUBLAS_STATUS_SUCCESS;
}

// The name of the algorithm that a shape is computed by: cublasLtMatmul wants the one of its own shape.
static uint64_t name_of(const struct simt_lt_layout *a, const struct simt_lt_layout *b) {
    return a->rows * 1000003u + a->cols * 10007u + b->cols;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t y,
                                              cublasLtMatmulPreference_t p, int asked,
                                              cublasLtMatmulHeuristicResult_t out[], int *n) {
    (void)h;
    (void)c;
    *n = 0;
    if (asked < 1 || d->trans_a != CUBLAS_OP_T || d->trans_b != CUBLAS_OP_N || y->rows != a->cols)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (p->reduction != CUBLASLT_REDUCTION_SCHEME_NONE || p->workspace != 0)
        simt_die("a product that may be cut along its sum");
    out[0] = (cublasLtMatmulHeuristicResult_t){.algo = {{name_of(a, b)}}};
    *n = 1;
    return CUBLAS_STATUS_SUCCESS;
}

struct product {
    struct simt_lt_layout a, b, y;
    const void *pa, *pb;
    float *py;
};

static float element(const void *p, cudaDataType_t type, int64_t i) {
    return type == CUDA_R_32F ? ((const float *)p)[i] : dtype_bf16_to_f32(((const bf16_t *)p)[i]);
}

// Rows that only fill up a block: their products are zeros, and are not computed.
static bool *zero_rows(const struct product *x) {
    bool *zero = fresh((size_t)x->b.cols * sizeof *zero);
    for (int64_t m = 0; m < (int64_t)x->b.cols; m++) {
        zero[m] = true;
        for (int64_t k = 0; zero[m] && k < (int64_t)x->b.rows; k++)
            zero[m] = element(x->pb, x->b.type, m * x->b.ld + k) == 0;
    }
    return zero;
}

static void multiply(void *arg) {
    const struct product *x = arg;
    bool *zero = zero_rows(x);
    const int64_t n_k = (int64_t)x->a.rows;
    float *line = fresh((size_t)n_k * sizeof *line);
    for (int64_t n = 0; n < (int64_t)x->a.cols; n++) {
        for (int64_t k = 0; k < n_k; k++) line[k] = element(x->pa, x->a.type, n * x->a.ld + k);
        for (int64_t m = 0; m < (int64_t)x->b.cols; m++) {
            float sum = 0;
            for (int64_t k = 0; k < n_k && !zero[m]; k++)
                sum += line[k] * element(x->pb, x->b.type, m * x->b.ld + k);
            x->py[m * x->y.ld + n] = sum;
        }
    }
    free(line);
    free(zero);
}

static void check_operand(const void *p, const struct simt_lt_layout *l) {
    const size_t size = l->type == CUDA_R_32F ? 4 : 2;
    if ((uintptr_t)p % 16 != 0 || (size_t)l->ld * size % 16 != 0)
        simt_die("an operand of a product is not aligned to 16 bytes");
    simt_check_global(p, ((l->cols - 1) * (size_t)l->ld + l->rows) * size);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t d, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t la, const void *b,
                              cublasLtMatrixLayout_t lb, const void *beta, const void *c,
                              cublasLtMatrixLayout_t lc, void *y, cublasLtMatrixLayout_t ly,
                              const cublasLtMatmulAlgo_t *algo, void *work, size_t work_bytes,
                              cudaStream_t s) {
    (void)h;
    (void)c;
    (void)lc;
    (void)work;
    if (*(const float *)alpha != 1 || *(const float *)beta != 0 || work_bytes != 0)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (la->type == CUDA_R_32F && d->compute != CUBLAS_COMPUTE_32F_PEDANTIC)
        simt_die("a product of floats that may be computed in TF32");
    if (algo == NULL || algo->data[0] != name_of(la, lb))
        simt_die("the algorithm of another shape");
    check_operand(a, la);
    check_operand(b, lb);
    simt_check_global(y, ((ly->cols - 1) * (size_t)ly->ld + ly->rows) * 4);
    const int64_t rows = (int64_t)lb->cols;
    g_rows = g_rows == 0 || g_rows == rows ? rows : -1;
    struct product *x = fresh(sizeof *x);
    *x = (struct product){*la, *lb, *ly, a, b, y};
    simt_push(s, multiply, x);
    return CUBLAS_STATUS_SUCCESS;
}

enum status cuda_blas_open(struct cuda_blas *b, struct err *e) {
    memset(b, 0, sizeof *b);
    if (simt_world()->no_blas)
        return err_fail(e, E_DEVICE, "cuBLAS cannot be loaded: no such library");
#define TAKE(name, symbol) b->name = symbol;
    CUDA_BLAS_FUNCTIONS(TAKE)
#undef TAKE
    return OK;
}

void cuda_blas_close(struct cuda_blas *b) {
    memset(b, 0, sizeof *b);
}
