export MELODY_PATH="${MELODY_PATH:-}:$1/lib/melody"; addHook melodyPath
