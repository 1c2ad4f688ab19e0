#!/usr/bin/env bash
# Four processes on one store: random builds of the same derivations by tvix and by nix-build,
# additions by both, and garbage collections by both. Failed commands, wrong contents and errors of a
# final `nix-store --verify --check-contents` are violations.
#
#     tests/long/four-processes.sh [SECONDS]
#
# Requires tvix (TVIX=..., default: the debug binary, built if it is missing), Nix 2.8 or later and a
# static busybox. Exits with 1 if there was a violation.
set -euo pipefail

seconds=${1:-600}
workspace=$(cd "$(dirname "$0")/../.." && pwd)
tvix=${TVIX:-${CARGO_TARGET_DIR:-$workspace/target}/debug/tvix}
[ -x "$tvix" ] || (cd "$workspace" && cargo build --quiet -p tvix-cli)
busybox=$(command -v busybox)

work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
root=$work/root
export HOME=$work NIX_REMOTE='' NIX_CONF_DIR=$work NIX_CONFIG='substituters =
experimental-features =
build-users-group =
sandbox = true
sandbox-fallback = false
sandbox-paths = /bin/sh='$busybox
tvix_options=(--store "$root" --sandbox-path "/bin/sh=$busybox")
violations=$work/violations
: > "$violations"
end=$((SECONDS + seconds))

# A chain of derivations, each of which reads the output of the one before it.
cat > "$work/chain.nix" <<'NIX'
{ seed, length }: builtins.foldl' (before: n: derivation {
  name = "chain-${toString n}"; system = builtins.currentSystem; builder = "/bin/sh"; inherit seed;
  outputs = [ "out" "dev" ];
  before = if before == null then builtins.toFile "begin" seed else before.out;
  args = [ "-c" "read line < $before || :; echo $line ${toString n} > $out; echo $out > $dev" ];
}) null (builtins.genList (n: n) length)
NIX

violation() { echo "$*" | tee -a "$violations" >&2; }

# BUILDER NUMBER: builds, and reads the outputs.
build() {
    local by=$1 number=$2 count=0 seed length log expected n
    log=$work/build-$number.log
    while [ $SECONDS -lt $end ]; do
        # Earlier outputs may be collected from now on.
        rm -f "$work/result-$number"*
        seed=s$((RANDOM % 12)) length=$((RANDOM % 5 + 1))
        expected=$seed
        for ((n = 0; n < length; n++)); do expected="$expected $n"; done
        if [ "$by" = tvix ]; then
            "$tvix" build "${tvix_options[@]}" -f "$work/chain.nix" --argstr seed "$seed" \
                --arg length "$length" -o "$work/result-$number" > /dev/null 2> "$log" \
                || violation "tvix build: $(tail -3 "$log")"
        else
            nix-build --store "$root" "$work/chain.nix" --argstr seed "$seed" \
                --arg length "$length" -o "$work/result-$number" > /dev/null 2> "$log" \
                || violation "nix-build: $(tail -3 "$log")"
        fi
        # Links to /nix/store are made by Nix.
        local target
        target=$(readlink "$work/result-$number" || true)
        target=$root/nix/store/$(basename "$target")
        [ "$(cat "$target" 2>/dev/null)" = "$expected" ] \
            || violation "$by: '$target' is not '$expected': $(ls -l "$target" 2>&1)"
        count=$((count + 1))
    done
    echo "$count builds by $by"
}

add() {
    local count=0 tree added
    while [ $SECONDS -lt $end ]; do
        tree=$work/tree-$((RANDOM % 20))
        if [ ! -d "$tree" ]; then
            mkdir -p "$tree/folder"
            head -c $((RANDOM * 8)) /dev/urandom > "$tree/folder/file"
            ln -s ../nowhere "$tree/folder/link"
        fi
        if [ $((RANDOM % 2)) = 0 ]; then
            added=$("$tvix" store add --store "$root" "$tree" 2>&1) || violation "tvix store add: $added"
        else
            added=$(nix-store --store "$root" --add "$tree" 2>&1) || violation "nix-store --add: $added"
        fi
        count=$((count + 1))
    done
    echo "$count additions"
}

collect() {
    local count=0 log=$work/collect.log
    while [ $SECONDS -lt $end ]; do
        if [ $((RANDOM % 2)) = 0 ]; then
            "$tvix" store gc --store "$root" > /dev/null 2> "$log" || violation "tvix store gc: $(tail -3 "$log")"
        else
            nix-store --store "$root" --gc > /dev/null 2> "$log" || violation "nix-store --gc: $(tail -3 "$log")"
        fi
        count=$((count + 1))
        sleep 0.$((RANDOM % 5))
    done
    echo "$count collections"
}

"$tvix" store gc --store "$root" 2> /dev/null
build tvix 1 & build nix 2 & add & collect &
wait
nix-store --store "$root" --verify --check-contents 2> "$work/verify.log" \
    || violation "verify failed: $(tail -3 "$work/verify.log")"
if grep -E 'error|warning|disappeared|modified' "$work/verify.log"; then violation "verify complains"; fi
"$tvix" store verify --store "$root" || violation "tvix store verify complains"
echo "$(wc -l < "$violations") violations in $seconds s"
[ ! -s "$violations" ]
