{ lib }:
rec {
  isDerivation = x: builtins.isAttrs x && x.type or null == "derivation";
  mapNames = f: set: builtins.listToAttrs (map (name: f name set.${name}) (builtins.attrNames set));
  pickAttrs = names: set: builtins.intersectAttrs (builtins.listToAttrs (map (name: { inherit name; value = null; }) names)) set;
  attrPath = path: default: set:
    builtins.foldl' (at: name: if builtins.isAttrs at then at.${name} or default else default) set path;
  recursiveMerge = left: right:
    left // builtins.mapAttrs
      (name: value:
        if builtins.isAttrs value && !isDerivation value && builtins.isAttrs (left.${name} or null) && !isDerivation left.${name}
        then recursiveMerge left.${name} value
        else value)
      right;
  # All derivations in a tree of sets, in the order of their paths; what cannot be evaluated is left out.
  collect = depth: set: builtins.concatMap
    (name:
      let tried = builtins.tryEval set.${name};
      in
      if !tried.success then [ ]
      else if isDerivation tried.value then lib.optional (builtins.tryEval tried.value.drvPath).success tried.value
      else if depth > 0 && builtins.isAttrs tried.value && tried.value.recurse or false then collect (depth - 1) tried.value
      else [ ])
    (builtins.attrNames set);
  setAt = path: value:
    lib.foldr (name: inner: { ${name} = inner; }) value path;
  filterAttrs = keep: set: builtins.removeAttrs set (builtins.filter (name: !keep name set.${name}) (builtins.attrNames set));
  zip = builtins.zipAttrsWith (name: values: values);
}
