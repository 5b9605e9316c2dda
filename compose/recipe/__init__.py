"""Recipes: reading, checking and writing them."""
