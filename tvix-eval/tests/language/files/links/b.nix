"beside the target"
