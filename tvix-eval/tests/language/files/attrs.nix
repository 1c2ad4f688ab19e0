{
  a = 1;
  b.c = 2;
  inherit (builtins) map;
  f = { x, y ? 2 }: x;
}
