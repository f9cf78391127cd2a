"""The notebook's published numbers, and its flaws shown in ours."""
