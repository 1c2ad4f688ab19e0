a: b: c: y:
{
  a = "plain";
  b = "a${"b"}c${1 + 2}";
  c = "\n\t\r\"\\\${x} $${y} $ $$ \a";
  d = "$";
  e = "${a}";
  f = ''
    indented
      more

    ''${x} ''' ''\n ''\t$ $$ '
    end'';
  g = ''single'';
  h = ''

  '';
  i = ''
    a ${b}
      ${c} d
    '';
  j = ''   three   '';
  k = ''	tab
    x'';
  l = ''
    x
    ${y}'';
  m = ''$'';
  n = ''a''\
    b'';
  o = "multi
line";
  p = http://example.org/x?y=z;
  q = x:y;
  r = ''a'b'';
}
