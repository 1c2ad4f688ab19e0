#!/usr/bin/env bash
# Makes goldens/derivations from derivations.nix with C++ Nix (recorded with 2.8.0): each .drv file
# under the base name of its store path, index.txt with attributes and paths, and
# show-derivation.json.
#
# derivation-show.json is the output of a newer version for the same derivations (recorded with
# 2.34.8). Make it on its own with such a version, for instance in a chroot made by debootstrap from
# Debian sid with the package nix-bin: `make-derivations.sh show > derivation-show.json`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d)
trap 'chmod -R u+w "$root"; rm -rf "$root"' EXIT
export NIX_CONFIG='experimental-features = nix-command ca-derivations'
attrs=$(nix-instantiate --store "$root" --eval --json -E "builtins.attrNames (import $here/derivations.nix)" | tr -d '[]"' | tr ',' ' ')
if [ "${1-}" = show ]; then
    drvs=()
    for attr in $attrs; do
        drvs+=("$(nix-instantiate --store "$root" "$here/derivations.nix" -A "$attr" 2>/dev/null | sed 's/!.*//')")
    done
    nix derivation show --store "$root" "${drvs[@]}"
    exit
fi
out="$here/derivations"
# Except derivation-show.json, which a newer version makes.
mkdir -p "$out" && rm -f "$out"/*.drv "$out/index.txt" "$out/show-derivation.json"
drvs=()
for attr in $attrs; do
    drv=$(nix-instantiate --store "$root" "$here/derivations.nix" -A "$attr" 2>/dev/null | sed 's/!.*//')
    echo "$attr ${drv##*/}" >> "$out/index.txt"
    drvs+=("$drv")
done
cp "$root"/nix/store/*.drv "$out"
nix show-derivation --store "$root" "${drvs[@]}" > "$out/show-derivation.json"
chmod 644 "$out"/*
