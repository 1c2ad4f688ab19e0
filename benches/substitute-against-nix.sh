#!/usr/bin/env bash
# Times how long a closure takes from a binary cache that is far away: `tvix store copy` against
# `nix copy` and `nix-store -r`. The cache is one that Nix wrote, served by one server that lets each
# request wait. Each copies into a fresh store every round, taking turns.
#
#     benches/substitute-against-nix.sh [ROUNDS]
#
# Takes the release binaries of tvix and slow_cache (TVIX=..., SLOW_CACHE=..., default: those of the
# target directory, built if none is given), nix, nix-store and nix-instantiate.
# PATHS (1000) is how many paths the closure has, LATENCY (20) how many milliseconds a request waits,
# COMPRESSION (xz) what the cache has.
set -euo pipefail

rounds=${1:-5}
paths=${PATHS:-1000}
latency=${LATENCY:-20}
compression=${COMPRESSION:-xz}
for program in nix nix-store nix-instantiate; do
    command -v "$program" >/dev/null || { echo "needs $program" >&2; exit 2; }
done

workspace=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$workspace/target}/release
if [ -z "${TVIX:-}" ] || [ -z "${SLOW_CACHE:-}" ]; then
    (cd "$workspace" && cargo build --quiet --release -p tvix-cli -p tvix-benches --bin tvix --bin slow_cache)
fi
tvix=${TVIX:-$target/tvix}
slow_cache=${SLOW_CACHE:-$target/slow_cache}

work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; chmod -R u+w "$work"; rm -rf "$work"' EXIT
export NIX_REMOTE='' NIX_CONF_DIR=$work HOME=$work/home
export NIX_CONFIG='substituters =
build-users-group =
experimental-features = nix-command'

# Texts of about 10 KB in rows of 50, each of which refers to five of the row before.
cat > "$work/closure.nix" <<'NIX'
{ paths, width ? 50 }:
let
  padding = builtins.concatStringsSep "\n" (builtins.genList (n: "line ${toString n} of some text") 400);
  text = before: row: column:
    builtins.toFile "text-${toString row}-${toString column}" (padding + toString row + "-" + toString column
      + (if before == [ ] then ""
         else builtins.concatStringsSep "\n" (builtins.genList (n:
           builtins.elemAt before (let i = column + n * 7; in i - width * (i / width))) 5)));
  row = before: number: builtins.genList (text before number) width;
  rows = builtins.foldl' (before: number: row before number) [ ] (builtins.genList (n: n) (paths / width));
in builtins.toFile "top" (builtins.concatStringsSep "\n" rows)
NIX
top=$(nix-instantiate --store "$work/source" --eval --read-write-mode "$work/closure.nix" \
    --arg paths "$paths" | tr -d '"')
nix copy --store "$work/source" --to "file://$work/cache?compression=$compression" "$top" 2>/dev/null

"$slow_cache" "$work/cache" "$latency" > "$work/address" &
server=$!
until [ -s "$work/address" ]; do sleep 0.1; done
uri=$(cat "$work/address")

# In milliseconds, into the file $1.
timed() {
    local into=$1 begin end
    shift
    begin=$(date +%s%N)
    "$@" > "$work/out" 2> "$work/err" || { cat "$work/err" >&2; exit 1; }
    end=$(date +%s%N)
    echo $(((end - begin) / 1000000)) >> "$into"
}

fresh() {
    chmod -R u+w "$work/root" "$HOME" 2>/dev/null || true
    rm -rf "$work/root" "$HOME"
    mkdir "$work/root" "$HOME"
}

by_tvix() { "$tvix" store copy --from "$uri" --to "$work/root" "$top"; }
by_copy() { nix copy --store "$work/root" --from "$uri" "$top"; }
by_realise() { nix-store --store "$work/root" --option substituters "$uri" -r "$top"; }

for ((round = 0; round < rounds; round++)); do
    # Whoever is first in one round is last in the next.
    if ((round % 2)); then turn='realise copy tvix'; else turn='tvix copy realise'; fi
    for what in $turn; do
        fresh
        timed "$work/times.$what" "by_$what"
        found=$(nix-store --store "$work/root" -qR "$top" | wc -l)
        [ "$found" -gt "$paths" ] || { echo "$what: only $found paths came" >&2; exit 1; }
    done
done

median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

echo "$found paths ($compression) from a cache $latency ms away, median of $rounds rounds; $("$tvix" --version), $(nix --version)"
ours=$(median "$work/times.tvix")
printf '%-20s %8.0f ms\n' 'tvix store copy' "$ours"
for what in copy realise; do
    theirs=$(median "$work/times.$what")
    case $what in copy) name='nix copy' ;; *) name='nix-store -r' ;; esac
    awk -v n="$name" -v t="$theirs" -v o="$ours" 'BEGIN { printf "%-20s %8.0f ms  %5.1fx\n", n, t, t / o }'
done
