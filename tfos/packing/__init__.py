"""An environment of Python as an archive that runs where there is no Python."""
