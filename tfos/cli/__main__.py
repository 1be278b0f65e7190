"""python -m tfos.cli"""

from tfos.cli.main import entry_point

entry_point()
