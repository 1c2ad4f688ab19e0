{ runScript, greeting }:
runScript "libgreet" { source = ./greet.c; inherit greeting; } ''
  cc -c -DGREETING="\"$greeting\"" -o greet.o $source
  mkdir $out && ar rcD $out/libgreet.a greet.o
''
