"""The parts of the benchmark: programs, clocks and limits."""
