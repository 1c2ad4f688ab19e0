#!/usr/bin/env bash
# Full disks: a store on a tmpfs of increasing size, too small at first, on which `tvix` adds, builds
# and collects. Failures must report a full disk; `nix-store` must find all valid paths intact; and a
# garbage collection must run.
#
#     tests/long/full-disk.sh [STEP]
#
# Sizes go from 200 KiB to 12 MiB by STEP (64) KiB. Must run as root. Requires tvix (TVIX=..., default: the
# debug binary), nix-store and a static busybox. Exits with 1 if there was a violation.
set -euo pipefail

step=${1:-64}
workspace=$(cd "$(dirname "$0")/../.." && pwd)
tvix=${TVIX:-${CARGO_TARGET_DIR:-$workspace/target}/debug/tvix}
[ -x "$tvix" ] || (cd "$workspace" && cargo build --quiet -p tvix-cli)
busybox=$(command -v busybox)
work=$(mktemp -d)
trap 'umount "$work/disk" 2>/dev/null || true; rm -rf "$work"' EXIT
export HOME=$work NIX_REMOTE='' NIX_CONF_DIR=$work NIX_CONFIG='build-users-group ='
mkdir -p "$work/disk" "$work/tree/folder"
for n in 1 2 3; do head -c 700000 /dev/urandom > "$work/tree/folder/file-$n"; done
for n in $(seq 200); do echo "$n" > "$work/tree/file-$n"; done
head -c 1000 /dev/urandom > "$work/small"
cat > "$work/build.nix" <<'NIX'
derivation { name = "built"; system = builtins.currentSystem; builder = "/bin/sh";
  args = [ "-c" "head -c 1500000 /dev/zero > $out" ]; }
NIX

bad=0 failed=0 fine=0
violation() { echo "$*"; bad=$((bad + 1)); }
# Name of the operation, and its command.
try() {
    local what=$1
    shift
    if "$@" > /dev/null 2> "$work/log"; then
        fine=$((fine + 1))
    else
        failed=$((failed + 1))
        # busybox in a builder, and SQLite for its index in shared memory, report "I/O error".
        grep -qE 'No space left|disk is full|I/O error|os error 28' "$work/log" \
            || violation "$size KiB, $what: $(tail -3 "$work/log")"
    fi
}
for ((size = 200; size <= 12288; size += step)); do
    mount -t tmpfs -o "size=${size}k" none "$work/disk"
    root=$work/disk/root
    try add "$tvix" store add --store "$root" "$work/small" "$work/tree"
    try build "$tvix" build --store "$root" --sandbox-path "/bin/sh=$busybox" --no-out-link -f "$work/build.nix"
    if [ -e "$root/nix/var/nix/db/schema" ]; then
        "$tvix" store verify --store "$root" 2> "$work/log" || violation "$size KiB, verify: $(tail -3 "$work/log")"
        # Nix needs free space to verify.
        mount -o "remount,size=$((size + 20000))k" "$work/disk"
        log=$(nix-store --store "$root" --verify --check-contents 2>&1) || violation "$size KiB, Nix: $log"
        if grep -E 'error|disappeared|modified' <<< "$log"; then violation "$size KiB, Nix complains"; fi
        rm -f "$root/nix/var/nix/db/reserved"
        mount -o "remount,size=${size}k" "$work/disk" 2> /dev/null || true
        # Fill the disk completely.
        cat /dev/zero > "$work/disk/filler" 2> /dev/null || true
        try collect "$tvix" store gc --store "$root"
        rm "$work/disk/filler"
        try collect "$tvix" store gc --store "$root"
        "$tvix" store verify --store "$root" 2> "$work/log" || violation "$size KiB, verify: $(tail -3 "$work/log")"
    fi
    umount "$work/disk"
done
echo "$bad violations; $fine succeeded, $failed said that the disk is full"
[ "$bad" = 0 ]
