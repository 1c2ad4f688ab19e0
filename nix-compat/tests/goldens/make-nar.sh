#!/usr/bin/env bash
# Makes the archives in `nar/` next to this script with C++ Nix (recorded with 2.8.0):
#
#     ./make-nar.sh
#
# Requires `nix-store` in PATH. The script creates the trees to pack.
set -euo pipefail
cd "$(dirname "$0")"
out=$PWD/nar
mkdir -p "$out"
trees=$(mktemp -d)
trap 'chmod -R u+w "$trees"; rm -rf "$trees"' EXIT
cd "$trees"
umask 022
export NIX_REMOTE='' NIX_STATE_DIR=$trees/.state NIX_STORE_DIR=$trees/.store

# A single node each.
: > empty-file
printf 'hello\n' > file
printf '12345678' > file-of-eight
printf '#!/bin/sh\n' > executable
chmod 755 executable
ln -s ../some/where symlink
mkdir empty-dir

# A file is executable if its owner may execute it, regardless of other users.
mkdir modes
for mode in 000 044 100 111 400 444 555 600 644 655 700 755; do
    printf '%s' "$mode" > "modes/$mode"
    chmod "$mode" "modes/$mode"
done

# Names are sorted by bytes, and need not be UTF-8.
mkdir order
for name in B a a.b a-b ab A '~' ' ' $'\xff' $'\xc3\xa4' 'a b' a0 '...' '.x' 'case' 'CASE' $'new\nline'; do
    printf x > "order/$name"
done

# Every length of padding, in names, contents and targets.
mkdir padding
for len in 1 2 3 4 5 6 7 8 9; do
    text=$(printf '%*s' "$len" '' | tr ' ' p)
    printf '%s' "$text" > "padding/$text"
    ln -s "$text" "padding/l$text"
done

# All kinds of nodes, nested.
mkdir -p tree/bin tree/lib/deep/er tree/share/empty
printf '#!/bin/sh\necho hi\n' > tree/bin/run
chmod 755 tree/bin/run
ln -s run tree/bin/alias
ln -s /absolute/target tree/bin/dangling
printf 'x' > tree/lib/deep/er/one
: > tree/lib/empty
printf 'a\0b' > tree/lib/nul
ln -s ../../share tree/lib/deep/up

# Names and targets of maximum length: 255 and 4095 bytes.
mkdir long
printf y > "long/$(printf '%255s' '' | tr ' ' n)"
ln -s "$(printf '%4095s' '' | tr ' ' t)" long/link

# 64 nested directories, the maximum that readers accept.
mkdir -p "deep/$(printf 'd/%.0s' $(seq 63))"
printf z > "deep/$(printf 'd/%.0s' $(seq 63))leaf"

for tree in *; do
    nix-store --dump "$tree" > "$out/$tree.nar"
done
