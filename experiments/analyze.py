"""Look into finished runs; the same as `jaxdarts analyze`."""

from jaxdarts.__main__ import main

if __name__ == "__main__":
    main("analyze")
