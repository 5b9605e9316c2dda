"""Quantizers: vectors become codes."""
