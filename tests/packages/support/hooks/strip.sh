stripPhase() { find "$1" -type f -exec strip {} +; }; addHook stripPhase
