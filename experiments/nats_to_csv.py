"""Turn the files of NATS-Bench into a table; the same as `jaxdarts nats_to_csv`."""

from jaxdarts.__main__ import main

if __name__ == "__main__":
    main("nats_to_csv")
