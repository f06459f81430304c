"""The built-in demo model: a tiny K2 in K2's own on-disk format."""
