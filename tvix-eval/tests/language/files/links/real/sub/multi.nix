# a
{
  p = __curPos;
  b = 1;
  q = builtins.unsafeGetAttrPos "b" { x = 1;
 b = 2; };
}
