"""The machinery of the experiments: from a command line to the files of its results."""
