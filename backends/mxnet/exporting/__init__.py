"""From MXNet to ONNX: symbol files, and what each of MXNet's operators is in the profile, a file a family."""
