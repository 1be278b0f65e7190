"""--strategy ps: asynchronous workers, and parameter servers of TensorFlow."""
