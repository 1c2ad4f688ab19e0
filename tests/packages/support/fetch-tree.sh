curl -L "$url" | tar xz -C "$out"
