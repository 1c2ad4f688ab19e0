# Functions whose results can be changed afterwards.
{ lib }:
rec {
  # The result of f, with `override` to call it again with other arguments.
  overridable = f: args:
    let
      result = f args;
      again = change: overridable f (args // (if builtins.isFunction change then change args else change));
      override = { __functor = self: again; __functionArgs = builtins.functionArgs f; };
    in
    if builtins.isAttrs result then
      result // {
        inherit override;
        overrideDerivation = change: overridable (args: changeDerivation change (f args)) args;
        ${if result ? overrideAttrs then "overrideAttrs" else null} =
          change: overridable (args: (f args).overrideAttrs change) args;
      }
    else if builtins.isFunction result then { __functor = self: result; inherit override; }
    else result;

  changeDerivation = change: drv:
    let
      changed = derivation (drv.drvAttrs // change drv);
    in
    changed // { inherit (drv) meta passthru; };

  # What f asks for is taken from a set, and may be given or replaced.
  callWith = set: f: given:
    let
      function = if builtins.isFunction f then f else import f;
      asked = builtins.functionArgs function;
      found = builtins.intersectAttrs asked set // given;
      missing = builtins.filter (name: !asked.${name} && !found ? ${name}) (builtins.attrNames asked);
    in
    if missing == [ ] then overridable function found
    else throw "callWith: there is no ${lib.joinWith ", " missing}";

  # A set of packages of its own, within another.
  makeScope = outer: f:
    let
      self = f self // {
        call = callWith (outer // self);
        inherit outer;
        extend = overlay: makeScope outer (lib.extends overlay f);
        packages = f;
      };
    in
    self;
}
