"found file"
