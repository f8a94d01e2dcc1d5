"""The one exception for mistakes that a user can make and mend."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(ValueError):
    """One line that says what is wrong, where, and what to do; the command line exits with code 2."""


def did_you_mean(name: str, known: Iterable[str], others: Sequence[str] = ()) -> str:
    """Return ``"; did you mean 'x'?"`` for the name nearest to ``name``, or all that are ``known`` if none is near.

    ``others`` are too many to be listed, and must be nearer.
    """
    names = sorted(known)
    if not names:
        return ""
    near = difflib.get_close_matches(name, others, 1, 0.7) or difflib.get_close_matches(name, names, 1, 0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"
