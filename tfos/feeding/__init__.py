"""The feed: DataFrames as logs of Arrow shards, and their rows as batches of tensors."""
