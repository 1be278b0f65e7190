"""A run, looked at and ended from outside its driver."""
