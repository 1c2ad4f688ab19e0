mkdir -p $out/bin $out/support
for tool in cc ld as; do substitute $compiler/bin/$tool $out/bin/$prefix$tool; done
