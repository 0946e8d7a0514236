"""Measurements that anyone can run: ``python -m benchmarks`` prints the table of the README."""
