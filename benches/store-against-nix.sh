#!/usr/bin/env bash
# Times the local store against Nix's in one run: adding small files, one large file and a tree of
# many files; collecting many paths. Each in fresh stores, taking turns, best of ROUNDS.
#
#     benches/store-against-nix.sh [ROUNDS]
#
# Takes the release binary of tvix (TVIX=..., default: the one of the target directory, built if it
# is missing) and nix-store. SMALL (10000) files, LARGE (2048) MiB, TREE (100000) files and GARBAGE
# (100000) paths; what is 0 is left out. WORK is where it happens (default: a temporary directory).
set -euo pipefail

rounds=${1:-3}
small=${SMALL:-10000}
large=${LARGE:-2048}
tree=${TREE:-100000}
garbage=${GARBAGE:-100000}
workspace=$(cd "$(dirname "$0")/.." && pwd)
tvix=${TVIX:-${CARGO_TARGET_DIR:-$workspace/target}/release/tvix}
if [ -z "${TVIX:-}" ]; then
    (cd "$workspace" && cargo build --quiet --release -p tvix-cli)
fi
work=$(mktemp -d "${WORK:-${TMPDIR:-/tmp}}/store-bench.XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
export HOME=$work NIX_REMOTE='' NIX_CONF_DIR=$work

# Files of that many, in folders of 1000: FOLDER COUNT.
files() {
    mkdir "$1"
    local n
    for ((n = 0; n < $2; n++)); do
        [ $((n % 1000)) != 0 ] || mkdir "$1/$((n / 1000))"
        echo "contents of file number $n" > "$1/$((n / 1000))/file-$n"
    done
}

seconds() {
    local begin end
    begin=$(date +%s%N)
    "$@" > /dev/null 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
    end=$(date +%s%N)
    echo $(((end - begin) / 1000000))
}

forget() { chmod -R u+w "$work/store-$1"; rm -rf "$work/store-$1"; }

# Milliseconds of both, best of all rounds: NAME PREPARE OURS THEIRS.
compare() {
    local name=$1 prepare=$2 ours=$3 theirs=$4 best_ours= best_theirs= ms
    for ((round = 0; round < rounds; round++)); do
        for who in ours theirs; do
            "$prepare" "$who"
            sync
            if [ $who = ours ]; then ms=$(seconds "$ours"); else ms=$(seconds "$theirs"); fi
            local best=best_$who
            [ -n "${!best}" ] && [ "${!best}" -le "$ms" ] || printf -v "$best" %s "$ms"
            forget $who
        done
    done
    echo "$name: tvix $best_ours ms, nix $best_theirs ms, $((best_theirs * 10 / best_ours)) tenths times faster"
}

# An empty store.
empty() {
    "$tvix" store gc --store "$work/store-$1" 2> /dev/null
}

if [ "$small" != 0 ]; then
    files "$work/small" "$small"
    ours() { find "$work/small" -type f -print0 | xargs -0 -n 5000 "$tvix" store add --store "$work/store-ours"; }
    theirs() { find "$work/small" -type f -print0 | xargs -0 -n 5000 nix-store --store "$work/store-theirs" --add; }
    compare "$small small files" empty ours theirs
fi

if [ "$large" != 0 ]; then
    head -c "${large}M" /dev/urandom > "$work/large"
    ours() { "$tvix" store add --store "$work/store-ours" "$work/large"; }
    theirs() { nix-store --store "$work/store-theirs" --add "$work/large"; }
    compare "a file of $large MiB" empty ours theirs
    echo "hashing it alone takes $(seconds nix-hash --type sha256 --flat "$work/large") ms with nix-hash," \
        "$(seconds openssl dgst -sha256 "$work/large") with openssl"
    rm "$work/large"
fi

if [ "$tree" != 0 ]; then
    files "$work/tree" "$tree"
    ours() { "$tvix" store add --store "$work/store-ours" "$work/tree"; }
    theirs() { nix-store --store "$work/store-theirs" --add "$work/tree"; }
    compare "a tree of $tree files" empty ours theirs
    rm -rf "$work/tree"
fi

if [ "$garbage" != 0 ]; then
    files "$work/garbage" "$garbage"
    "$tvix" store gc --store "$work/store-full" 2> /dev/null
    find "$work/garbage" -type f -print0 | xargs -0 -n 5000 "$tvix" store add --store "$work/store-full" > /dev/null
    rm -rf "$work/garbage"
    copied() { cp -a "$work/store-full" "$work/store-$1"; }
    ours() { "$tvix" store gc --store "$work/store-ours"; }
    theirs() { nix-store --store "$work/store-theirs" --gc; }
    compare "collecting $garbage paths" copied ours theirs
fi
