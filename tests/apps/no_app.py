"""Defines no app."""


class App:
    pass
