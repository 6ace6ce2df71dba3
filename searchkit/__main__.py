"""`python -m searchkit` is the command line."""

from searchkit.cli.app import main

if __name__ == "__main__":
    main()
