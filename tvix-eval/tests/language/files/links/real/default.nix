{ file = ./file; curpos = __curPos; here = toString ./.; above = toString ../x; attr = builtins.unsafeGetAttrPos "a" { a = 1; }; }
