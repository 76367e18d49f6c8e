"""How things look to people: each noun becomes one `Card`, and a card is written as text or as HTML, light and dark."""

from .card import Card, Cell, Link, Mark, Share, Table, ago, size
from .kinds import card_of, knows
from .writing import as_html, as_text

__all__ = ["Card", "Cell", "Link", "Mark", "Share", "Table", "ago", "as_html", "as_text", "card_of", "knows", "size"]
