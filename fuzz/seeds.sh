#!/bin/sh
# Puts every program of the language's tests into the corpora of `parse` and `evaluate`, one a file.
set -eu
cd "$(dirname "$0")"
mkdir -p corpus/parse corpus/evaluate
awk '
  function flush() { if (text != "") { n++; file = sprintf("corpus/evaluate/case-%04d", n); printf "%s", text > file; close(file) } text = "" }
  /^(#|$)/ { next }
  /^\|/ { text = text "\n" substr($0, 2); next }
  { flush(); sub(/^:(strict|lazy|json|xml) /, ""); text = $0 }
  END { flush() }
' ../tvix-eval/tests/language/*.cases
cp corpus/evaluate/case-* ../tvix-eval/tests/corpus/parse/*.nix corpus/parse/
