#!/usr/bin/env bash
# Evaluation by tvix and by C++ Nix, in one run: instructions with and without those of SHA-256
# (callgrind), user time, wall time, peak memory, and the wall time of instantiating into an empty
# store.
#
#   benches/eval-against-nix.sh NIXPKGS [ATTRIBUTE…]        (hello and firefox if none is given)
#   benches/eval-against-nix.sh FILE                        (a file with a string, e.g. a system's drvPath)
#
# NIX_INSTANTIATE is the peer (default: nix-instantiate), words separated by spaces. ROUNDS is how
# often times are taken (5), in pairs; TVIX is a program to measure instead of the one built here.
# INSTANTIATE= (empty) leaves out instantiating. Needs valgrind, /usr/bin/time and python3. Both must
# come to the same .drv, or it says so.
#
# SHA-256 is told apart because valgrind hides the instructions that processors have for it, so that
# callgrind counts twenty times what it takes. It is taken off by function: that of `ring` in tvix, the
# most expensive one of libcrypto in C++ Nix.
set -euo pipefail
cd "$(dirname "$0")/.."
tree=$(realpath "${1:?a nixpkgs tree, or a file}")
shift
attributes=("${@:-hello}")
[ $# -gt 0 ] || attributes=(hello firefox)
read -ra peer <<<"${NIX_INSTANTIATE:-nix-instantiate}"
rounds=${ROUNDS:-5}
instantiate=${INSTANTIATE-yes}
if [ -f "$tree" ]; then
    attributes=("$(basename "$tree")")
    instantiate=
fi
if [ -z "${TVIX:-}" ]; then
    cargo build -q --release -p tvix-cli
    TVIX=$(realpath "${CARGO_TARGET_DIR:-target}/release/tvix")
fi
work=$(mktemp -d)
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
export NIX_REMOTE= HOME=$work

# All instructions, and those without SHA-256.
instructions() {
    valgrind --tool=callgrind --callgrind-out-file="$work/callgrind" "$@" >/dev/null 2>&1
    python3 - "$work/callgrind" <<'PYTHON'
import collections, re, sys

names, cost = {}, collections.Counter()
now, called = {}, False
for line in open(sys.argv[1], errors="replace"):
    if named := re.match(r"(c?)(fn|ob)=\((\d+)\)(?: (.*))?", line):
        of_call, kind, number, name = named.groups()
        if name:
            names[kind, number] = name
        if not of_call:
            now[kind] = number
    elif line.startswith("calls="):
        called = True
    elif line[0] in "0123456789+-*":
        # The line behind a call has the costs of what was called.
        if not called and len(parts := line.split()) > 1:
            cost[names.get(("ob", now.get("ob")), ""), names.get(("fn", now["fn"]), "")] += int(parts[1])
        called = False
total = sum(cost.values())
sha = sum(of for (_, function), of in cost.items() if "sha256_block_data_order" in function)
if not sha:
    sha = max((of for (file, _), of in cost.items() if "libcrypto" in file), default=0)
print(total, total - sha)
PYTHON
}

# A run's user seconds, wall seconds and peak KiB, appended to a file.
time_of() {
    local log=$1
    shift
    /usr/bin/time -f '%U %e %M' -a -o "$log" "$@" >/dev/null 2>&1
}

medians() {
    python3 -c '
import statistics, sys
rows = [list(map(float, line.split())) for line in sys.stdin]
print(*(f"{statistics.median(column):.3f}" for column in zip(*rows)))' <"$1"
}

row() {
    printf '%-12s %-26s %14s %14s %8s\n' "$1" "$2" "$3" "$4" "$(python3 -c "print(f'{$3 / max($4, 1e-9):.3f}')")"
}

printf '%-12s %-26s %14s %14s %8s\n' attribute figure tvix "C++ Nix" ratio
for attribute in "${attributes[@]}"; do
    if [ -f "$tree" ]; then
        expr="import $tree"
    else
        expr="(import $tree {}).$attribute.drvPath"
    fi
    ours=("$TVIX" eval -E "$expr")
    theirs=("${peer[@]}" --readonly-mode --eval -E "$expr")
    a=$("${ours[@]}") b=$("${theirs[@]}" 2>/dev/null)
    [ "$a" = "$b" ] || echo "$attribute: the derivations differ: $a and $b"
    read -r all_a rest_a < <(instructions "${ours[@]}")
    read -r all_b rest_b < <(instructions "${theirs[@]}")
    row "$attribute" instructions "$all_a" "$all_b"
    row "$attribute" "without SHA-256" "$rest_a" "$rest_b"
    for _ in $(seq "$rounds"); do
        time_of "$work/ours" "${ours[@]}"
        time_of "$work/theirs" "${theirs[@]}"
    done
    read -r user_a wall_a peak_a < <(medians "$work/ours")
    read -r user_b wall_b peak_b < <(medians "$work/theirs")
    row "$attribute" "user seconds" "$user_a" "$user_b"
    row "$attribute" "wall seconds" "$wall_a" "$wall_b"
    row "$attribute" "peak KiB" "$peak_a" "$peak_b"
    rm "$work/ours" "$work/theirs"
    [ -n "$instantiate" ] || continue
    for round in $(seq "$rounds"); do
        time_of "$work/ours" "$TVIX" instantiate -f "$tree" -A "$attribute" --store "$work/store-ours$round"
        time_of "$work/theirs" "${peer[@]}" "$tree" -A "$attribute" --store "$work/store-theirs$round"
    done
    read -r _ wall_a _ < <(medians "$work/ours")
    read -r _ wall_b _ < <(medians "$work/theirs")
    row "$attribute" "instantiate, wall seconds" "$wall_a" "$wall_b"
    rm "$work/ours" "$work/theirs"
done
