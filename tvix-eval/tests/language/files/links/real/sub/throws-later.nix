# a
{
  p =
    throw "x";
}
