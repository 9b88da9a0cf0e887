"""Exported models run by ONNX Runtime, numpy and scipy alone: nothing here, nor what it imports, loads torch."""
