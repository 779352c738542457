"""From a PyTorch module to the IR: how it is traced, translated and brought to the IR's conventions."""
