"""The strategies that come with tfos; see docs/STRATEGIES.md. Found by their entry points."""
