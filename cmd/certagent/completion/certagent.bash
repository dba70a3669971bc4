# bash completion for certagent(8). It needs bash 4.3 and nothing else.
#
# certagent __complete WORD... prints one candidate a line, each with a tab and a description behind it, and at last a
# colon and a sum of: 1 nothing can be said, 2 no blank behind it, 4 no files, 8 files with these endings, 16 directories.

_certagent() {
    local rest=${COMP_LINE:0:COMP_POINT} words=() word i
    # bash parts words at each of COMP_WORDBREAKS. What has no blank between is one word to the program.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if ((i > 0)) && [[ $rest != [[:blank:]]* ]]; then
            words[-1]+=$word
        else
            words+=("$word")
            rest=${rest#"${rest%%[![:blank:]]*}"}
        fi
        ((i == COMP_CWORD)) || rest=${rest#"$word"}
    done
    # The last word ends at the cursor. Of that, bash replaces what is behind the last break.
    local fragment=$rest
    words[-1]=${words[-1]%"${COMP_WORDS[COMP_CWORD]}"}$fragment
    case $fragment in = | :) fragment= ;; esac
    local kept=${words[-1]%"$fragment"}

    local line lines=() directive=1
    while IFS= read -r line; do
        lines+=("$line")
    done < <("${words[0]/#\~/$HOME}" __complete "${words[@]:1}" 2>/dev/null </dev/null)
    if ((${#lines[@]})) && [[ ${lines[-1]} =~ ^:([0-9]+)$ ]]; then
        directive=${BASH_REMATCH[1]}
        unset 'lines[-1]'
    fi
    COMPREPLY=()
    ((directive & 1)) && return
    if ((directive & 8)); then
        compopt -o filenames
        for line in "${lines[@]}"; do
            mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -X "!*.$line" -- "$fragment")
        done
        mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -d -- "$fragment")
        return
    fi
    ((directive & 2)) && compopt -o nospace
    local tab=$'\t' widest=0
    for line in "${lines[@]}"; do
        word=${line%%"$tab"*}
        ((${#word} <= widest)) || widest=${#word}
    done
    for line in "${lines[@]}"; do
        word=${line%%"$tab"*}
        # Descriptions are for a list that is looked at, not for what is put into the line.
        if ((COMP_TYPE == 63 && ${#lines[@]} > 1)) && [[ $line == *"$tab"* ]]; then
            printf -v word '%-*s  (%s)' "$widest" "$word" "${line#*"$tab"}"
            COMPREPLY+=("$word")
        else
            COMPREPLY+=("${word#"$kept"}")
        fi
    done
    if ((!(directive & 4) && ${#lines[@]} == 0)); then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$fragment")
    fi
}

complete -F _certagent certagent
