"""The one exception that means "the input was wrong", shown by the command line as a single line with exit code 2."""


class InputError(ValueError):
    """Bad input. The message names the argument or file, what is allowed, and what came."""
