"""`python -m clipfleet`: the command line."""

from clipfleet.cli.main import main

if __name__ == "__main__":
    main()
