"""Draw a cell or the curves of a run; the same as `jaxdarts draw`."""

from jaxdarts.__main__ import main

if __name__ == "__main__":
    main("draw")
