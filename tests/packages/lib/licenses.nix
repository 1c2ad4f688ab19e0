builtins.mapAttrs (short: rest: { inherit short; free = true; } // rest) {
  mit = { long = "MIT License"; };
  asl = { long = "Apache License"; version = 2; };
  gpl = { long = "GNU General Public License"; version = 3; copyleft = true; };
  closed = { long = "No License"; free = false; };
}
