"""Errors of fitting."""


class FittingError(Exception):
    """The folder, the base or the machine cannot be used; the message is one line for the user."""
