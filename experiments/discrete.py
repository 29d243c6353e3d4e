"""Search among discrete cells; the same as `jaxdarts discrete`."""

from jaxdarts.__main__ import main

if __name__ == "__main__":
    main("discrete")
