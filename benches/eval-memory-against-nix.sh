#!/usr/bin/env bash
# Peak memory, time and page faults of large evaluations by tvix and by C++ Nix, in one run.
#
#   benches/eval-memory-against-nix.sh NIXPKGS [FLEET]
#
# FLEET is a file with a function of `{ n }` that evaluates to a list of n derivation paths, each of a NixOS system;
# it is evaluated for 1, 4 and 12. NIX_INSTANTIATE is the peer (default: nix-instantiate), TVIX the command (default:
# it is built). Needs /usr/bin/time and python3. Both must print the same, or it says so.
set -euo pipefail
tree=$(realpath "${1:?a nixpkgs tree}")
fleet=${2:+$(realpath "$2")}
read -ra peer <<<"${NIX_INSTANTIATE:-nix-instantiate}"
if [ -z "${TVIX:-}" ]; then
    cd "$(dirname "$0")/.."
    cargo build -q --release -p tvix-cli
    TVIX=$(realpath "${CARGO_TARGET_DIR:-target}/release/tvix")
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export NIX_REMOTE= HOME=$work

# measure NAME COMMAND…: peak in MB, user and system seconds, page faults
measure() {
    local name=$1
    shift
    /usr/bin/time -f '%M %U %S %R' -o "$work/time" "$@" >"$work/$name" 2>"$work/$name.errors" ||
        { tail -n 3 "$work/$name.errors" >&2; return 1; }
    awk '{ printf "%.0f %s %s %s", $1 / 1000, $2, $3, $4 }' "$work/time"
}

row() {
    local ours theirs
    ours=$(measure ours "$TVIX" eval --json -E "$2") || ours="- - - -"
    theirs=$(measure theirs "${peer[@]}" --readonly-mode --eval --strict --json -E "$2") || theirs="- - - -"
    # shellcheck disable=SC2086
    printf '%-34s %6s %8s %8s %9s   %6s %8s %8s %9s\n' "$1" $ours $theirs
    cmp -s "$work/ours" "$work/theirs" || echo "  the results differ"
}

packages="(import $tree { config = { }; overlays = [ ]; })"
printf '%-34s %35s   %34s\n' '' tvix 'C++ Nix'
printf '%-34s %6s %8s %8s %9s   %6s %8s %8s %9s\n' '' MB user system faults MB user system faults
for attribute in hello gimp; do
    row "$attribute" "$packages.$attribute.drvPath"
done
row "text that refers to 40,000" 'builtins.stringLength (builtins.concatStringsSep "" (builtins.genList (n:
    "${derivation { name = "d${toString n}"; system = "x"; builder = "y"; }}") 40000))'
row "48 package sets" "map (n: (import $tree { config = { }; overlays = [ (self: super: { marker = n; }) ]; }).hello.drvPath)
    (builtins.genList (n: n) 48)"
for hosts in ${fleet:+1 4 12}; do
    row "$hosts hosts" "import $fleet { n = $hosts; }"
done
