"""Chaos: many readers, workers that die, connections that break, and a Redis that goes away.

`python -m tests.chaos --seconds 60` starts some workers on one Redis behind a balancer, and
hundreds of readers. At the end each reader has the text of its reply exactly once and in order, up
to a `done` that is whole, or to an error that had its cause; and nothing is left of anything.

| module | |
|---|---|
| `script.py` | the reply to a message, which responder and readers compute alike |
| `responder.py`, `journal.py` | the responder, and its notes of what it was asked |
| `worker.py`, `store.py`, `balancer.py` | the processes, and what stands before them |
| `faults.py`, `record.py` | what is done to them, and when it was done |
| `run.py` | one message, and what became of it |
| `requests.py`, `client.py`, `reader.py` | who asks: connections that break, one reply, many |
| `judge.py`, `rest.py` | the rules, and what is left |
"""
