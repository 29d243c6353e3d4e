"""Train a found or published cell from scratch; the same as `jaxdarts evaluate`."""

from jaxdarts.__main__ import main

if __name__ == "__main__":
    main("evaluate")
