{ make, runCommand }: make { pname = "only-x86"; version = "1"; __structuredAttrs = true; table = { a = [ 1 2.5 true null ]; b.c = "d"; }; meta.platforms = [ "x86_64-linux" ]; }
