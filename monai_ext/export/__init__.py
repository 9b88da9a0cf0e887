"""Trained networks as files for deployment: TorchScript, ONNX and 8-bit ONNX, each run back and compared."""
