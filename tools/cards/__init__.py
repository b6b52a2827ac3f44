"""Model cards and tables of the released experts, written from the results of the benchmarks."""
