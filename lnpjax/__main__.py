"""`python -m lnpjax` is the command `lnpjax`."""

from lnpjax.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
