"""Ablation studies: a question, a grid of one-line changes times seeds, and an answer with its intervals."""
