# basin. `make help` lists the targets.
SHELL := /bin/bash
.DELETE_ON_ERROR:
CC      ?= cc
CLANG   ?= clang
NVCC    ?= nvcc
CUDA    ?= auto
FLAVOUR ?= release
WERROR  ?=
PREFIX  ?= /usr/local
DESTDIR ?=
OUT     := build/$(FLAVOUR)
VERSION := 0.1.0

-include build/deps.mk

# The libraries, named once: Debian package -> header that proves it is there.
APT_LIBS  := libjansson-dev liblz4-dev libxxhash-dev libpcre2-dev libutf8proc-dev zlib1g-dev libzstd-dev
APT_TOOLS := gcc make git scdoc
APT_TESTS := libcmocka-dev clang clang-format g++ libclang-rt-14-dev libomp-14-dev valgrind strace bats jq python3 python3-jsonschema lz4 zstd time zsh
HEADERS   := jansson.h lz4frame.h xxhash.h pcre2.h utf8proc.h zlib.h zstd.h
LIBS      := -ljansson -llz4 -lz -lzstd -lxxhash -lpcre2-8 -lutf8proc -lm -pthread

WARN    := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wcast-qual -Wvla -Wundef $(if $(WERROR),-Werror)
CFLAGS  ?= -O2 -g
ALL_CFLAGS = -std=c11 $(CFLAGS) $(SAN) $(WARN) -fopenmp -I. -D_GNU_SOURCE -DPCRE2_CODE_UNIT_WIDTH=8 -DBASIN_VERSION='"$(VERSION)"' -MMD -MP
KERNEL_CFLAGS = -O3 -fno-math-errno -fno-trapping-math -ffp-contract=off
X86 := $(filter x86_64,$(shell uname -m))
ISA_avx2   := $(if $(X86),-mavx2 -mfma -mf16c)
ISA_avxvnni := $(ISA_avx2)
ISA_avx512 := $(if $(X86),-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mavx512vnni -mfma -mf16c -mprefer-vector-width=512)
SAN_asan  := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_ubsan := -fsanitize=undefined -fno-sanitize-recover=all
SAN_tsan  := -fsanitize=thread
SAN = $(SAN_$(FLAVOUR)) $(FUZZ_SAN_$(FLAVOUR))

# CUDA=auto uses nvcc where it is found with the headers of cuBLAS; 1 insists, 0 leaves it out.
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v $(lastword $(NVCC)) 2>/dev/null)))
CUDA_ARCH ?= 80 90
CUDA_ON   := $(if $(filter 1,$(CUDA)),1,$(if $(filter 0,$(CUDA)),,$(if $(wildcard $(CUDA_HOME)/include/cublasLt.h),1)))
CUDA_LIB   = $(firstword $(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/targets/x86_64-linux/lib) $(CUDA_HOME)/lib)
CUDA_NUMS  = $(patsubst sm_%,%,$(CUDA_ARCH))
NVCC_FLAGS = -std=c++17 -O3 $(foreach a,$(CUDA_NUMS),-gencode arch=compute_$(a),code=sm_$(a)) \
  -gencode arch=compute_$(lastword $(CUDA_NUMS)),code=compute_$(lastword $(CUDA_NUMS)) -Xcompiler -Wall,-Wextra $(if $(WERROR),-Werror all-warnings)
CUDA_LIBS  = -L$(CUDA_LIB) -lcudart_static -Wl,--push-state,-Bstatic -lstdc++ -Wl,--pop-state -ldl -lrt
LIBS += $(if $(CUDA_ON),$(CUDA_LIBS))

# one.c      compiled as it is; NAME_avx2.c, NAME_avx512.c with that instruction set.
SRC  := $(filter-out $(if $(CUDA_ON),kernels/cuda_none.c,kernels/cuda/%),$(wildcard base/*.c io/*.c kernels/*.c kernels/*/*.c core/*.c jobs/*.c))
OBJ  := $(SRC:%.c=$(OUT)/%.o) $(if $(CUDA_ON),$(patsubst %,$(OUT)/%.o,$(wildcard kernels/cuda/*.cu)))
CMD  := $(patsubst %.c,$(OUT)/%.o,$(wildcard cmd/*.c))
LIB  := $(OUT)/libbasin.a
BIN  := $(OUT)/basin
TEST_SUPPORT := $(patsubst %.c,$(OUT)/%.o,$(wildcard tests/support_*.c))
TESTS := $(patsubst tests/%.c,$(OUT)/tests/%,$(filter-out tests/test_cuda% tests/test_devices.c,$(wildcard tests/test_*.c)))
# The GPU's kernels on the CPU (tests/simt/): the .cu files as C++, with a stand-in of CUDA in front.
HAVE_CXX  := $(shell $(CC) -x c++ -include new -fsyntax-only /dev/null 2>/dev/null && echo 1)
SIMT_SRC  := $(filter-out kernels/cuda/blas.c,$(wildcard kernels/cuda/*.c kernels/cuda/*.cu tests/simt/*.c tests/simt/*.cu))
SIMT_OBJ  := $(patsubst %.c,$(OUT)/simt/%.o,$(patsubst %.cu,$(OUT)/simt/%.cu.o,$(SIMT_SRC)))
ON_CUDA   := ops attend quant made span_dev span_over sample decode stream_dev
ON_SIMT   := cuda cuda_graph cuda_bench devices
SIMT_TESTS := $(if $(HAVE_CXX),$(patsubst %,$(OUT)/tests/test_cuda_%,$(ON_CUDA)))
SIMT_TESTS += $(if $(HAVE_CXX),$(ON_SIMT:%=$(OUT)/tests/test_%) $(OUT)/tests/basin_simt)
GPU_TESTS := $(patsubst %,$(OUT)/gpu/tests/test_%,$(ON_CUDA))

.PHONY: all check-deps
all: check-deps $(BIN) ## build build/release/basin (FLAVOUR, CC, CFLAGS, CUDA=auto|0|1 honoured)
	@ln -sfn $(FLAVOUR)/basin build/basin
	@echo "built $(BIN) (CUDA: $(if $(CUDA_ON),yes,no))"

check-deps:
	@for h in $(HEADERS); do echo "#include <stddef.h>"; echo "#include <$$h>"; done | \
	  $(CC) -DPCRE2_CODE_UNIT_WIDTH=8 -fsyntax-only -x c - 2>/dev/null || { \
	  echo "A library is missing. Run: make setup    (or: apt-get install -y $(APT_LIBS))" >&2; exit 1; }

$(OUT)/kernels/%.o: ALL_CFLAGS += $(KERNEL_CFLAGS) $(ISA_$(lastword $(subst _, ,$(basename $(notdir $@)))))
$(OUT)/kernels/cuda/%.o: ALL_CFLAGS += -isystem $(CUDA_HOME)/include -DCUDA_LIBRARIES='"$(CUDA_LIB)"'
$(OUT)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c $< -o $@
$(OUT)/%.cu.o: %.cu Makefile
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_FLAGS) -I. -MMD -MP -c $< -o $@
# Another choice of CUDA makes the library anew.
CUDA_STAMP := $(OUT)/cuda-$(if $(CUDA_ON),on,off)
$(CUDA_STAMP):
	@mkdir -p $(@D)
	@rm -f $(OUT)/cuda-on $(OUT)/cuda-off
	@touch $@
$(LIB): $(OBJ) $(CUDA_STAMP)
	@rm -f $@
	ar rcs $@ $(OBJ)
$(BIN): $(CMD) $(LIB)
	$(CC) $(ALL_CFLAGS) $^ $(LDFLAGS) $(LIBS) -o $@
# Tests that let the k-th allocation fail.
WRAP_ALLOC := -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=posix_memalign
WRAP_test_manifest    := $(WRAP_ALLOC)
WRAP_test_safetensors := $(WRAP_ALLOC)
WRAP_test_gguf        := $(WRAP_ALLOC)
WRAP_test_model_gguf  := $(WRAP_ALLOC)
WRAP_test_corpus      := $(WRAP_ALLOC)
WRAP_test_unpack      := $(WRAP_ALLOC)
WRAP_test_corpus_packed := $(WRAP_ALLOC)
WRAP_test_corpus_glob := -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc
WRAP_test_tok         := $(WRAP_ALLOC)
WRAP_test_tok_kinds   := $(WRAP_ALLOC)
WRAP_test_file        := -Wl,--wrap=write,--wrap=link,--wrap=copy_file_range,--wrap=flock
WRAP_test_lz4f        := -Wl,--wrap=write
WRAP_test_plan        := $(WRAP_ALLOC)
WRAP_test_stream_batch := $(WRAP_ALLOC)
WRAP_test_cuda_bench  := -Wl,--wrap=dev_open_cuda
WRAP_test_devices     := -Wl,--wrap=dev_open_cuda
WRAP_test_ledger      := -Wl,--wrap=write,--wrap=fsync,--wrap=copy_file_range $(WRAP_ALLOC)
$(OUT)/tests/%: $(OUT)/tests/%.o $(OUT)/tests/devs_cpu.o $(TEST_SUPPORT) $(LIB)
	$(CC) $(ALL_CFLAGS) $^ $(LDFLAGS) $(WRAP_$*) $(LIBS) -lcmocka -o $@
$(OUT)/simt/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) -Itests/simt $(ALL_CFLAGS) $(KERNEL_CFLAGS) -c $< -o $@
$(OUT)/simt/%.cu.o: %.cu Makefile
	@mkdir -p $(@D)
	$(CC) -x c++ -std=c++17 $(CFLAGS) $(SAN) $(KERNEL_CFLAGS) -Wall -Wextra -Wno-unknown-pragmas -fno-strict-aliasing $(if $(WERROR),-Werror) -fno-exceptions -fno-rtti -D_GNU_SOURCE -Itests/simt -I. -MMD -MP -c $< -o $@
$(patsubst %,$(OUT)/tests/test_cuda_%,$(ON_CUDA)): $(OUT)/tests/test_cuda_%: $(OUT)/tests/test_%.o $(SIMT_OBJ) $(TEST_SUPPORT) $(LIB)
	$(CC) $(ALL_CFLAGS) $^ $(LDFLAGS) $(LIBS) -lcmocka -o $@
$(ON_SIMT:%=$(OUT)/tests/test_%): $(OUT)/tests/%: $(OUT)/simt/tests/%.o $(SIMT_OBJ) $(TEST_SUPPORT) $(LIB)
	$(CC) $(ALL_CFLAGS) $^ $(LDFLAGS) $(WRAP_$*) $(LIBS) -lcmocka -o $@
# The program itself on simulated GPUs, for tests/cli/cuda.bats.
$(OUT)/tests/basin_simt: $(CMD) $(SIMT_OBJ) $(LIB)
	$(CC) $(ALL_CFLAGS) $^ $(LDFLAGS) $(LIBS) -lcmocka -o $@
$(OUT)/gpu/tests/%: $(OUT)/tests/%.o $(OUT)/tests/devs_gpu.o $(TEST_SUPPORT) $(LIB)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $^ $(LDFLAGS) $(LIBS) -lcmocka -o $@
$(OUT)/tools/bench/%: $(OUT)/tools/bench/%.o $(LIB)
	$(CC) $(ALL_CFLAGS) $^ $(LDFLAGS) $(LIBS) -o $@
.SECONDARY:
-include $(OBJ:.o=.d) $(CMD:.o=.d) $(TESTS:%=%.d) $(TEST_SUPPORT:.o=.d) $(SIMT_OBJ:.o=.d) $(wildcard $(OUT)/simt/tests/*.d) $(wildcard $(OUT)/tests/devs_*.d)

.PHONY: setup demo test test-gpu test-all test-programs asan ubsan tsan valgrind fuzz fuzz-programs fuzz-link fuzz-coverage lint format man install clean help bench
setup: ## install what is missing (Debian packages); PREFIX=DIR: unpack it there, without root
	@tools/setup $(if $(filter command line,$(origin PREFIX)),--prefix $(PREFIX)) $(APT_TOOLS) $(APT_LIBS) $(APT_TESTS)

demo: setup ## build, score the embedded book with the embedded model, print the tables
	@$(MAKE) --no-print-directory -s -j$$(nproc) all
	@tools/demo $(BIN)

test-programs: $(TESTS) $(SIMT_TESTS)
	@$(if $(HAVE_CXX),,echo "no C++ compiler: the kernels of GPUs are not tested (make setup)" >&2)
test: setup ## build and run all tests; the last line counts them
	@$(MAKE) --no-print-directory -s -j$$(nproc) all test-programs
	@tools/runtests $(OUT)

test-gpu: ## the tests of the GPU's kernels on a real GPU, where there is one
	@$(MAKE) --no-print-directory -s -j$$(nproc) all $(if $(CUDA_ON),$(GPU_TESTS))
	@tools/testgpu $(OUT) $(if $(CUDA_ON),1,0)

test-all: test ## deeper: every sanitizer, valgrind, long documents, many kills
	@$(MAKE) --no-print-directory lint asan ubsan tsan valgrind
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=300
	@tools/runtests --deep $(OUT)

asan ubsan: ## the test programs under ASan + UBSan, or UBSan alone; LEFT_OUT="NAME ..." of them
	@$(MAKE) --no-print-directory -s -j$$(nproc) FLAVOUR=$@ all test-programs
	@LEFT_OUT="$(LEFT_OUT)" tools/runtests build/$@
# The parsers under libFuzzer, with sanitizers or with coverage instead.
FUZZ_SAN_fuzz    := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
FUZZ_SAN_fuzzcov := -fsanitize=fuzzer-no-link -fprofile-instr-generate -fcoverage-mapping
FUZZERS := $(patsubst tests/fuzz/%.c,$(OUT)/%,$(wildcard tests/fuzz/fuzz_*.c))
$(OUT)/fuzz_%: $(OUT)/tests/fuzz/fuzz_%.o $(LIB)
	$(CC) $(ALL_CFLAGS) -fsanitize=fuzzer $^ $(LDFLAGS) $(LIBS) -o $@
fuzz-programs:
	@$(MAKE) --no-print-directory -s -j$$(nproc) FLAVOUR=fuzz CC="$(CLANG)" fuzz-link
fuzz-link: $(FUZZERS)
fuzz: fuzz-programs ## every parser under libFuzzer, FUZZ_SECONDS (10) each
	@tools/fuzz $(or $(FUZZ_SECONDS),10)
fuzz-coverage: ## the share of each parser's lines that the fuzzers reach
	@$(MAKE) --no-print-directory -s -j$$(nproc) FLAVOUR=fuzzcov CC="$(CLANG)" fuzz-link
	@tools/fuzz --coverage $(or $(FUZZ_SECONDS),10)
bench: all ## measure here (MODEL=FILE, else the demo model) and keep it in tools/bench/history/
	@tools/bench/record $(BIN) $(MODEL)

valgrind: all ## a small run under valgrind's memcheck (portable kernels)
	@tools/valgrind $(BIN)
tsan: ## a two-thread run under ThreadSanitizer (clang's OpenMP runtime)
	@$(MAKE) --no-print-directory -s -j$$(nproc) FLAVOUR=tsan CC="$(CLANG)" all build/tsan/tests/test_pool
	@tools/tsan build/tsan/basin

lint: all ## include direction, symbols, forbidden calls, mutable data, format
	@tools/lint $(OUT)
format: ## clang-format everything in place
	@git ls-files '*.c' '*.h' '*.cu' '*.cuh' | xargs clang-format -i

MAN := $(patsubst man/%.scd,build/man/%,$(wildcard man/*.scd))
build/man/%: man/%.scd
	@mkdir -p $(@D)
	scdoc < $< > $@
man: $(if $(shell command -v scdoc 2>/dev/null),$(MAN)) ## the manual pages, into build/man
	@command -v scdoc >/dev/null || echo "scdoc is not installed (make setup): no manual pages" >&2

SHARE := $(DESTDIR)$(PREFIX)/share
install: all man ## into $(DESTDIR)$(PREFIX): bin/basin, manual pages, completions and the demo
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/basin
	install -D -m 644 completions/basin.bash $(SHARE)/bash-completion/completions/basin
	install -D -m 644 completions/_basin $(SHARE)/zsh/site-functions/_basin
	install -D -m 644 docs/events.md $(SHARE)/doc/basin/events.md
	@for p in $(MAN); do if [ -f $$p ]; then install -D -m 644 $$p $(SHARE)/man/man$${p##*.}/$${p##*/}; fi; done
	install -d $(SHARE)/basin/demo/model
	install -m 644 examples/demo/persuasion.txt $(SHARE)/basin/demo/
	install -m 644 examples/demo/model/* $(SHARE)/basin/demo/model/

clean: ## remove build/
	rm -rf build
help: ## this list
	@grep -hE '^[a-z][a-z -]*:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 16
