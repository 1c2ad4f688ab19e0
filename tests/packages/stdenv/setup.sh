# Phases, hooks and search paths: what every package is built with.
set -eu -o pipefail
hooks=()
addHook() { hooks+=("$1"); }
runHooks() { for hook in "${hooks[@]}"; do "$hook" "$1"; done; }
findInputs() { for input in $1; do addToPath PATH "$input/bin"; [ -e "$input/support/setup-hook" ] && source "$input/support/setup-hook"; done; }
genericBuild() { for phase in ${phases:-unpack patch configure build check install fixup}; do "${phase}Phase"; done; }
