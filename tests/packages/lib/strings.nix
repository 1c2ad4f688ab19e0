{ lib }:
rec {
  joinWith = builtins.concatStringsSep;
  optionalText = yes: text: if yes then text else "";
  hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
  hasSuffix = suffix: text:
    let
      long = builtins.stringLength text;
      short = builtins.stringLength suffix;
    in
    long >= short && builtins.substring (long - short) short text == suffix;
  removeSuffix = suffix: text:
    if hasSuffix suffix text
    then builtins.substring 0 (builtins.stringLength text - builtins.stringLength suffix) text
    else text;
  lines = text: builtins.filter builtins.isString (builtins.split "\n" text);
  indent = by: text: joinWith "\n" (map (line: if line == "" then line else by + line) (lines text));
  escapeShell = word:
    let text = toString word;
    in if builtins.match "[a-zA-Z0-9,._+:@%/-]+" text != null then text
      else "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] text}'";
  characters = text: builtins.genList (i: builtins.substring i 1 text) (builtins.stringLength text);
  upper =
    builtins.replaceStrings (characters "abcdefghijklmnopqrstuvwxyz") (characters "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
  variable = name: builtins.replaceStrings [ "-" "." "+" ] [ "_" "_" "x" ] (upper name);
  padLeft = width: fill: text:
    if builtins.stringLength text >= width then text else padLeft width fill (fill + text);
  majorMinor = version: joinWith "." (lib.pipe (builtins.splitVersion version) [
    (parts: builtins.genList (i: if i < builtins.length parts then builtins.elemAt parts i else "0") 2)
  ]);
  isNewer = a: b: builtins.compareVersions a b > 0;

  # A value as an INI-like text; contexts are kept.
  toIni = sections: joinWith "\n" (builtins.attrValues (builtins.mapAttrs
    (name: values: ''
      [${name}]
      ${joinWith "\n" (builtins.attrValues (builtins.mapAttrs (key: value: "${key}=${toValue value}") values))}
    '')
    sections));
  toValue = value:
    if value == true then "yes"
    else if value == false then "no"
    else if builtins.isList value then joinWith "," (map toValue value)
    else toString value;
}
