"""The one exception for mistakes that a user can make and mend."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """One line that says what is wrong, where, and what to do; the command line exits with code 2."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name nearest to ``name``, or the whole list if none is near."""
    names = sorted(known)
    if not names:
        return ""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"
