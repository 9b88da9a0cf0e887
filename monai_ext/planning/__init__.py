"""Fingerprint of a dataset becomes a plan: pure functions, JSON in and out."""
