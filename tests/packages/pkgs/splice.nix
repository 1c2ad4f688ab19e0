# Each package knows what it is at the other offsets, so that a dependency means the one for its place.
{ lib }:
{ own, build, target }:
let
  buildBuild = if build == null then own else build.outermost;
  at = name: set: set.${name} or null;
in
builtins.mapAttrs
  (name: package:
    if name == "lib" || !(builtins.tryEval (lib.isDerivation package)).value then package
    else
      package // {
        spliced = lib.sets.filterAttrs (offset: value: value != null) {
          buildBuild = at name buildBuild;
          buildHost = if build == null then package else at name build.own;
          buildTarget = if build == null then package else at name build.own;
          hostHost = package;
          hostTarget = package;
          targetTarget = if target == null then package else at name target.own;
        };
      })
  own
