"""A strategy from outside tfos: the chief has the weights, peers compute gradients. NumPy alone."""
