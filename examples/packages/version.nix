# Known only once it is built: who asks for it has evaluation wait (import from derivation).
{ runScript }:
import (runScript "version.nix" { } ''
  echo "{ number = \"$(cc -dumpversion | cut -d. -f1).0\"; }" > $out
'')
