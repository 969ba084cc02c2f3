"""One way to answer a wrong name: say what was meant, perhaps."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def unknown_name(kind: str, name: str, names: Sequence[str]) -> ValueError:
    """The error for a `name` that is not among `names`, naming the nearest of them whatever its case."""
    if not names:
        return ValueError(f"unknown {kind} {name!r}: there are none")
    by_folded = {known.casefold(): known for known in names}
    near = [by_folded[match] for match in difflib.get_close_matches(name.casefold(), by_folded, n=3)]
    if not near:
        near = list(names[:3])
    return ValueError(f"unknown {kind} {name!r}: did you mean {' or '.join(near)}?")
