"""`python -m tina_cli` is `tina`."""

from tina_cli.cli import main

if __name__ == "__main__":
    main()
