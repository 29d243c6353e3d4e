"""Time the operations of a search space; the same as `jaxdarts measure`."""

from jaxdarts.__main__ import main

if __name__ == "__main__":
    main("measure")
