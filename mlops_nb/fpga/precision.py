"""Fixed-point numbers and the names of parts, parsed once."""

from __future__ import annotations

import re

import msgspec

from ..errors import BadOption

DEFAULT_PRECISION = "fixed<16,6>"
DEFAULT_PART = "xcu250-figd2104-2L-e"
MOST_BITS = 48
_WORDS = re.compile(r"(?:ap_)?fixed<\s*(\d{1,3})\s*,\s*(-?\d{1,3})\s*(?:,\s*(\w+)\s*,\s*(\w+)\s*)?>", re.IGNORECASE)
_ROUNDING = ("TRN", "RND", "TRN_ZERO", "RND_ZERO", "RND_INF", "RND_MIN_INF", "RND_CONV")
_OVERFLOW = ("WRAP", "SAT", "SAT_ZERO", "SAT_SYM")
_PART = re.compile(r"xc[a-z0-9]{2,10}?-?[a-z]{2,5}\d{3,4}-\d[a-z]{0,3}(?:-[a-z])?", re.IGNORECASE)


class Precision(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A signed fixed-point type as HLS has it: *width* bits, *integer* of them before the point, the sign counted."""

    width: int
    integer: int
    rounding: str = "TRN"
    overflow: str = "WRAP"

    @classmethod
    def parse(cls, text: str) -> Precision:
        """`fixed<16,6>` or `fixed<16,6,RND,SAT>`.  Raises BadOption."""
        found = _WORDS.fullmatch(text.strip())
        if not found:
            raise BadOption(f"{text[:40]!r} is no fixed-point type.", hint="--precision 'fixed<16,6>': 16 bits, 6 of them before the point")
        width, integer = int(found[1]), int(found[2])
        rounding, overflow = (found[3] or "TRN").upper(), (found[4] or "WRAP").upper()
        if not (2 <= width <= MOST_BITS and 1 <= integer <= width):
            why = f"it takes 2 to {MOST_BITS} bits, and from 1 of them to all before the point"
            raise BadOption(f"{text!r} cannot be used: {why}.", hint="--precision 'fixed<16,6>'")
        if rounding not in _ROUNDING or overflow not in _OVERFLOW:
            raise BadOption(f"{text!r} cannot be used: it rounds by one of {', '.join(_ROUNDING)} and overflows by one of {', '.join(_OVERFLOW)}.",
                            hint="--precision 'fixed<16,6,RND,SAT>'")  # fmt: skip
        return cls(width=width, integer=integer, rounding=rounding, overflow=overflow)

    def __str__(self) -> str:
        modes = "" if (self.rounding, self.overflow) == ("TRN", "WRAP") else f",{self.rounding},{self.overflow}"
        return f"fixed<{self.width},{self.integer}{modes}>"

    @property
    def slug(self) -> str:
        """The same as a file name: `fixed-16-6`."""
        return str(self).strip(">").replace("<", "-").replace(",", "-").lower()

    @property
    def ap_type(self) -> str:
        """The same as C++ has it, `ap_fixed<16,6,AP_TRN,AP_WRAP>`."""
        return f"ap_fixed<{self.width},{self.integer},AP_{self.rounding},AP_{self.overflow}>"

    @property
    def step(self) -> float:
        """The distance between two neighbours."""
        return 2.0 ** (self.integer - self.width)

    @property
    def low(self) -> float:
        """The smallest number it holds."""
        return -(2.0 ** (self.integer - 1))

    @property
    def high(self) -> float:
        """The largest number it holds."""
        return 2.0 ** (self.integer - 1) - self.step


def checked_part(name: str) -> str:
    """*name* when it has the form of an AMD/Xilinx part, device, package and speed grade.  Raises BadOption."""
    if not _PART.fullmatch(name):
        raise BadOption(f"{name[:40]!r} has not the form of a part.", hint=f"--part {DEFAULT_PART}, or xc7z020clg400-1")
    return name
