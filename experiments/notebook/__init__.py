"""The notebook's published numbers and its flaws, compared with our runs."""
