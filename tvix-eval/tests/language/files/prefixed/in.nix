"prefixed"
