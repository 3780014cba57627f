"""The four rewards, one module each, and the interface they share."""
