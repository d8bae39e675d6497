"""`clipfleet` and `python -m clipfleet`: the command line.

Each engine process of a worker imports the script `clipfleet` again, as the start of a process by
"spawn" does. So this module loads the command line only to run it.
"""


def main() -> None:
    """Run the command line."""
    from clipfleet.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
