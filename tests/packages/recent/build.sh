echo "built $name"; : > "$out"
