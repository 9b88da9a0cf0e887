"""Metrics in original geometry and their reports."""
