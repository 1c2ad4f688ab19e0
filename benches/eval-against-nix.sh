#!/usr/bin/env bash
# Evaluation by tvix and by C++ Nix, in one run: instructions (callgrind), user time, peak memory,
# and the wall time of instantiating into an empty store.
#
#   benches/eval-against-nix.sh NIXPKGS [ATTRIBUTE…]        (hello and firefox if none is given)
#
# NIX_INSTANTIATE is the peer (default: nix-instantiate), ROUNDS how often times are taken (5).
# Needs valgrind, /usr/bin/time and python3. Both must come to the same .drv, or it says so.
set -euo pipefail
cd "$(dirname "$0")/.."
tree=$(realpath "${1:?a nixpkgs tree}")
shift
attributes=("${@:-hello}")
[ $# -gt 0 ] || attributes=(hello firefox)
peer=${NIX_INSTANTIATE:-nix-instantiate}
rounds=${ROUNDS:-5}
cargo build -q --release -p tvix-cli
tvix=$(realpath "${CARGO_TARGET_DIR:-target}/release/tvix")
work=$(mktemp -d)
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
export NIX_REMOTE= HOME=$work

instructions() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$@" 2>&1 >/dev/null |
        sed -n 's/.*Collected : //p'
}

# Medians of user seconds, wall seconds and peak KiB.
times() {
    for _ in $(seq "$rounds"); do
        /usr/bin/time -f '%U %e %M' -o "$work/time" "$@" >/dev/null 2>&1
        cat "$work/time"
    done | python3 -c '
import statistics, sys
rows = [list(map(float, line.split())) for line in sys.stdin]
print(*(f"{statistics.median(column):.3f}" for column in zip(*rows)))'
}

ratio() { python3 -c "print(f'{$1 / max($2, 1e-9):.3f}')"; }

printf '%-10s %-26s %14s %14s %8s\n' attribute figure tvix "C++ Nix" ratio
for attribute in "${attributes[@]}"; do
    expr="(import $tree {}).$attribute.drvPath"
    ours=("$tvix" eval -E "$expr")
    theirs=("$peer" --readonly-mode --eval -E "$expr")
    a=$("${ours[@]}") b=$("${theirs[@]}" 2>/dev/null)
    [ "$a" = "$b" ] || echo "$attribute: the derivations differ: $a and $b"
    x=$(instructions "${ours[@]}") y=$(instructions "${theirs[@]}")
    printf '%-10s %-26s %14s %14s %8s\n' "$attribute" instructions "$x" "$y" "$(ratio "$x" "$y")"
    read -r user_a wall_a peak_a < <(times "${ours[@]}")
    read -r user_b wall_b peak_b < <(times "${theirs[@]}")
    printf '%-10s %-26s %14s %14s %8s\n' "$attribute" "user seconds" "$user_a" "$user_b" "$(ratio "$user_a" "$user_b")"
    printf '%-10s %-26s %14s %14s %8s\n' "$attribute" "wall seconds" "$wall_a" "$wall_b" "$(ratio "$wall_a" "$wall_b")"
    printf '%-10s %-26s %14s %14s %8s\n' "$attribute" "peak KiB" "$peak_a" "$peak_b" "$(ratio "$peak_a" "$peak_b")"
    for round in $(seq "$rounds"); do
        /usr/bin/time -f %e -a -o "$work/ours.wall" "$tvix" instantiate -f "$tree" -A "$attribute" \
            --store "$work/ours$round" >/dev/null 2>&1
        /usr/bin/time -f %e -a -o "$work/theirs.wall" "$peer" "$tree" -A "$attribute" \
            --store "$work/theirs$round" >/dev/null 2>&1
    done
    median() { sort -n "$1" | sed -n "$(((rounds + 1) / 2))p"; }
    x=$(median "$work/ours.wall") y=$(median "$work/theirs.wall")
    printf '%-10s %-26s %14s %14s %8s\n' "$attribute" "instantiate, wall seconds" "$x" "$y" "$(ratio "$x" "$y")"
    rm -rf "$work"/*.wall
done
