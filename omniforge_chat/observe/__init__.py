"""The observers that come with the package: what is logged, counted and traced.

- `logged`: the lines of the log when a chat or a reader ends.
"""
