"""`python -m mlops_nb` is `mlops`."""

from .cli import main

if __name__ == "__main__":
    main()
