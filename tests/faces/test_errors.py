"""Errors: the tree that is drawn at the top of their file is the tree."""

from __future__ import annotations

import re

from mlops_nb import errors
from mlops_nb.errors import MlopsError


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn: dict[str, list[str]] = {}
    for line in re.findall(r"^    (.*)$", errors.__doc__ or "", re.MULTILINE):
        if branch := re.search(r"(\w+) +exit (\d) +HTTP (\d+)", line):
            kind = getattr(errors, branch[1])
            assert (kind.exit_code, kind.http_status) == (int(branch[2]), int(branch[3])), branch[1]
            leaves = drawn[branch[1]] = []
        else:
            leaves += re.findall(r"[A-Z]\w+", line)

    assert list(drawn) == ["MlopsError", *names_below(MlopsError)]
    for name in names_below(MlopsError):
        assert sorted(drawn[name]) == sorted(names_below(getattr(errors, name)))


def names_below(kind: type[MlopsError]) -> list[str]:
    """The classes of that file right below *kind*, as they stand in it."""
    return [below.__name__ for below in kind.__subclasses__() if below.__module__ == errors.__name__]
