#!/usr/bin/env bash
# Makes `nix-2.34/` beside this script (made with C++ Nix 2.34.8): a binary cache with a floating output
# that refers to itself, its realisations, `nix path-info --json` and the schema of the store's
# database. Nix 2.17 to 2.34 compute the same path; earlier and later versions another one.
#
#     ./make-nix-2.34.sh
#
# needs `nix` and `nix-build` 2.34, `sqlite3`, and a static `busybox` in PATH. $RUN is put before each
# command of Nix, for one that is not in PATH. The key signs nothing but what is here.
set -euo pipefail
cd "$(dirname "$0")"
out=$PWD/nix-2.34
rm -rf "$out"
mkdir -p "$out"
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"
# The secret key of which each byte of the seed is 7.
echo 'golden-1:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwfqSmxj4pxSCr71UHsTLsX5lUd2rr6+e5JCHuppFEbSLA==' > secret
cp "$(command -v busybox)" sh
options=(--store "$work/store" --extra-experimental-features 'nix-command ca-derivations'
    --option build-users-group '' --option substituters '' --option sandbox true
    --option sandbox-paths "/bin/sh=$work/sh" --option secret-key-files "$work/secret")
cat > self.nix <<'END'
let
  make = name: args: derivation ({
    inherit name; system = "x86_64-linux"; builder = "/bin/sh";
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
  } // args);
  input = make "input" { args = [ "-c" "echo input > $out" ]; };
in make "self" { inherit input; args = [ "-c" "echo $out twice $out from $input > $out" ]; }
END
cp self.nix "$out"
${RUN:-} nix-build "${options[@]}" --no-out-link self.nix > path
# The realisation of what was instantiated comes with the expression, that of the resolved derivation
# with its own path.
resolved=$(${RUN:-} nix path-info "${options[@]}" --json "$(cat path)" |
    python3 -c 'import json, sys; [info] = json.load(sys.stdin).values(); print(info["deriver"])')
cache="file://$out/cache?compression=none&secret-key=$work/secret"
${RUN:-} nix copy "${options[@]}" --no-check-sigs --to "$cache" -f self.nix ''
${RUN:-} nix copy "${options[@]}" --no-check-sigs --to "$cache" "$resolved^out"
${RUN:-} nix path-info "${options[@]}" --json "$(cat path)" > "$out/path-info.json"
cp "$work/store$resolved" "$out/resolved.drv"
basename "$resolved" > "$out/resolved"
sqlite3 store/nix/var/nix/db/db.sqlite .schema | sed '/sqlite_sequence/d; s/ *--.*//' > "$out/schema.sql"
rm -rf "$out/cache/log"
