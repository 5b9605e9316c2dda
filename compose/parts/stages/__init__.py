"""The shipped stages: one file each."""
