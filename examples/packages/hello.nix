{ runScript, libgreet, version }:
runScript "hello-${version.number}" {
  inherit libgreet;
  main = builtins.toFile "main.c" ''
    void greet(void);
    int main(void) { greet(); return 0; }
  '';
} ''
  mkdir -p $out/bin
  cc -o $out/bin/hello $main -L$libgreet -lgreet
''
