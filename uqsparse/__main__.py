"""`python -m uqsparse`."""

from uqsparse.cli import main

if __name__ == "__main__":
    main()
