# Sourced by the scripts beside this file: BASIN, ROOT and the demo in the environment, and checks of
# what a command says.

set_environment() {
    ROOT="$(cd "$BATS_TEST_DIRNAME/../.." && pwd)"
    BASIN="${BASIN:-$ROOT/build/release/basin}"
    [[ "$BASIN" == /* ]] || BASIN="$PWD/$BASIN"
    MODEL="$ROOT/examples/demo/model" TEXT="$ROOT/examples/demo/persuasion.txt"
    export ROOT BASIN MODEL TEXT
    unset BASIN_CPU BASIN_RANK BASIN_WORLD_SIZE SLURM_CPUS_PER_TASK SLURM_JOB_END_TIME
    unset SLURM_ARRAY_TASK_ID SLURM_STEP_NUM_TASKS OMP_NUM_THREADS NO_COLOR
}

# expect CODE COMMAND...: run it; stdout in $output, stderr in the file err of the test's folder.
expect() {
    local want=$1 got=0
    shift
    output="$("$@" 2> "$BATS_TEST_TMPDIR/err")" || got=$?
    if [[ $got -ne $want ]]; then
        echo "exit $got, not $want: $*"
        echo "stdout: $output"
        echo "stderr: $(< "$BATS_TEST_TMPDIR/err")"
        return 1
    fi
}

says() { # says TEXT: it is on stderr
    grep -qF -- "$1" "$BATS_TEST_TMPDIR/err" || { echo "stderr lacks \"$1\": $(< "$BATS_TEST_TMPDIR/err")"; return 1; }
}

shows() { # shows TEXT: it is on stdout
    [[ "$output" == *"$1"* ]] || { echo "stdout lacks \"$1\": $output"; return 1; }
}

holds() { # holds FILTER: jq finds it true of stdout
    jq -e "$1" > /dev/null <<< "$output" || { echo "not so: $1"; echo "$output"; return 1; }
}
