#!/usr/bin/env bash
# `tvix store optimise --reflink` on Btrfs and XFS, each in a loop-mounted image: equal files share
# their blocks afterwards, keep separate inodes, and have unchanged contents.
#
#     tests/long/reflinks.sh
#
# Must run as root. Requires mkfs.btrfs, mkfs.xfs, filefrag and tvix (TVIX=..., default: the debug
# binary). Exits with 1 if a file shares no blocks, or has changed.
set -euo pipefail

workspace=$(cd "$(dirname "$0")/../.." && pwd)
tvix=${TVIX:-${CARGO_TARGET_DIR:-$workspace/target}/debug/tvix}
[ -x "$tvix" ] || (cd "$workspace" && cargo build --quiet -p tvix-cli)

work=$(mktemp -d)
trap 'umount "$work"/mount-* 2>/dev/null || true; rm -rf "$work"' EXIT

failed=0
for system in btrfs xfs; do
    truncate -s 600M "$work/image-$system"
    "mkfs.$system" -q "$work/image-$system" > /dev/null
    mount=$work/mount-$system
    mkdir "$mount"
    mount -o loop "$work/image-$system" "$mount"
    mkdir "$mount/trees"
    head -c 8M /dev/urandom > "$mount/trees/equal"
    for tree in 1 2 3; do
        mkdir "$mount/trees/$tree"
        cat "$mount/trees/equal" > "$mount/trees/$tree/one"
        cat "$mount/trees/equal" > "$mount/trees/$tree/other"
        echo "$tree" > "$mount/trees/$tree/small"
        "$tvix" store add --store "$mount/store" "$mount/trees/$tree" > /dev/null
    done
    sync
    before=$(df --output=used -k "$mount" | tail -n 1)
    "$tvix" store optimise --reflink --store "$mount/store"
    sync
    after=$(df --output=used -k "$mount" | tail -n 1)
    "$tvix" store verify --store "$mount/store" 2>&1 | sed "s/^/$system: /"
    mapfile -t files < <(find "$mount/store/nix/store" -name one -o -name other)
    [ "$(stat -c %i "${files[@]}" | sort -u | wc -l)" = 6 ] || { echo "$system: links, not copies"; failed=1; }
    # The extents of a file, without its name.
    blocks() { filefrag -v "$1" | awk '/^ *[0-9]+:/ { print $4, $5 }'; }
    for file in "${files[@]}"; do
        [ "$(blocks "$file")" = "$(blocks "${files[0]}")" ] || { echo "$system: $file has blocks of its own"; failed=1; }
    done
    echo "$system: $((before - after)) KiB freed of $before"
done
exit $failed
