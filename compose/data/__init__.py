"""Data sets: examples as codes or as reals, with the protocol under which they are scored."""
