# bash completion for basin(1); made by tools/mkcompletions from the program's own help

_basin_files() { # _basin_files FLAG [PATTERN]: directories, and with -f files of this pattern
    local name
    COMPREPLY=()
    compopt -o filenames 2> /dev/null
    while IFS= read -r name; do
        # shellcheck disable=SC2053 # a pattern
        [[ $1 == -d || -d $name || $name == ${2:-*} ]] && COMPREPLY+=("$name")
    done < <(compgen "$1" -- "$cur")
}

_basin_words() {
    local word
    COMPREPLY=()
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -W "$1" -- "$cur")
}

_basin() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command='' options='' i
    local commands='run score generate init validate plan status cat stats verify tokenize inspect bench schema help'
    if [[ $prev == = ]]; then # --option=value is three words
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    elif [[ $cur == = ]]; then
        cur=''
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == -* ]] || { command=${COMP_WORDS[i]}; break; }
    done
    case $command in
    '') _basin_words "$commands --help --version"; return ;;
    run) options='--shard --steal --devices --threads --set --out --overwrite --retry-failed --time-limit --quiet --json' ;;
    score) options='--sink --window --mode --tokens --limit --bos --no-bos --text-key --id-key --ids-key --dtype --devices --threads --quiet' ;;
    generate) options='--max-new-tokens --min-new-tokens --temperature --top-k --top-p --min-p --seed --repetition-penalty --presence-penalty --frequency-penalty --penalty-alpha --stop --ignore-eos --token-ids --logprobs --tokens --streams --template --turn --messages-key --sink --window --mode --bos --no-bos --text-key --id-key --ids-key --dtype --devices --threads --quiet' ;;
    init) options='--job' ;;
    validate) options='--set' ;;
    plan) options='--shard --devices --threads --set --out --parts --json' ;;
    status) options='--failed --json' ;;
    cat) options='--tokens --id --setting --fields --tsv --format --follow' ;;
    stats) options='--json' ;;
    tokenize) options='--no-special --decode --text-key --id-key' ;;
    inspect) options='--json' ;;
    bench) options='--threads --devices --shape --seconds --dtype --json' ;;
    *) ;;
    esac
    case $command$prev in
    run--shard | run--threads | run--set | run--time-limit | score--sink | score--window | \
        score--limit | score--text-key | score--id-key | score--ids-key | score--threads | \
        generate--max-new-tokens | generate--min-new-tokens | generate--temperature | generate--top-k | \
        generate--top-p | generate--min-p | generate--seed | generate--repetition-penalty | \
        generate--presence-penalty | generate--frequency-penalty | generate--penalty-alpha | \
        generate--stop | generate--logprobs | generate--streams | generate--template | \
        generate--messages-key | generate--sink | generate--window | generate--text-key | \
        generate--id-key | generate--ids-key | generate--threads | validate--set | plan--shard | \
        plan--threads | plan--set | cat--id | cat--setting | cat--fields | tokenize--text-key | \
        tokenize--id-key | bench--threads | bench--seconds) return ;;
    run--devices | score--devices | generate--devices | plan--devices) _basin_words 'auto cpu cuda cuda:0'; return ;;
    run--out | plan--out) _basin_files -d; return ;;
    score--mode | generate--mode) _basin_words 'sink window dense'; return ;;
    score--dtype | generate--dtype | bench--dtype) _basin_words 'auto f32 bf16 int8'; return ;;
    generate--turn) _basin_words 'stream chunk room'; return ;;
    init--job) _basin_words 'score generate'; return ;;
    cat--format) _basin_words 'jsonl tsv openai'; return ;;
    bench--devices) _basin_words 'cpu cuda'; return ;;
    bench--shape) _basin_words 'stories260k stories15m smollm2-135m gemma3-270m smollm2-360m qwen2.5-0.5b gemma3-1b llama3-1b qwen2.5-1.5b smollm2-1.7b llama3-3b llama2-7b mistral-7b falcon-7b qwen2.5-7b llama3-8b qwen3-8b llama2-13b llama2-70b llama3-70b llama3-405b'; return ;;
    esac
    if [[ $cur == -* ]]; then
        _basin_words "$options --help"
        return
    fi
    case $command in
    run | validate | plan) _basin_files -f '*.json' ;;
    score | generate | init | tokenize | inspect | bench) _basin_files -f ;;
    status | cat | stats | verify) _basin_files -d ;;
    help) _basin_words "$commands" ;;
    esac
}
complete -F _basin basin
