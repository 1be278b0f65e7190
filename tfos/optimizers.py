"""Keras optimizers of tfos, for tables of which a step uses few rows. Public names only.

What they have in common is said in tfos.tables.optimizers.
"""

from tfos.tables.optimizers import SGD, Adagrad, Adam
from tfos.tables.proximal import FTRL, GroupFTRL, ProximalAdagrad

__all__ = ["FTRL", "SGD", "Adagrad", "Adam", "GroupFTRL", "ProximalAdagrad"]
