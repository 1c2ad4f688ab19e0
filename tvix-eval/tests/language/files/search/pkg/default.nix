"found pkg"
