"prefixed default"
