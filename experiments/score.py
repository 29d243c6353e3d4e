"""Score untrained networks; the same as `jaxdarts score`."""

from jaxdarts.__main__ import main

if __name__ == "__main__":
    main("score")
