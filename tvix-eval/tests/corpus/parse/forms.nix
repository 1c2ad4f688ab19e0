x: with x; assert x == 1; if x then y: y else let a = 1; in with a; if a then assert b; c else __curPos
