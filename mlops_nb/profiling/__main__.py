"""`python -m mlops_nb.profiling`: send the load that whoever started this asks for; see `load`."""

from .load import main

main()
