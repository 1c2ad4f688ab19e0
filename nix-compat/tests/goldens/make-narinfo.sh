#!/usr/bin/env bash
# Makes `narinfo/` next to this script with C++ Nix (recorded with 2.8.0): keys, the output of
# `nix path-info --json`, and binary caches of the same paths.
#
#     ./make-narinfo.sh
#
# Requires `nix` and `nix-store` in PATH. Each run makes new keys, and so new signatures. The keys
# sign only these files, so it is harmless that the secret keys are public.
set -euo pipefail
cd "$(dirname "$0")"
out=$PWD/narinfo
rm -rf "$out"
mkdir -p "$out"
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"
export NIX_REMOTE=$work/root NIX_CONF_DIR=$work
printf '%s\n' 'experimental-features = nix-command' 'substituters =' > nix.conf
# The first call creates the store.
mkdir tree
echo content > tree/file
added=$(nix-store --add tree)
store=$work/root/nix/store

# Two paths like the outputs of a build, without a build: one refers to the other and to itself, and
# has a deriver.
leaf=/nix/store/0c6mj4x7b8p2bcqkrzk1lfn5zzbr4nyl-leaf
top=/nix/store/z0r3h1vxbdmfg1ffj8ghzkarmd4lbwsx-top-1.0+x
drv=/nix/store/1ycv1kzmv5vzrzj1kkkk0p9n2hx1bzl7-top-1.0+x.drv
echo leaf > "$store/${leaf##*/}"
mkdir "$store/${top##*/}"
echo "$leaf $top" > "$store/${top##*/}/refers"
chmod 444 "$store/${leaf##*/}" "$store/${top##*/}/refers"
chmod 555 "$store/${top##*/}"
validity() { # path deriver reference...
    local path=$1 deriver=$2 nar=$store/${1##*/}
    shift 2
    printf '%s\n%s\n%s\n%s\n%s\n' "$path" \
        "$(nix-store --dump "$nar" | sha256sum | cut -d' ' -f1)" \
        "$(nix-store --dump "$nar" | wc -c)" "$deriver" $#
    (($# == 0)) || printf '%s\n' "$@"
}
{ validity "$leaf" ''; validity "$top" "$drv" "$leaf" "$top"; } > validity
nix-store --load-db < validity

text=$(nix-instantiate --eval --read-write-mode --expr "builtins.toFile \"text\" \"hello\"" | tr -d '"')
flat=$(nix store add-file validity)
paths=("$added" "$leaf" "$top" "$text" "$flat")

for name in first.example.org-1 second; do
    nix-store --generate-binary-cache-key "$name" "$out/$name.secret" "$out/$name.public"
done
# The top has two signatures, another path has one, the others have none.
nix store sign --key-file "$out/second.secret" "$top" "$leaf"
nix store sign --key-file "$out/first.example.org-1.secret" "$top"

nix path-info --json "${paths[@]}" > "$out/path-info.json"
for compression in xz none zstd bzip2; do
    nix copy --to "file://$work/cache-$compression?compression=$compression" "${paths[@]}"
    mkdir "$out/$compression"
    cp "$work/cache-$compression"/*.narinfo "$out/$compression"
done
chmod -R u+rw "$out"
