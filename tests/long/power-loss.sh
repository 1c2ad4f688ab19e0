#!/usr/bin/env bash
# Power failures: a store on a loop-mounted ext4 with delayed write-back. The image is copied at random
# points while all writers are stopped, and the copy is mounted and verified. Data in the kernel's
# memory is not in the copy, as after a power failure.
#
#     tests/long/power-loss.sh [ROUNDS]
#
# Must run as root. Requires tvix (TVIX=..., default: the debug binary) and nix-store. DURABILITY (full)
# is the durability option of the store: `full` must never lose contents of valid paths; `relaxed` may.
# Exits with 1 if a copy had a violation.
set -euo pipefail

rounds=${1:-20}
durability=${DURABILITY:-full}
workspace=$(cd "$(dirname "$0")/../.." && pwd)
tvix=${TVIX:-${CARGO_TARGET_DIR:-$workspace/target}/debug/tvix}
[ -x "$tvix" ] || (cd "$workspace" && cargo build --quiet -p tvix-cli)

work=$(mktemp -d)
worker=
finish() {
    [ -z "$worker" ] || kill -CONT -- "-$worker" 2>/dev/null || true
    [ -z "$worker" ] || kill -KILL -- "-$worker" 2>/dev/null || true
    sleep 0.2
    umount "$work/copy" 2>/dev/null || true
    umount "$work/disk" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
export HOME=$work NIX_REMOTE='' NIX_CONF_DIR=$work NIX_CONFIG='build-users-group ='

truncate -s 400M "$work/image"
mkfs.ext4 -q -F "$work/image"
mkdir "$work/disk" "$work/copy"
mount -o loop,commit=300 "$work/image" "$work/disk"
root=$work/disk/root

workload() {
    local n=0
    while :; do
        n=$((n + 1))
        rm -rf "$work/tree"
        mkdir -p "$work/tree/folder"
        head -c $((RANDOM * 3)) /dev/urandom > "$work/tree/folder/file"
        echo "$n" > "$work/tree/number"
        "$tvix" store add --store "local?root=$root&durability=$durability" --name "tree-$n" "$work/tree" \
            >> "$work/added" 2>> "$work/log"
        if [ $((n % 20)) = 0 ]; then
            "$tvix" store gc --store "local?root=$root&durability=$durability" --max-freed 300K 2>> "$work/log"
        fi
    done
}
export -f workload
export work root tvix durability
: > "$work/added"
setsid bash -c workload &
worker=$!

bad=0
for ((round = 1; round <= rounds; round++)); do
    sleep "1.$((RANDOM % 900 + 100))"
    kill -STOP -- "-$worker"
    last=$(tail -n 1 "$work/added")
    # A separate file: a mount namespace created meanwhile by another process may keep the last one
    # mounted, and its loop device with cached data would be reused.
    cp --sparse=always "$work/image" "$work/copied-$round"
    kill -CONT -- "-$worker"
    mount -o loop "$work/copied-$round" "$work/copy"
    copy=$work/copy/root
    if [ -e "$copy/nix/var/nix/db/schema" ]; then
        log=$(nix-store --store "$copy" --verify --check-contents 2>&1) && failed= || failed=1
        if [ -n "$failed" ] || grep -qE 'error|warning|disappeared|modified' <<< "$log"; then
            bad=$((bad + 1))
            echo "round $round: $(grep -E 'error|warning|disappeared|modified' <<< "$log" | head -3)"
        fi
        "$tvix" store verify --store "$copy" 2> /dev/null || { bad=$((bad + 1)); echo "round $round: tvix"; }
        # Paths of successful additions are there. Collections delete the oldest first.
        if [ "$durability" = full ] && [ -n "$last" ]; then
            "$tvix" store path-info --store "$copy" "$last" > /dev/null \
                || { bad=$((bad + 1)); echo "round $round: $last is forgotten"; }
        fi
        # The store is writable.
        "$tvix" store add --store "$copy" "$0" > /dev/null || { bad=$((bad + 1)); echo "round $round: add"; }
        echo "round $round: $("$tvix" store path-info --store "$copy" | wc -l) paths of $(wc -l < "$work/added")"
    fi
    umount "$work/copy"
    rm "$work/copied-$round"
done
echo "$bad violations in $rounds copies with durability=$durability"
[ "$bad" = 0 ]
