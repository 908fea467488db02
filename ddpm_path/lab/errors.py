"""One way to say that a name does not exist."""

import difflib
from collections.abc import Iterable


def unknown(what: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is not among `known`: it gives the nearest match and the list."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"no {what} {name!r}: {hint}There are {', '.join(names) or 'none'}")
