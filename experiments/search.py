"""Search a cell; the same as `jaxdarts search`."""

from jaxdarts.__main__ import main

if __name__ == "__main__":
    main("search")
