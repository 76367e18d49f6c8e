"""Figures one command prints: `python -m bench`, or `python -m bench startup metadata` for some families.  `make bench` runs all."""
