"""Generation past the window: a cache that writes each segment to memory when it is full."""
