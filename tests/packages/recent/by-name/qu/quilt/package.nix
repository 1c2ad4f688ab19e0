{ make, gzip, bright, quiet }:
make (final: {
  pname = "quilt";
  inherit (bright) version;
  structured = true;
  forbidden = [ gzip ];
  parts = { inherit bright; documents = quiet.doc; names = map (part: part.name) [ bright quiet ]; };
  self = "${final.pname}-${final.version}";
  level = bright.name2;
})
