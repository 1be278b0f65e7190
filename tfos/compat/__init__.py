"""Private names and texts of TensorFlow, Keras and Spark that tfos depends on.

Each stands here once, with a clear error for a version that has it no more, and with a test in
tests/unit/test_compat.py that says what breaks when it changes.
"""
