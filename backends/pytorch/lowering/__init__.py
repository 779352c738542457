"""From the IR to PyTorch: one function an operator, which adds what it computes to an fx graph."""
