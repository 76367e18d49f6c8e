"""The scoring server: one deployment in one process, started as `python -m mlops_nb.serving SPEC.json`."""
