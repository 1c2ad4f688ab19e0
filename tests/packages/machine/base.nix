{ lib, config, pkgs, ... }:
let
  inherit (lib) mkOption types;
in
{
  options = {
    name = mkOption { type = types.str; default = "machine"; apply = lib.upper; };
    packages = mkOption { type = types.listOf types.package; default = [ ]; };
    etc = mkOption {
      default = { };
      type = types.attrsOf (types.submodule ({ name, config, ... }: {
        options = {
          enable = mkOption { type = types.bool; default = true; };
          target = mkOption { type = types.str; default = name; };
          text = mkOption { type = types.nullOr types.lines; default = null; };
          mode = mkOption { type = types.either types.int types.str; default = "symlink"; };
          source = mkOption { type = types.any; default = pkgs.writeText "etc-${builtins.replaceStrings [ "/" ] [ "-" ] config.target}" config.text; };
        };
      }));
    };
    kernel.parameters = mkOption { type = types.listOf types.str; default = [ ]; };
    arguments = mkOption { type = types.attrsOf types.any; default = { }; };
    build = mkOption { type = types.attrsOf types.package; default = { }; };
  };
  config = {
    arguments.extra = 5;
    packages = lib.mkMerge [ [ pkgs.coreutils pkgs.shell ] (lib.mkBefore [ pkgs.hello ]) (lib.mkIf (config.name == "NONE") [ pkgs.closed ]) ];
    etc."hostname".text = config.name;
    etc."kernel/parameters".text = lib.joinWith " " config.kernel.parameters;
    kernel.parameters = lib.mkMerge [ (lib.mkAfter [ "quiet" ]) [ "console=tty1" ] (lib.mkOrder 10 [ "root=/dev/a" ]) ];
    build.profile = pkgs.buildEnv { name = "profile"; paths = config.packages; };
    build.etc = pkgs.runCommand "etc"
      { sources = map (file: file.source) (builtins.filter (file: file.enable) (builtins.attrValues config.etc)); }
      (lib.joinWith "\n" (builtins.attrValues (builtins.mapAttrs (name: file: "ln -s ${file.source} $out/${lib.escapeShell file.target} # ${toString file.mode}") config.etc)));
    build.machine = pkgs.runCommand "machine-${config.name}" { inherit (config.build) profile etc; inherit (config) units; } "mkdir $out";
  };
}
