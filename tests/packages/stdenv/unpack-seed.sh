$seed/bin/unpack $seed/tools.nar $out
