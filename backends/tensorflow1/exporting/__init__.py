"""From TensorFlow to the IR: the steps of the reader."""
