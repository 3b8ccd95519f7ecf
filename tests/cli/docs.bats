#!/usr/bin/env bats
# What is said about the program elsewhere says what the program says: completions, manual pages; and
# what `make install` puts where.

setup_file() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    set_environment
}

setup() {
    source "$BATS_TEST_DIRNAME/expect.bash"
    cd "$BATS_TEST_TMPDIR"
}

commands() {
    "$BASIN" help | sed -n '/^  -h/q; s/^  \([a-z]*\) .*/\1/p'
}

options() { # options COMMAND: as `-h` lists them
    "$BASIN" "$1" -h | grep -oE '^  --[a-z-]+' | tr -d ' '
}

@test "completions are those that the program's help makes" {
    "$ROOT/tools/mkcompletions" --check "$BASIN"
}

complete_bash() { # complete_bash WORD...: what is offered for the last word
    bash -c 'source "$0"; COMP_WORDS=(basin "$@"); COMP_CWORD=$#; _basin; printf "%s\n" "${COMPREPLY[@]}"' \
        "$ROOT/completions/basin.bash" "$@"
}

@test "bash offers every command and option, words, directories and manifests" {
    local c o
    for c in $(commands); do
        complete_bash "" | grep -qx -- "$c"
        for o in $(options "$c"); do complete_bash "$c" -- | grep -qx -- "$o"; done
    done
    [[ "$(complete_bash score --mode w)" == window && "$(complete_bash score --mode = w)" == window ]]
    mkdir dir
    touch dir.json dir.txt
    [[ "$(complete_bash cat d)" == dir && "$(complete_bash run job.json --out d)" == dir ]]
    [[ "$(complete_bash run d | sort | xargs)" == "dir dir.json" ]]
    [[ "$(complete_bash help ins)" == inspect ]]
    [[ -z "$(complete_bash run --threads "")" ]]
}

@test "zsh reads its completions, and finds every option in them" {
    command -v zsh > /dev/null || skip "zsh is not installed"
    zsh -n "$ROOT/completions/_basin"
    local c o
    for c in $(commands); do
        sed -n "/^        $c)/,/^            ;;/p" "$ROOT/completions/_basin" > branch
        grep -q "'$c:" "$ROOT/completions/_basin"
        for o in $(options "$c"); do grep -qE -- "$o=?\[" branch; done
    done
}

@test "basin(1) has every command, option and exit code" {
    local c o code page=$ROOT/man/basin.1.scd
    for c in $(commands); do
        awk -v s="## basin $c" 'index($0 " ", s " ") == 1 { on = 1; print; next } /^#/ { on = 0 } on' \
            "$page" > section
        [[ -s section ]] || { echo "$c is missing"; return 1; }
        for o in $(options "$c"); do
            grep -qF -- "*$o*" section || { echo "$c $o is missing"; return 1; }
        done
        # and no option that is not there
        while IFS= read -r o; do
            options "$c" | grep -qx -- "$o" || { echo "$c has no $o"; return 1; }
        done < <(grep -oE '^\*--.*' section | grep -oE -- '\*--[a-z-]+\*' | tr -d '*')
    done
    for code in 0 3 11 64 65 66 69 70 71 73 74 75; do grep -qx "\*$code\*" "$page"; done
}

@test "basin-manifest(5) has every key and limit of the schema, each in its section" {
    local page=$ROOT/man/basin-manifest.5.scd section key number
    while IFS=$'\t' read -r section key number; do
        awk -v s="# ${section^^}" '$0 == s { on = 1; next } /^# / { on = 0 } on' "$page" > part
        grep -qF "*$key*" part || { echo "$section: $key is missing"; return 1; }
        [[ -z $number || $number == 1099511627776 ]] || grep -qw "$number" part ||
            { echo "$section: $number is missing"; return 1; }
    done < <("$BASIN" schema | jq -r '
        [["the job", .properties], ["model", .properties.model.else.properties],
         ["input", .["$defs"].input.else.properties], ["cache", .["$defs"].cache.properties],
         (.properties | ["score", .score.properties], ["output", .output.properties],
            ["compute", .compute.properties])][] | .[0] as $section | .[1] | to_entries[]
        | [$section, .key, (.value.maximum // "")] | @tsv')
}

@test "manual pages are made without a warning" {
    command -v scdoc > /dev/null || skip "scdoc is not installed"
    local page
    for page in "$ROOT"/man/*.scd; do
        scdoc < "$page" > page
        grep -q '^\.TH "basin' page
    done
}

@test "install: program, completions, documentation; manual pages where scdoc is" {
    # As it was built; nothing is compiled anew for this.
    local flavour
    flavour=$(basename "$(dirname "$BASIN")")
    make -C "$ROOT" -s -o all install DESTDIR="$PWD/to" PREFIX=/usr FLAVOUR="$flavour" > made 2>&1
    cmp "$BASIN" to/usr/bin/basin
    [[ -s to/usr/share/bash-completion/completions/basin && -s to/usr/share/zsh/site-functions/_basin ]]
    [[ -s to/usr/share/doc/basin/events.md && -s to/usr/share/basin/demo/model/config.json ]]
    if command -v scdoc > /dev/null; then
        [[ -s to/usr/share/man/man1/basin.1 && -s to/usr/share/man/man5/basin-manifest.5 ]]
    fi
    # The installed program finds its demo.
    expect 0 to/usr/bin/basin bench --threads 1 --seconds 0.05s --json
    holds '.model | endswith("share/basin/demo/model")'
    # Without scdoc it says so and goes on.
    mkdir bin
    local tool
    for tool in make bash sh cc gcc install mkdir ln echo command uname nproc rm cat; do
        ln -s "$(command -v $tool)" bin/ 2> /dev/null || true
    done
    PATH=$PWD/bin make -C "$ROOT" -s -o all install MAN= DESTDIR="$PWD/bare" PREFIX=/usr \
        FLAVOUR="$flavour" > made 2>&1
    grep -q "scdoc is not installed" made
    [[ -x bare/usr/bin/basin && ! -e bare/usr/share/man ]]
}
