{ lib, make, hello, platforms, platform ? platforms.local, level ? 0, docs ? level > 1 }:

make (final: {
  pname = "bright" + (if platform == platforms.local then "" else "-${platform.short}");
  version = "1.${toString level}";
  inherit level docs;
  structured = platform.is64bit;
  inputs = [ hello ] ++ (if platform.emulates { cpu = "i686"; } then [ final.tool ] else [ ]);
  tool = "${hello}/bin/hello";
  defines = platform.flags;
  number = 2.5 * level + 0.25;
  nested = { list = [ 1 "two" null true { three = 3; } ]; inherit (platform) extension libc; };
  text = "\"quoted\" and \\ and\ttabs\nlines ${final.version} é";
  passthru.name2 = final.finalPackage.name;
  ${if platform.isBigEndian then "order" else null} = "big";
} // (if !platform.is64bit then { nested = "none"; number = 1; } else { }))
