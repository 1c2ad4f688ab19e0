{ make, lib, loud ? false }:
make (final: {
  pname = "quiet";
  version = if loud then "loud" else "still";
  prefix = placeholder "out";
  outputs = [ "out" "doc" ];
  both = map (output: "${placeholder output}/share") final.outputs;
})
