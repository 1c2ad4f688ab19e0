{ lib, config, pkgs, extra, ... }:
let
  inherit (lib) mkOption types;
  unit = types.submodule [
    ({ name, config, ... }: {
      options = {
        enable = mkOption { type = types.bool; default = true; };
        after = mkOption { type = types.listOf types.str; default = [ ]; };
        command = mkOption { type = types.str; };
        restart = mkOption { type = types.enum [ "always" "never" "on-failure" ]; default = "always"; };
        port = mkOption { type = types.nullOr types.port; default = null; };
        environment = mkOption { type = types.attrsOf (types.nullOr (types.either types.str types.package)); default = { }; };
        file = mkOption { type = types.package; };
      };
      config.file = pkgs.writeText "${name}.service" (lib.strings.toIni {
        Unit.After = config.after;
        Service = { ExecStart = config.command; Restart = config.restart; }
          // lib.sets.mapNames (key: value: { name = "Environment.${key}"; inherit value; }) (lib.sets.filterAttrs (key: value: value != null) config.environment);
        Socket = lib.optionalAttrs (config.port != null) { Listen = lib.strings.padLeft 5 "0" (toString config.port); };
      });
    })
  ];
in
{
  imports = [ ({ config, ... }: { services.log.command = "${pkgs.coreutils}/bin/log --name ${config.name}"; }) ];
  options = {
    services = mkOption { type = types.attrsOf unit; default = { }; };
    units = mkOption { type = types.any; default = { }; };
    transform = mkOption { type = types.functionTo types.lines; default = text: text; };
  };
  config = {
    services.web = lib.mkMerge [
      { command = "${pkgs.hello}/bin/hello"; port = 80; after = [ "network" ]; }
      (lib.mkIf (extra > 3) { environment.EXTRA = toString extra; })
      { restart = lib.mkForce "on-failure"; after = lib.mkBefore [ "log" ]; }
      { restart = "never"; environment.SHELL = pkgs.shell; environment.UNSET = null; }
    ];
    services.idle.command = lib.mkDefault "${pkgs.coreutils}/bin/sleep";
    transform = lib.mkMerge [ (text: "# ${text}") (text: lib.upper text) ];
    units = map (unit: unit.file) (builtins.filter (unit: unit.enable) (builtins.attrValues config.services));
    etc."services/order".text = lib.joinWith " " (lib.topological (name: builtins.filter (other: config.services ? ${other}) config.services.${name}.after) (builtins.attrNames config.services));
    etc."motd".text = lib.mkMerge [ (lib.mkAfter (config.transform "bye")) (config.transform "welcome") ];
  };
}
