{ make, bright, quiet, depth ? 2, ... }@args:
make {
  pname = "bridge";
  version = "1";
  path = builtins.concatStringsSep ":" (builtins.genList (n: "${bright}/${toString n}") depth);
  given = builtins.attrNames (removeAttrs args [ "make" ]);
  quiet = quiet.outPath;
}
