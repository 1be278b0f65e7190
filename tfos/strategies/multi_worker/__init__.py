"""--strategy multi-worker: processes that train in step, without servers."""
