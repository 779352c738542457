"""From the IR to TensorFlow: one function an operator, which adds what it computes to a graph."""
