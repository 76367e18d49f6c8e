"""Numbers counted into the bins between edges, exactly, in a few nanoseconds each.

A search among 256 edges takes ten times as long as the arithmetic here: the range is cut into cells of equal width, a table says which
edge is the first at or after each cell's beginning, and one comparison with that edge decides, or two where a frequent value has a
bin of its own.  The cell of a value is found by subtraction, multiplication and truncation, which never put a larger value into an
earlier cell; so edges of earlier cells are below it and edges of later ones above it, whatever is lost in rounding.  Values of
cells that hold more edges are searched.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_CELLS = 8192
_FEWEST_EDGES = 8
_MOST_SEARCHED = 0.2
"""The share of the edges that may lie in cells with others: more, and searching all is quicker."""
_TRIES = ((1, 1), (1, 8), (2, 1), (2, 8), (2, 32))
"""How often a value is compared, and how many edges at either end the outermost cells get, where a few far values would stretch the range."""


class Bins:
    """Bin k holds the values above edge k-1 up to edge k; the last holds those above all edges."""

    def __init__(self, edges: Sequence[float]) -> None:
        import numpy as np

        self.edges = np.asarray(edges, float)
        self._bins = len(self.edges) + 1
        self._beyond = np.append(self.edges, [np.inf, np.inf])
        """What a value of each bin is compared with; of the last, and of the mark of crowded cells, none is larger."""
        self._grid = next((grid for steps, trim in _TRIES if (grid := _Grid.over(self.edges, steps, trim))), None)

    def counts(self, values: np.ndarray) -> np.ndarray:
        """How many of *values* lie in each bin.  None may be NaN."""
        import numpy as np

        if self._grid is None:
            return self._searched(values)
        numbers, cells, places, above = _desk.arrays(len(values))
        self._grid.first.take(self._grid.cells(values, numbers, cells), mode="clip", out=places)  # indexing by an array takes three times as long
        for _ in range(self._grid.steps):
            places += np.greater(values, self._beyond.take(places, mode="clip", out=numbers), out=above)
        counts = np.bincount(places, minlength=self._bins + 1)
        found, crowded = counts[:-1], counts[-1]
        return found + self._searched(values[places == self._bins]) if crowded else found

    def _searched(self, values: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.bincount(np.searchsorted(self.edges, values), minlength=self._bins)


class _Desk(threading.local):
    """A thread's arrays to work in: new ones of this size come from the kernel page by page, which takes as long as the arithmetic."""

    def __init__(self) -> None:
        self._arrays: tuple[np.ndarray, ...] = ()

    def arrays(self, length: int) -> tuple[np.ndarray, ...]:
        """One of numbers, two of places and one of answers, each of that length and of any content."""
        import numpy as np

        if not self._arrays or len(self._arrays[0]) < length:
            self._arrays = (np.empty(length), np.empty(length, np.intp), np.empty(length, np.intp), np.empty(length, bool))
        return tuple(array[:length] for array in self._arrays)


_desk = _Desk()


class _Grid:
    """Cells of equal width, and the first edge that is not before each; of crowded ones a mark, the number of the bins."""

    def __init__(self, edges: np.ndarray, low: float, scale: float, steps: int) -> None:
        import numpy as np

        self._low, self._scale, self.steps = low, scale, steps
        of_edges = self.cells(edges, np.empty(len(edges)), np.empty(len(edges), np.intp))
        crowded = np.bincount(of_edges, minlength=_CELLS) > steps
        self.searched = float(crowded[of_edges].mean())
        self.first = np.where(crowded, len(edges) + 1, np.searchsorted(of_edges, np.arange(_CELLS)))

    @classmethod
    def over(cls, edges: np.ndarray, steps: int, trim: int) -> _Grid | None:
        """A grid from one of the first edges to one of the last; None where it would not help."""
        import numpy as np

        if len(edges) < max(_FEWEST_EDGES, 2 * trim + 2):
            return None
        low, high = float(edges[trim]), float(edges[-1 - trim])
        scale = (_CELLS - 2) / (high - low) if high > low else 0.0
        if not (np.isfinite(low) and np.isfinite(high - low) and np.isfinite(scale) and scale > 0):
            return None
        grid = cls(edges, low, scale, steps)
        return grid if grid.searched <= _MOST_SEARCHED else None

    def cells(self, values: np.ndarray, scaled: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """The cell of each value, the outermost for those beyond, worked out in arrays of that length."""
        import numpy as np

        np.subtract(values, self._low, out=scaled)
        np.multiply(scaled, self._scale, out=scaled)
        np.clip(scaled, 0, _CELLS - 1, out=scaled)
        np.copyto(cells, scaled, casting="unsafe")
        return cells
