"""Networks and supernets of the tabular benchmarks."""
