#!/usr/bin/env bash
# Makes goldens/derivations from derivations.nix with real Nix (made with 2.8.0): each .drv file
# under its store path's name, index.txt with attribute and path, and show-derivation.json.
#
# derivation-show.json is what a newer one says of the same derivations (made with 2.34.8). Such a
# one makes it in place of the rest, for instance in a chroot made with debootstrap from Debian sid
# with its package nix-bin: `make-derivations.sh show > derivation-show.json`.
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
# Not derivation-show.json, which another version makes.
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
