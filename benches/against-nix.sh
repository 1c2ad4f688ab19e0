#!/usr/bin/env bash
# Times `tvix build` against `nix-build` with its sandbox on: independent trivial derivations, and
# a chain of them. Both build the very same `.drv` files, each in a fresh store every round, taking
# turns, so that whatever else the machine does meets both.
#
#     benches/against-nix.sh [ROUNDS]
#
# Takes the release binary of tvix (TVIX=..., default: the one of the target directory, built if it
# is missing), nix-build, nix-instantiate and a statically linked busybox.
# INDEPENDENT (200) and CHAIN (100) are how many derivations there are, JOBS (2) how many are built
# at once.
set -euo pipefail

rounds=${1:-5}
independent=${INDEPENDENT:-200}
chain=${CHAIN:-100}
jobs=${JOBS:-2}
busybox=$(command -v busybox) || { echo "needs busybox" >&2; exit 2; }
for program in nix-build nix-instantiate; do
    command -v "$program" >/dev/null || { echo "needs $program" >&2; exit 2; }
done

workspace=$(cd "$(dirname "$0")/.." && pwd)
tvix=${TVIX:-${CARGO_TARGET_DIR:-$workspace/target}/release/tvix}
if [ -z "${TVIX:-}" ]; then
    (cd "$workspace" && cargo build --quiet --release -p tvix-cli)
fi

work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
export HOME=$work NIX_REMOTE='' NIX_CONF_DIR=$work
# What a user's configuration says is not to matter. Flags on the command line say the rest.
export NIX_CONFIG='substituters =
experimental-features ='
nix=(--option sandbox true --option sandbox-fallback false --option build-users-group ''
     --option sandbox-paths "/bin/sh=$busybox" --option substitute false)

# Each derivation writes a line; one of a chain also reads what the one before it wrote.
cat > "$work/independent.nix" <<'NIX'
{ count }: builtins.genList (n: derivation {
  name = "independent-${toString n}"; system = builtins.currentSystem; builder = "/bin/sh";
  args = [ "-c" "echo ${toString n} > $out" ];
}) count
NIX
cat > "$work/chain.nix" <<'NIX'
{ count }: builtins.foldl' (before: n: derivation {
  name = "chain-${toString n}"; system = builtins.currentSystem; builder = "/bin/sh";
  inherit before; args = [ "-c" "read line < $before; echo $line ${toString n} > $out" ];
}) (builtins.toFile "begin" "begin\n") (builtins.genList (n: n) count)
NIX

now() { date +%s%N; }

# In microseconds, into the file $1.
timed() {
    local into=$1 begin end
    shift
    begin=$(now)
    "$@"
    end=$(now)
    echo $(((end - begin) / 1000)) >> "$into"
}

instantiate() { # ROOT KIND COUNT
    nix-instantiate --store "$1" "$work/$2.nix" --arg count "$3" 2>/dev/null > "$work/drvs"
}

# The name that a derivation is known by must be there afterwards, or nothing was timed.
expect_outputs() { # ROOT KIND COUNT
    local found
    found=$(find "$1/nix/store" -maxdepth 1 -type f -name "*-$2-*" ! -name '*.drv' | wc -l)
    [ "$found" -eq "$3" ] || { echo "$1 has $found of $3 outputs" >&2; exit 1; }
}

by_tvix() { # ROOT
    # From a file, as 200 paths in arguments are nothing that either would be proud of.
    xargs "$tvix" build --store "$1" --max-jobs "$jobs" --cores 1 --no-out-link \
        --sandbox-path "/bin/sh=$busybox" < "$work/drvs" > "$work/out.tvix" 2> "$work/err.tvix" ||
        { cat "$work/err.tvix" >&2; exit 1; }
}

by_nix() { # ROOT
    xargs nix-build --store "$1" -j "$jobs" --cores 1 --no-out-link "${nix[@]}" \
        < "$work/drvs" > "$work/out.nix" 2> "$work/err.nix" ||
        { cat "$work/err.nix" >&2; exit 1; }
}

# What a user does who has only the expression.
by_nix_from_expression() { # ROOT KIND COUNT
    nix-build --store "$1" -j "$jobs" --cores 1 --no-out-link "${nix[@]}" "$work/$2.nix" \
        --arg count "$3" > "$work/out.whole" 2> "$work/err.whole" ||
        { cat "$work/err.whole" >&2; exit 1; }
}

fresh() { chmod -R u+w "$work/root" 2>/dev/null || true; rm -rf "$work/root"; mkdir "$work/root"; }

run_round() { # KIND COUNT
    local kind=$1 count=$2
    for what in $turn; do
        fresh
        case $what in
            tvix|nix) instantiate "$work/root" "$kind" "$count"
                      timed "$work/times.$kind.$what" "by_$what" "$work/root" ;;
            whole) timed "$work/times.$kind.whole" \
                      by_nix_from_expression "$work/root" "$kind" "$count" ;;
        esac
        expect_outputs "$work/root" "$kind" "$count"
    done
    # What they print is the same, too: the paths of all outputs (nix-build sorts them its own way).
    cmp <(sort "$work/out.tvix") <(sort "$work/out.nix")
}

median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

for ((round = 0; round < rounds; round++)); do
    # Whoever is first in one round is last in the next.
    if ((round % 2)); then turn='whole nix tvix'; else turn='tvix nix whole'; fi
    run_round independent "$independent"
    run_round chain "$chain"
done

echo "$("$tvix" --version) against $(nix-build --version), sandboxed, $jobs at once, median of $rounds rounds"
printf '%-24s %14s %14s %8s %24s\n' '' 'tvix ms/drv' 'nix ms/drv' 'ratio' 'nix with instantiation'
for kind in independent chain; do
    count=${!kind}
    awk -v name="$kind ($count)" -v n="$count" -v t="$(median "$work/times.$kind.tvix")" \
        -v x="$(median "$work/times.$kind.nix")" -v w="$(median "$work/times.$kind.whole")" 'BEGIN {
        printf "%-24s %14.2f %14.2f %7.1fx %13.2f (%.1fx)\n", name, t/n/1000, x/n/1000, x/t, w/n/1000, w/t }'
done
