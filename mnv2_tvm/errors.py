"""The one exception for everything a user can mend."""


class UserError(Exception):
    """Something the user gave or lacks; the text names the thing, the place and the remedy.

    Every verb prints the text without a traceback and exits with 1.
    """
