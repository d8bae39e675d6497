"""`python -m clipfleet`: the command line."""

if __name__ == "__main__":  # a worker's child imports this module again, and needs no command line
    from clipfleet.cli.main import main

    main()
