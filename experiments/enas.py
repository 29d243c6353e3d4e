"""ENAS; the same as `jaxdarts enas`."""

from jaxdarts.__main__ import main

if __name__ == "__main__":
    main("enas")
