"""What keeps a model from being fitted."""


class FittingError(Exception):
    """The folder, the base or the machine cannot be used; the message is one line for the user."""
