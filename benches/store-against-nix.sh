#!/usr/bin/env bash
# Times the local store against Nix's in one run, taking turns: adding small files, one large file and
# a tree of many files; copying to a binary cache; collecting many paths. Each in fresh stores. Prints
# a table: the best of all rounds, and the worst beside it.
#
#     benches/store-against-nix.sh [ROUNDS]
#
# Takes the release binary of tvix (TVIX=..., default: the one of the target directory, built if it
# is missing), nix-store, nix and GNU time. SMALL (10000) files, LARGE (2048) MiB, TREE (100000) files,
# COPY (2000) paths and GARBAGE (100000) paths; what is 0 is left out. WORK is where it happens
# (default: a temporary directory), RUN what both are run by (`chrt -f 10`, say, on a busy machine).
#
# Nothing is removed before the end but large files: ext4 without a journal makes files ever more
# slowly for minutes where many were removed.
set -euo pipefail

rounds=${1:-3}
small=${SMALL:-10000}
large=${LARGE:-2048}
tree=${TREE:-100000}
copy=${COPY:-2000}
garbage=${GARBAGE:-100000}
workspace=$(cd "$(dirname "$0")/.." && pwd)
tvix=${TVIX:-${CARGO_TARGET_DIR:-$workspace/target}/release/tvix}
if [ -z "${TVIX:-}" ]; then
    (cd "$workspace" && cargo build --quiet --release -p tvix-cli)
fi
work=$(mktemp -d "${WORK:-${TMPDIR:-/tmp}}/store-bench.XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
export HOME=$work NIX_REMOTE='' NIX_CONF_DIR=$work
export NIX_CONFIG='build-users-group =
substituters =
experimental-features = nix-command'
read -ra run <<< "${RUN:-}"

# Files of that many, in folders of 1000: FOLDER COUNT.
files() {
    awk -v folder="$1" -v count="$2" 'BEGIN {
        for (n = 0; n < count; n++) {
            if (n % 1000 == 0) system("mkdir -p " folder "/" int(n / 1000))
            file = folder "/" int(n / 1000) "/file-" n
            print "contents of file number " n > file
            close(file)
        }
    }'
    find "$1" -type f -print0 > "$1.list"
}

# Milliseconds and the peak of memory in KiB of a command.
measure() {
    local begin end
    begin=$(date +%s%N)
    command time -q -f %M -o "$work/peak" "${run[@]}" "$@" > "$work/out" 2> "$work/log" \
        || { cat "$work/log" >&2; exit 1; }
    end=$(date +%s%N)
    echo $(((end - begin) / 1000000)) "$(tail -n 1 "$work/peak")"
}

row() { printf '%-42s %16s %16s %8s %14s\n' "$@"; }

span() { sort -n <<< "$1" | awk 'NR == 1 { best = $1 } { worst = $1 } END { printf "%.2f to %.2f s", best / 1000, worst / 1000 }'; }

best() { sort -n <<< "$1" | awk -v of="$2" 'NF && !found { print $of; found = 1 }'; }

# NAME PREPARE OURS THEIRS [FORGET]: the last removes a store at once.
compare() {
    local name=$1 prepare=$2 forget=${5:-} times_ours='' times_theirs='' who
    for ((round = 0; round < rounds; round++)); do
        # Whoever is first in one round is last in the next.
        if ((round % 2)); then turn='theirs ours'; else turn='ours theirs'; fi
        for who in $turn; do
            store=$(mktemp -d "$work/store.XXXXXX")
            "$prepare"
            sync
            if [ $who = ours ]; then
                times_ours+=$(measure bash -c "$3" - "$store" "$tvix")$'\n'
            else
                times_theirs+=$(measure bash -c "$4" - "$store")$'\n'
            fi
            if [ -n "$forget" ]; then chmod -R u+w "$store"; rm -rf "$store"; fi
        done
    done
    times_ours=${times_ours%$'\n'} times_theirs=${times_theirs%$'\n'}
    row "$name" "$(span "$times_ours")" "$(span "$times_theirs")" \
        "$(awk -v t="$(best "$times_theirs" 1)" -v o="$(best "$times_ours" 1)" 'BEGIN { printf "%.1fx", t / o }')" \
        "$(best "$times_ours" 2)/$(best "$times_theirs" 2)"
}

empty() { "$tvix" store gc --store "$store" 2> /dev/null; }

echo "$("$tvix" --version) and $(nix-store --version), $rounds rounds, $(nproc) processors," \
    "$(stat -f -c %T "$work")"
row '' tvix nix ratio 'peak KiB'

if [ "$small" != 0 ]; then
    files "$work/small" "$small"
    list="xargs -0 -a $work/small.list -n 5000"
    compare "add $small small files" empty "$list \"\$2\" store add --store \"\$1\"" "$list nix-store --store \"\$1\" --add"
    compare "  the same, durability=full" empty "$list \"\$2\" store add --store \"local?root=\$1&durability=full\"" \
        "$list nix-store --store \"\$1\" --add"
fi

if [ "$large" != 0 ]; then
    head -c "${large}M" /dev/urandom > "$work/large"
    compare "add a file of $large MiB" empty "\"\$2\" store add --store \"\$1\" $work/large" \
        "nix-store --store \"\$1\" --add $work/large" forget
    for hash in sha256sum 'openssl dgst -sha256'; do
        # shellcheck disable=SC2086
        if command -v ${hash%% *} > /dev/null; then
            row "  $hash of it" "$(span "$(measure $hash "$work/large")")" '' '' ''
        fi
    done
    rm "$work/large"
fi

if [ "$tree" != 0 ]; then
    files "$work/tree" "$tree"
    compare "add a tree of $tree files" empty "\"\$2\" store add --store \"\$1\" $work/tree" \
        "nix-store --store \"\$1\" --add $work/tree"
fi

if [ "$copy" != 0 ]; then
    files "$work/copy" "$copy"
    source=$work/source
    xargs -0 -a "$work/copy.list" "$tvix" store add --store "$source" > "$work/paths"
    nothing() { :; }
    compare "copy $copy paths to a file:// cache" nothing \
        "xargs -a $work/paths \"\$2\" store copy --from $source --to \"file://\$1/cache?compression=zstd\"" \
        "xargs -a $work/paths nix copy --store $source --to \"file://\$1/cache?compression=zstd\""
    compare "copy $copy paths to another store" empty \
        "xargs -a $work/paths \"\$2\" store copy --from $source --to \"\$1\"" \
        "xargs -a $work/paths nix copy --no-check-sigs --store $source --to \"\$1\""
fi

if [ "$garbage" != 0 ]; then
    files "$work/garbage" "$garbage"
    xargs -0 -a "$work/garbage.list" -n 5000 "$tvix" store add --store "$work/full" > /dev/null
    copied() { cp -a "$work/full/." "$store/"; }
    compare "collect $garbage paths" copied "\"\$2\" store gc --store \"\$1\"" "nix-store --store \"\$1\" --gc"
fi
