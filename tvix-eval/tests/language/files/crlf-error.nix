1 + "crlf"
+ 2
