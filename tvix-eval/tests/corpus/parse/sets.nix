let
  z = 1;
  inherit (builtins) map add;
  inherit z2 "quoted" ;
  a.b.c = 1;
  a.b.d = 2;
  a.e = { f = 1; };
  a.e.g = 2;
  z2 = let { x = 1; body = x; };
  quoted = rec { inherit a; inherit (a) b e; c = b; };
in {
  x = { a = 1; };
  x = { b = 2; inherit (x) q; };
  x = rec { inherit (y) r; inherit z; "dyn${toString 1}" = 5; };
  x.c.d = 1;
  r = rec { a = 1; };
  r.b = 2;
  ${"a" + "b"}.c = 1;
  "if" = 1; "a b" = 2; or = 3; "" = 4; "a-b'c" = 5; "-x" = 6;
  inherit;
  inherit ({ }) ;
  f = { a, b ? 1, ... }@args: { c ? a, b }: x@{ ... }: { }: x;
}
