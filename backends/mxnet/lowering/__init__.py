"""From ONNX to MXNet: what each operator of the profile is as a symbol, a file a family."""
