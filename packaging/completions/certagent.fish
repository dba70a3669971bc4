# fish completion for certagent(8).
#
# certagent __complete WORD... prints one candidate a line, each with a tab and a description behind it, and at last a
# colon and a sum of: 1 nothing can be said, 2 no blank behind it, 4 no files, 8 files with these endings, 16 directories.

function __certagent_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l lines ($words[1] __complete $words[2..-1] "$current" 2>/dev/null </dev/null)
    set -l directive 1
    if string match -qr '^:[0-9]+$' -- "$lines[-1]"
        set directive (string sub -s 2 -- $lines[-1])
        set -e lines[-1]
    end
    # What stands in front of a value in the same word: --config=
    set -l kept (string match -r -- '^--[^=]*=' "$current")
    test -n "$kept"; or set kept ''
    set -l begun (string replace -r -- '^--[^=]*=' '' "$current")
    if test (math "bitand($directive, 1)") -ne 0
        return
    else if test (math "bitand($directive, 8)") -ne 0
        set -l endings (string join '|' -- $lines)
        printf '%s\n' $kept(__fish_complete_path "$begun" | string match -er "(\.($endings)|/)(\t|\$)")
    else if test (count $lines) -eq 0 -a (math "bitand($directive, 4)") -eq 0
        printf '%s\n' $kept(__fish_complete_path "$begun")
    else
        printf '%s\n' $lines
    end
end

complete -c certagent -e
complete -c certagent -f -a '(__certagent_complete)'
