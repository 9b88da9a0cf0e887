"""Prediction of whole volumes by overlapping windows."""
