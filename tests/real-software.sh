#!/usr/bin/env bash
# Real software from Debian's source archives, configured and compiled in the sandbox with this machine's
# compiler, by `tvix build` and by `nix-build`: the outputs must be equal.
#
#     tests/real-software.sh [TVIX [PACKAGE...]]       default: target/release/tvix, hello sed bash
#
# Requires Nix, apt with package sources of this machine, gcc, make, xz. Sources come from the package
# sources of this machine. Run it as root and as an ordinary user.
set -euo pipefail
cd "$(dirname "$0")/.."
tvix=$(realpath "${1:-target/release/tvix}")
shift || true
packages=("$@")
[ ${#packages[@]} -gt 0 ] || packages=(hello sed bash)

work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

# A separate configuration of apt, with the sources of this machine for source packages.
mkdir -p "$work"/apt/{lists/partial,cache/archives/partial,parts} "$work/sources"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -f "$file" ] && sed -n 's/^deb\s/deb-src /p' "$file" >> "$work/apt/parts/own.list"
done
for file in /etc/apt/sources.list.d/*.sources; do
    [ -f "$file" ] && sed 's/^Types:.*/Types: deb-src/' "$file" > "$work/apt/parts/$(basename "$file")"
done
apt=(apt-get -q -q -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$work/apt/parts"
    -o Dir::State::Lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=)
"${apt[@]}" update
(cd "$work/sources" && "${apt[@]}" source --download-only "${packages[@]}")

# The host's compiler, at the same path in both sandboxes.
host_paths=()
for path in /usr /bin /lib /lib64 /etc/alternatives; do
    [ -e "$path" ] && host_paths+=("$path")
done

{
    echo '{'
    for package in "${packages[@]}"; do
        archive=$(find "$work/sources" -name "${package}_*.orig.tar.*" ! -name '*.asc' | head -n 1)
        cat <<NIX
  $package = derivation {
    name = "$package";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    source = $archive;
    args = [ "-e" "-c" ''
      tar -xf \$source
      cd */
      # The archive of bash contains another archive.
      for inner in *.tar.?z; do if [ -f "\$inner" ]; then tar -xf "\$inner"; cd "\$(ls -d */ | head -n 1)"; fi; done
      ./configure --prefix=\$out --disable-nls > /dev/null
      # Without parallelism, because the makefiles of bash lack dependencies.
      make -s > /dev/null 2>&1
      make -s install > /dev/null
    '' ];
  };
NIX
    done
    echo '}'
} > "$work/software.nix"

# Names of Debian contain characters that are not valid in store paths.
sandbox=("${host_paths[@]/#/--sandbox-path=}")
echo "== tvix"
time "$tvix" build --store "$work/ours" -f "$work/software.nix" --no-out-link "${sandbox[@]}" > "$work/ours.paths"
echo "== nix-build"
export NIX_REMOTE= NIX_CONF_DIR=$work HOME=$work
export NIX_CONFIG="substituters =
sandbox = true
sandbox-fallback = false
build-users-group =
cores = 0
sandbox-paths = ${host_paths[*]}"
time nix-build --store "$work/theirs" "$work/software.nix" --no-out-link > "$work/theirs.paths"

status=0
while read -r path; do
    hashes=()
    for store in ours theirs; do
        hashes+=("$(nix-store --store "$work/$store" --query --hash "$path")")
    done
    if [ "${hashes[0]}" = "${hashes[1]}" ]; then
        echo "same: $path ${hashes[0]}"
    else
        echo "DIFFERENT: $path ${hashes[*]}"
        diff -r "$work/ours$path" "$work/theirs$path" || true
        status=1
    fi
done < "$work/ours.paths"
cmp <(sort "$work/ours.paths") <(sort "$work/theirs.paths")
exit $status
