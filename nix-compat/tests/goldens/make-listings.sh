#!/usr/bin/env bash
# Makes the listings in `listing/` next to this script with C++ Nix (recorded with 2.34.8), from the
# archives in `nar/`:
#
#     ./make-listings.sh
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
export NIX_REMOTE='' NIX_CONFIG=$'substituters =\nbuild-users-group =\nexperimental-features = nix-command'
mkdir -p listing
for name in executable file padding symlink tree; do
    nix-store --restore "$work/$name" < "nar/$name.nar"
    path=$(nix-store --store "$work/store" --add "$work/$name")
    nix copy --from "$work/store" --to "file://$work/cache?write-nar-listing=true" "$path"
    base=${path##*/}
    cp "$work/cache/${base:0:32}.ls" "listing/$name.ls"
done
