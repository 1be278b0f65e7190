"""--strategy gang: equal processes, of any framework or none."""
