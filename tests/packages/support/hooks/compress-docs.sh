compressDocs() { gzip -n "$1"/share/man/*/*; }; addHook compressDocs
