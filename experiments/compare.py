"""Compare search algorithms; the same as `jaxdarts compare`."""

from jaxdarts.__main__ import main

if __name__ == "__main__":
    main("compare")
