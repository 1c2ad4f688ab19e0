# The way from a few files that are downloaded to a compiler that was compiled by itself; then, perhaps, to one for another system.
{ lib, config, local, host, makePackages }:
let
  makeStdenv = import ./make.nix { inherit lib config; };
  native = { build = local; host = local; target = local; };

  seed = derivation {
    name = "bootstrap-seed";
    system = local.system;
    builder = "builtin:fetchurl";
    url = "http://seeds.example.org/${local.cpu}/seed.tar.xz";
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" "the seed of ${local.cpu}";
    preferLocalBuild = true;
    executable = true;
  };
  tools = derivation {
    name = "bootstrap-tools";
    system = local.system;
    builder = "${seed}/bin/sh";
    args = [ ./unpack-seed.sh ];
    inherit seed;
    langC = true;
  } // { isBootstrap = true; };

  step = previous: { name, change }:
    let
      given = { name = "stdenv-${name}"; platforms = native; shell = "${tools}/bin/sh"; tools = [ tools ]; } // change previous;
      stdenv = makeStdenv given;
    in
    makePackages { inherit stdenv; build = if previous == null then null else previous; target = null; };

  steps = [
    { name = "seed"; change = _: { }; }
    { name = "libc"; change = previous: { cc = tools; libc = previous.headers; }; }
    {
      name = "binutils";
      change = previous: { cc = previous.wrapCC.override { compiler = tools; libc = previous.libc; }; inherit (previous) libc; };
    }
    {
      name = "compiler";
      change = previous: {
        cc = previous.wrapCC.override { compiler = previous.compiler; binutils = previous.binutils; libc = previous.libc; };
        inherit (previous) libc;
        tools = [ tools previous.binutils ];
      };
    }
    {
      name = "final";
      change = previous: {
        inherit (previous) libc;
        cc = previous.wrapCC;
        shell = "${previous.shell}/bin/sh";
        tools = map (name: previous.${name}) [ "coreutils" "sed" "grep" "tar" "gzip" "mk" "patch" "shell" ];
        hooks = [ ../support/hooks/strip.sh ../support/hooks/compress-docs.sh ];
      };
    }
  ];
  final = builtins.foldl' step null steps;

  # Tools that run here and make things for there.
  crossTools = makePackages {
    stdenv = final.stdenv;
    platforms = { build = local; host = local; target = host; };
    build = final;
    target = crossed;
  };
  crossed = makePackages {
    stdenv = makeStdenv {
      name = "stdenv-${host.config}";
      platforms = { build = local; inherit host; target = host; };
      shell = final.stdenv.shell;
      tools = final.stdenv.tools;
      libc = crossTools.libcFor host;
      cc = crossTools.wrapCC;
      hooks = [ ../support/hooks/strip.sh ];
    };
    build = crossTools;
    target = null;
  };
in
if host.system == local.system then final else crossed
