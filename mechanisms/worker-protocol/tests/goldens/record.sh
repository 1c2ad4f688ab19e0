#!/usr/bin/env bash
# Records sessions of a Nix's own clients with its own daemon, and writes them to a directory beside this
# script that is named after the version: for each connection what the client sent and what the daemon sent.
#
#     ./record.sh                 # of the Nix in PATH
#     RUN=in-another-root ./record.sh
#
# $RUN is put before each command of Nix, for one that is not in PATH. Needs python3 and a static busybox.
# Recorded with 2.8.0 and 2.34.8. The key signs nothing but what is here.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
run=(${RUN:-})
version=$("${run[@]}" nix-store --version 2>/dev/null | sed 's/.* //')
# The same on each machine, since it becomes a part of the recordings.
work=/tmp/nix-recording
rm -rf "$work" 2>/dev/null || { chmod -R u+w "$work"; rm -rf "$work"; }
mkdir -p "$work"/{conf,root,record,home}
cd "$work"
cp "$(command -v busybox)" sh
echo 'golden-1:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwfqSmxj4pxSCr71UHsTLsX5lUd2rr6+e5JCHuppFEbSLA==' > secret
cat > conf/nix.conf <<'END'
build-users-group =
substituters =
sandbox = true
sandbox-paths = /bin/sh=/tmp/nix-recording/sh
experimental-features = nix-command ca-derivations
END
export NIX_CONF_DIR=$work/conf HOME=$work/home NIX_DAEMON_SOCKET_PATH=$work/daemon NIX_SSHOPTS=
unset NIX_REMOTE
"${run[@]}" nix-daemon --store "$work/root" 2> daemon.log &
daemon=$!
python3 "$here/record.py" "$work/proxy" "$work/daemon" "$work/record" &
proxy=$!
# A wrapper's child is the daemon itself, if it does not become it.
trap 'kill $proxy $daemon 2>/dev/null || true; pkill -P $daemon 2>/dev/null || true; cd /; chmod -R u+w "$work"; rm -rf "$work"' EXIT
for _ in $(seq 100); do [ -S daemon ] && [ -S proxy ] && break; sleep 0.1; done

store="unix://$work/proxy?root=$work/root"
# Runs a command as the session NAME; failure is a part of the session.
session() {
    echo "$1" > record/name
    shift
    "${run[@]}" env NIX_REMOTE="$store" "$@" > out 2> err || true
    [ -z "${VERBOSE:-}" ] || { echo "== $*"; cat out err; }
    # The files appear when the connection has ended.
    for _ in $(seq 100); do [ -z "$(ls record/*.part 2>/dev/null)" ] && break; sleep 0.05; done
    sleep 0.2
}

cat > build.nix <<'END'
let
  sh = builtins.path { path = ./script; name = "script"; };
  make = name: script: args: derivation ({
    inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" script ];
  } // args);
in rec {
  input = make "input" "echo a line of the log; echo input > $out" { };
  two = make "two" "echo $input ${sh} > $out; echo dev > $dev" { inherit input; outputs = [ "out" "dev" ]; };
  bad = make "bad" "echo it fails >&2; exit 3" { };
  floating = make "floating" "echo floating > $out" {
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
  };
  fixed = make "fixed" "echo -n fixed > $out" {
    outputHash = "sha256-FSVEJMXgUP2xMRs2pwTpZmMo5AcXNj5HYrg4zGe44f8="; outputHashMode = "flat";
  };
}
END
echo 'a script' > script
echo 'a file' > file
mkdir -p tree/directory && echo text > tree/directory/text && ln -s text tree/directory/link && chmod +x tree/directory/text

session add nix-store --add tree
path=$(cat out)
session add-fixed nix-store --add-fixed sha256 file
flat=$(cat out)
session instantiate nix-instantiate build.nix -A two
drv=$(cat out)
session build nix-build --no-out-link build.nix -A two
out=$(head -1 out)
session build-bad nix-build --no-out-link build.nix -A bad
session build-fixed nix-build --no-out-link build.nix -A fixed
session build-floating nix build --no-link -f build.nix floating
session check nix-build --no-out-link build.nix -A input --check
session dry-run nix-build --dry-run --no-out-link build.nix
session root nix-store --realise --add-root "$work/result" --indirect "$drv"
session query-references nix-store -q --references "$out"
session query-referrers nix-store -q --referrers "$path"
session query-outputs nix-store -q --outputs "$drv"
session query-derivers nix-store -q --deriver "$out"
session query-closure nix-store -q --requisites --include-outputs "$drv"
session query-missing nix-store -q --hash "$work/root/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-missing"
session check-validity nix-store --check-validity --print-invalid "$path" /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-missing
session path-info nix path-info --all --json
session sign nix store sign --key-file secret "$path"
session verify nix-store --verify --check-contents
session optimise nix-store --optimise
session roots nix-store --gc --print-roots
session dead nix-store --gc --print-dead
session delete nix-store --delete "$flat"
session delete-live nix-store --delete "$out"
# Another store, to and from which paths are copied, and that has builds done at the daemon.
other=(--store "$work/other")
session copy-from nix copy --no-check-sigs --to "$work/other" "$out"
"${run[@]}" nix-store "${other[@]}" --add script > /dev/null 2>&1
session copy-to nix copy --no-check-sigs --from "$work/other" "$("${run[@]}" nix-store "${other[@]}" --add tree/directory 2>/dev/null)"
cat > remote.nix <<'END'
derivation {
  name = "remote"; system = "x86_64-linux"; builder = "/bin/sh";
  args = [ "-c" "echo built at the daemon; echo remote ${builtins.path { path = ./script; name = "remote-script"; }} > $out" ];
}
END
session remote env -u NIX_REMOTE nix-build "${other[@]}" --no-out-link -j0 --builders "$store x86_64-linux - 1 1" remote.nix
# Over ssh, in place of which Nix starts a program for this host.
cat > stdio <<END
#!/bin/sh
name=$work/record/\$(cat $work/record/name)
tee "\$name.client" | nix-daemon "\$@" | tee "\$name.daemon"
END
chmod +x stdio
remote="ssh-ng://localhost?remote-program=$work/stdio&remote-store=$work/root"
session copy-over-ssh nix copy --no-check-sigs --from "$remote" --to "$work/third" "$out"
session log-of-build nix log "$drv"
session gc nix-store --gc --max-freed 1

rm -rf "$here/$version"
mkdir -p "$here/$version"
rm -f record/name
cp record/*.client record/*.daemon "$here/$version/"
du -sh "$here/$version"
