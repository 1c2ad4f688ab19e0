for url in $urls; do curl -L "$url" -o "$out" && exit; done
