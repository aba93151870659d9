"""Fuzzers of every input format: mutations of real files, with conserved sums as the oracle."""
