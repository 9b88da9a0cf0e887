"""Throughput and latency, measured as one would measure a competitor."""
