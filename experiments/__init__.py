"""One short script a question, all of one skeleton: `python -m experiments.NAME --help`."""
