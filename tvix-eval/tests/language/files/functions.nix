{
  f = x:
    x.missing;
  g = a: b: throw "g was called";
}
