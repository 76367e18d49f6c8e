"""The notebook's face: the `%mlops` magic, its completion and its forms.  Loading it imports nothing that takes time."""
