"""What is measured against the possible: programs, clocks and limits of the benchmark, and the best possible error."""
