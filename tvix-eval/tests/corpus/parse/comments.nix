# line
/* block */ /**/ /** doc */ /* * ** */
{ # x
  /* a */ a /* b */ = /***/ 1; # end
}
