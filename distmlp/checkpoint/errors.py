"""What can be wrong with a checkpoint."""

from distmlp.errors import ConfigError


class DamagedError(ConfigError):
    """It is not what was written: the message names the file and what is wrong with it."""
