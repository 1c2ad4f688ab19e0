# A standard environment: a derivation, and the function that makes derivations with it.
{ lib, config }:
{ name, platforms, shell, tools, hooks ? [ ], cc ? null, libc ? null }@given:
let
  self = derivation
    {
      inherit name tools hooks;
      system = platforms.build.system;
      builder = shell;
      args = [ "-c" ". $setup; writeSetup" ];
      setup = ./setup.sh;
      inherit cc libc;
      __ignoreNulls = true;
      hostConfig = platforms.host.config;
      ${if platforms.host.isLinux then "libcLib" else null} = if libc == null then null else "${libc.lib or libc}/lib";
    }
  // {
    inherit platforms shell tools cc libc;
    hasCC = cc != null;
    make = import ./derivation.nix { inherit lib config; } self;
    override = change: import ./make.nix { inherit lib config; } (given // change);
  };
in
self // { system = platforms.build.system; }
