{
  one ? 1,
}:
rec {
  /**
    Doc of *fun*.
  */
  fun = x: y: x;
  nodoc = { a, b ? 1 }: a;
  two = one + 1;
  thr = throw "lazy";
  val = 3;
}
