"""`python -m mopruning`: the command line."""

from mopruning.cli import main

if __name__ == "__main__":
    main()
