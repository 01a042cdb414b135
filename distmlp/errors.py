"""The one exception for a user's mistake: the command line prints its message as one line and exits with status 2."""


class ConfigError(ValueError):
    """Something the user gave is wrong. The message says what is wrong and what would be right, in one line."""
