"""Training loops over feeds: fit for Keras models, and what it is built on."""
