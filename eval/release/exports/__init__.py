"""The encoder of a release in other forms: ONNX, torch.export, 8-bit integers; each proved as it is written."""
