"""The shipped densities: one file each."""
