#!/bin/sh
# Records what the prompt of C++ Nix 2.34.8 says to each file of input here: NAME.out for standard output
# and NAME.err for standard error, without colours, the version and the directory.
# Usage: record.sh NIX..., where NIX... runs the program `nix`.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
cp "$here"/*.nix "$work"
cd "$work"
clean() {
    sed -e 's/\x1b\[[0-9;]*m//g' -e "s|$work|@DIR@|g" -e '/^Nix 2\.34\.8$/d'
}
for input in "$here"/*.in; do
    name=$(basename "$input" .in)
    HOME=$work "$@" --extra-experimental-features nix-command repl --store "$work/store" \
        <"$input" >"$work/out" 2>"$work/err" || true
    clean <"$work/out" >"$here/$name.out"
    clean <"$work/err" >"$here/$name.err"
done
rm -rf "$work"
