"""--strategy kv: the key-value store of tfos as parameter server."""
