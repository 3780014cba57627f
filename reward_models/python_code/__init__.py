"""Own rewards in Python: what a profile's `function` is, and how it is loaded and called."""
