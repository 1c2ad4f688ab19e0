# Functions that make derivations without being packages, and the tools that stages hand on.
{ lib }:
final:
let
  inherit (final) stdenv make;
  fixed = builder: { name, hash ? null, sha256 ? null, sha512 ? null, mode ? "flat", ... }@args:
    let
      algo = if sha512 != null then "sha512" else "sha256";
    in
    stdenv.make (builtins.removeAttrs args [ "hash" "sha256" "sha512" "mode" ] // {
      inherit name builder;
      plain = true;
      outputHashAlgo = if hash != null then null else algo;
      outputHash = if hash != null then hash else if sha512 != null then sha512 else sha256;
      outputHashMode = mode;
      impureEnvVars = [ "http_proxy" "NO_PROXY" ];
      preferLocalBuild = true;
    });
in
{
  fetchurl = lib.overridable ({ url ? null, urls ? lib.optional (url != null) url, name ? baseNameOf (builtins.head urls), ... }@args:
    fixed ./fetch.sh (args // { inherit name urls; }));
  fetchTree' = { owner, repo, rev, hash }: fixed ./fetch-tree.sh {
    name = "source";
    url = "https://forge.example.org/${owner}/${repo}/archive/${rev}.tar.gz";
    mode = "recursive";
    inherit hash;
  };
  runCommand = name: env: script: make (env // { inherit name; buildCommand = script; passAsFile = [ "buildCommand" ]; });
  writeText = name: text: final.runCommand name { inherit text; passAsFile = [ "text" ]; } "cp $textPath $out";
  writeScript = name: text: final.runCommand name { inherit text; executable = true; } "cp $textPath $out; chmod +x $out";
  buildEnv = { name, paths, links ? [ "/" ] }: make {
    inherit name links;
    realBuilder = "builtin:buildenv";
    chosen = builtins.toJSON (map (path: { paths = map toString path.all or [ path ]; priority = path.meta.priority or 5; }) paths);
    allowSubstitutes = false;
  };
  makeHook = { name, deps ? [ ] }: script: make {
    inherit name script;
    propagatedInputs = deps;
    buildCommand = "mkdir -p $out/support; cp $script $out/support/setup-hook";
  };

  headers = make { name = "kernel-headers-6.1"; buildCommand = "tar xf ${final.fetchurl { url = "https://a.example.org/linux-6.1.tar.xz"; sha256 = builtins.hashString "sha256" "linux"; }}"; };
  libc = make { pname = "libc"; version = "2.40"; outputs = [ "out" "lib" "dev" ]; depsBuildBuild = lib.optional final.stdenv.hasCC final.stdenv.cc; buildInputs = [ final.headers ]; plain = true; };
  libcFor = host: make { pname = "libc-${host.config}"; version = "2.40"; plain = true; cflags = lib.optionalText host.is64bit "-m64"; buildInputs = [ final.headers ]; };
  binutils = make { pname = "binutils"; version = "2.43"; configureFlags = [ "--target=${final.platforms.target.config}" "--enable-deterministic-archives" ]; };
  compiler = make {
    pname = "compiler${lib.optionalText (final.platforms.target.system != final.platforms.host.system) "-${final.platforms.target.config}"}";
    version = "14.2";
    outputs = [ "out" "lib" "man" ];
    depsBuildBuild = [ final.buildPackages.stdenv.cc ];
    nativeBuildInputs = [ final.binutils ];
    depsTargetTarget = [
      (if final.platforms.target.system == final.platforms.host.system then final.targetPackages.libc else final.libcFor final.platforms.target)
    ];
    languages = [ "c" "c++" ];
  };
  wrapCC = lib.overridable
    ({ compiler, binutils, libc, prefix ? lib.optionalText (final.platforms.target.system != final.platforms.host.system) "${final.platforms.target.config}-" }: make {
      name = "${prefix}cc-wrapper-${compiler.version or "seed"}";
      inherit compiler binutils libc prefix;
      buildCommand = builtins.readFile ./wrap-cc.sh;
      passthru = { inherit compiler libc; isWrapper = true; };
    })
    { inherit (final) compiler binutils libc; };

  coreutils = final.call ({ make, features ? [ ], libc }: make { pname = "coreutils"; version = "9.5"; inherit features; buildInputs = [ libc ]; outputs = [ "out" "info" ]; }) { };
  melodyHook = final.makeHook { name = "melody-hook"; deps = [ final.gzip ]; } ./hooks/melody.sh;
  configTool = make { pname = "config-tool"; version = "1"; buildInputs = [ final.sed ]; };
  testTool = make { pname = "test-tool"; version = "0.3"; nativeBuildInputs = [ final.configTool ]; patches = [ ./patches/quiet.patch (builtins.toFile "more.patch" "--- a\n+++ b\n") ]; };
}
// lib.pipe { sed = "4.9"; grep = "3.11"; tar = "1.35"; gzip = "1.13"; mk = "4.4"; patch = "2.7"; } [
  (builtins.mapAttrs (name: version: make { pname = name; inherit version; buildInputs = [ final.libc ]; }))
]
// builtins.listToAttrs (map
  (major: {
    name = "melody${major}";
    value = make {
      pname = "melody";
      version = "${major}.${toString (builtins.stringLength major)}";
      buildInputs = [ final.libc ] ++ lib.optional (major != "1") final.gzip;
      env.MAJOR = major;
      passthru = { inherit major; modules = final."melody${major}Modules"; };
    };
  }) [ "1" "2" "3" ])
