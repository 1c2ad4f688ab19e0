#!/usr/bin/env bash
# Makes goldens/derivations from derivations.nix with real Nix (made with 2.8.0): each .drv file
# under its store path's name, index.txt with attribute and path, and show-derivation.json.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d)
trap 'chmod -R u+w "$root"; rm -rf "$root"' EXIT
export NIX_CONFIG='experimental-features = nix-command ca-derivations'
out="$here/derivations"
rm -rf "$out" && mkdir -p "$out"
attrs=$(nix-instantiate --store "$root" --eval --json -E "builtins.attrNames (import $here/derivations.nix)" | tr -d '[]"' | tr ',' ' ')
drvs=()
for attr in $attrs; do
    drv=$(nix-instantiate --store "$root" "$here/derivations.nix" -A "$attr" 2>/dev/null | sed 's/!.*//')
    echo "$attr ${drv##*/}" >> "$out/index.txt"
    drvs+=("$drv")
done
cp "$root"/nix/store/*.drv "$out"
nix show-derivation --store "$root" "${drvs[@]}" > "$out/show-derivation.json"
chmod 644 "$out"/*
