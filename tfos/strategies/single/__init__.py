"""--strategy single: one process."""
