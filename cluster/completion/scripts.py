"""What each shell has to be told; the words themselves come from ``eyespot completion --words ...`` at each TAB."""

BASH = r"""# Completion of eyespot for bash.
_eyespot() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ $line == ':files' ]]; then
            compopt -o default 2>/dev/null
        else
            COMPREPLY+=("${line%%$'\t'*}")
        fi
    done < <("$1" completion --words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _eyespot eyespot
"""

ZSH = r"""#compdef eyespot
# Completion of eyespot for zsh.
_eyespot() {
    local line files=0
    local -a plain described
    for line in "${(@f)$("${words[1]}" completion --words "${(@Q)words[2,CURRENT]}" 2>/dev/null)}"; do
        case $line in
            '') ;;
            :files) files=1 ;;
            *$'\t'*) described+=("${line%%$'\t'*}:${line#*$'\t'}") ;;
            *) plain+=("$line") ;;
        esac
    done
    (( $#described )) && _describe eyespot described
    (( $#plain )) && compadd -a plain
    (( files )) && _files
    return 0
}
if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then
    _eyespot "$@"
else
    compdef _eyespot eyespot
fi
"""

FISH = r"""# Completion of eyespot for fish.
function __eyespot_words
    set -l typed (commandline -opc)
    set -l current (commandline -ct)
    for line in ($typed[1] completion --words $typed[2..-1] "$current" 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path "$current"
        else
            echo $line
        end
    end
end
complete -c eyespot -f -a '(__eyespot_words)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
"""By the name of the shell."""
