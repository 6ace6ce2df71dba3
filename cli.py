"""The command line from a checkout: `python cli.py search --space cnn`."""

from searchkit.cli.app import main

if __name__ == "__main__":
    main()
