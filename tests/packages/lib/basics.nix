# What needs nothing else.
rec {
  id = x: x;
  flip = f: a: b: f b a;
  compose = f: g: x: f (g x);
  pipe = builtins.foldl' (x: f: f x);

  fix = f: let self = f self; in self;

  # An overlay takes what comes out in the end, and what was there before.
  extends = overlay: base: final: let before = base final; in before // overlay final before;
  composeMany = overlays: base: builtins.foldl' (flip extends) base overlays;

  makeExtensible = base: fix base // {
    extend = overlay: makeExtensible (extends overlay base);
  };

  optional = yes: x: if yes then [ x ] else [ ];
  optionals = yes: xs: if yes then xs else [ ];
  optionalAttrs = yes: set: if yes then set else { };
  toList = x: if builtins.isList x then x else [ x ];
  flatten = x: if builtins.isList x then builtins.concatMap flatten x else [ x ];
  range = from: to: builtins.genList (i: from + i) (if to < from then 0 else to - from + 1);
  last = xs: builtins.elemAt xs (builtins.length xs - 1);
  foldr = f: end: xs:
    let
      length = builtins.length xs;
      go = i: if i == length then end else f (builtins.elemAt xs i) (go (i + 1));
    in
    go 0;
  unique = builtins.foldl' (seen: x: if builtins.elem x seen then seen else seen ++ [ x ]) [ ];
  imap = f: xs: builtins.genList (i: f i (builtins.elemAt xs i)) (builtins.length xs);

  # Dependencies before dependents, by name.
  topological = needs: names:
    let
      visit = state: name:
        if state.done ? ${name} then state
        else
          let
            below = builtins.foldl' visit (state // { done = state.done // { ${name} = true; }; }) (needs name);
          in
          below // { order = below.order ++ [ name ]; };
    in
    (builtins.foldl' visit { done = { }; order = [ ]; } names).order;
}
