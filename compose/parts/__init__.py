"""Parts that plug together: one file a part, declaration and module side by side."""
