#!/bin/sh
# Records the results of nix-instantiate for the cases of tests/language.rs. The committed results are from C++ Nix 2.34.8, x86_64-linux.
# Only new cases are run; remove a topic's .jsonl to run all of its cases. TVIX_RECORD_NIX names the program. It must be started in the
# directory files/; TVIX_RECORD_FILES is the path of that directory as the program sees it, if it differs. Source lines of
# derivation-internal.nix, a file of C++ Nix, are removed from messages.
set -eu
cd "$(dirname "$0")/../.."
TVIX_RECORD_NIX="${TVIX_RECORD_NIX:-nix-instantiate}" cargo test -p tvix-eval --test record_language
