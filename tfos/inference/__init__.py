"""Applying an exported model to a DataFrame: predict.py on the driver, worker.py on executors."""
