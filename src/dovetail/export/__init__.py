"""Out of Dovetail: ONNX with standard ops, and back to torch."""
