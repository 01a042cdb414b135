"""`distmlp train` and `evaluate` as a user runs them: what they print, what they leave, how they end."""
