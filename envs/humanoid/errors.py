"""The one error of this package that is not about a value."""


class MissingRequirementError(ValueError):
    """Something that is not on this machine is needed; the message says how to get it."""
