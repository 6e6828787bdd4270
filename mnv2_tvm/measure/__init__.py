"""How right and how fast: candidates, whole networks, memory and the peak, on any device."""
