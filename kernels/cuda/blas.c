#include "kernels/cuda/cuda_impl.h"

#include <dlfcn.h>
#include <string.h>

#define BLAS_TEXT_(x) #x
#define BLAS_TEXT(x) BLAS_TEXT_(x)
// The major version that this program was compiled against: another one may have other structs.
#define BLAS_NAME "libcublasLt.so." BLAS_TEXT(CUBLAS_VER_MAJOR)

static enum status take(void *symbol, size_t n, void *library, const char *name, struct err *e) {
    void *p = dlsym(library, name);
    if (p == NULL) return err_fail(e, E_DEVICE, "%s has no %s", BLAS_NAME, name);
    memcpy(symbol, &p, n); // ISO C has no cast from an object to a function
    return OK;
}

enum status cuda_blas_open(struct cuda_blas *b, struct err *e) {
    enum status st = OK;
    memset(b, 0, sizeof *b);
    b->library = dlopen(BLAS_NAME, RTLD_NOW | RTLD_LOCAL);
    if (b->library == NULL)
        b->library = dlopen(CUDA_LIBRARIES "/" BLAS_NAME, RTLD_NOW | RTLD_LOCAL);
    if (b->library == NULL)
        FAIL(e, E_DEVICE,
             "cuBLAS cannot be loaded (%s): install NVIDIA's cuBLAS %d, or name its folder in "
             "LD_LIBRARY_PATH",
             dlerror(), CUBLAS_VER_MAJOR);
#define TAKE(name, symbol) TRY(take(&b->name, sizeof b->name, b->library, #symbol, e));
    CUDA_BLAS_FUNCTIONS(TAKE)
#undef TAKE
done:
    if (st != OK) cuda_blas_close(b);
    return st;
}

void cuda_blas_close(struct cuda_blas *b) {
    if (b->library != NULL) dlclose(b->library);
    memset(b, 0, sizeof *b);
}
