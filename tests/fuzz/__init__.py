"""Fuzzing: bytes that nobody would write, into all that reads what others send.

`python -m tests.fuzz --seconds 60` tries all targets. A target is a name, a function that takes
bytes, and some inputs to start from. The function raises if something is not as it should be.

- `registry`: the targets, which the other modules here define, one for each kind of reader.
- `inputs`: new inputs, made of the seeds; `blind` tries them, by hypothesis.
- `guided`: inputs that reach new lines of the package, by atheris, where that is installed.
- `faults`: one try, within a limit of time; and a fault, made short and printed.
"""
