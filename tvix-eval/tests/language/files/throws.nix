let x = throw "from file"; in { inherit x; }
