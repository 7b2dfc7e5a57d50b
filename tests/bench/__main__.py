"""python -m tests.bench: what the service costs, beside what one would write instead.

Subjects
    `bare`            an ASGI app that sends the frames as constants, a send for each: the limit
    `omniforge`       `create_app(responder, settings=Settings())`, with its log line for each chat
    `guarded`         the same with keys, limits in memory and metrics all on
    `before`          `omniforge` of another checkout, with `--before DIRECTORY`
    `fastapi-stream`  FastAPI, a pydantic model and `StreamingResponse`
    `fastapi-sse`     FastAPI and its own response for events
    `sse-starlette`   Starlette, the same model and the `EventSourceResponse` of sse-starlette
    `fastapi-openai`  FastAPI and `StreamingResponse`, and the `openai` package for what it relays
    `replay-memory`   `omniforge` with `CHAT_REPLAY=memory`
    `replay-redis`    the same with `CHAT_REPLAY=redis`; the server has the core of the load
    `direct`          the upstream itself, read without a relay

Each answers `POST /api/v1/chat` with the same events, which is checked before anything is measured.

Workloads
    `short`  the placeholder's reply, five chunks and `done`; 32 kept connections, each asking again
             as soon as it is answered
    `long`   1,000 chunks, each ready at once; 8 such connections
    `paced`  900 streams at once, a token every 50 ms each, opened so that their tokens are spread
             evenly over the 50 ms. A token's text is the time of its yield, and the delay is from
             there to its arrival in the load generator. Memory is what the process's resident
             memory grew by with all streams open, after a first wave of 20
    `kept`   300 such streams, whose replies are kept or not
    `many`   10,000 streams at once, a token every second each. Two further processes read them, as
             one could not hold them; they share the load's core, and sleep while nothing comes. It
             takes one round of half a minute for each subject, and needs `ulimit -n` to allow
             10,200 open files
    `relay`  500 tokens of an upstream that speaks OpenAI's chat completions, a write for each as
             soon as it can; 8 connections. What is counted is tokens
    `short-openai`, `long-openai` and so on: the same replies in the other wire formats; the bare
             app sends the bytes of our reply, a send for each frame
    `relay-paced`  300 streams of such an upstream, paced as above. The delay is from the upstream's
             yield to the load generator; what a relay adds to it is the difference to `direct`

How
    The upstream, a bare app, has the core of the load generator.
    One process of uvicorn with uvloop and httptools serves on the first core that is free to us,
    and the load, raw sockets in this process, comes from the last. A round has fresh processes and
    measures each subject in turn, each round in another order, `short` and `long` in four pieces
    each, so that what disturbs one disturbs its neighbours; ratios are taken within a round, and
    medians over the rounds. CPU per reply or token is what the server's process used, so that the
    load generator does not enter into it; "by CPU" is the ratio of rates per second of CPU. In
    `short` and `long` the server's core should be near 100 % busy; where it is not, the load
    generator (then near 100 % itself) or other work on the machine is what was measured. In
    `paced`, fewer than 18,000 tokens per s say that the server is overloaded.

    Where it has its core for itself, the load generator never sleeps: a send that wakes its reader
    costs the server as much as half of a short reply on some machines, and the slower a server is,
    the more of its sends would. "Load's core" is what it was busy without that; how much a
    look for work costs that finds none is measured before, so it is an estimate, and may be a few
    per cent too low, or even below 0.

    The machine must be quiet: how long each side waited for its core is printed.

It needs Linux (/proc, sched_setaffinity) and the dependency group `bench`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import http.client
import json
import os
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import uvloop

from omniforge_chat.core.sse import Decoder

from ..support.stores import RedisServer
from ..support.stores.redis import program
from . import crowd, report
from .load import REQUESTS, STREAMS, measure
from .server import Server
from .subjects import (
    BEFORE,
    CONVERSATION,
    IN_FORMATS,
    INTERVALS,
    REDIS,
    RELAYED_TEXT,
    RELAYED_TOKENS,
    SUBJECTS,
    UPSTREAM,
    WORKLOADS,
)

Events = List[Tuple[str, Any]]


def main(arguments: Optional[List[str]] = None) -> int:
    """Measure and print. The exit status is 1 where a subject did not answer as it should."""
    options = _parse(arguments)
    STREAMS.update({"relay-paced": options.relayed, "many": options.many})
    gc.disable()  # a pause here would look like a delay there
    cores = sorted(os.sched_getaffinity(0))
    environment = report.environment()
    descriptors = crowd.raise_descriptors()
    os.sched_setaffinity(0, {cores[-1]})

    if options.before is None:
        options.subjects = [name for name in options.subjects if name != "before"]
    else:
        os.environ[BEFORE] = os.path.abspath(options.before)
    with contextlib.ExitStack() as servers:
        if "replay-redis" in options.subjects and "kept" in options.only:
            os.environ[REDIS] = servers.enter_context(RedisServer(program("redis"))).url
        return _run(options, environment, descriptors, cores)


def _run(
    options: argparse.Namespace, environment: Dict[str, str], descriptors: int, cores: List[int]
) -> int:
    """Measure what `options` ask for, and print it."""
    subjects = [n for n in options.subjects if _answers(n, options.only, cores)]
    wanted = list(options.only)
    if "many" in wanted and descriptors < crowd.needed_descriptors("many"):
        _tell(f"many is not measured: {options.many} streams do not fit into `ulimit -n`")
        options.only.remove("many")
    samples: report.Samples = {
        workload: {subject: [] for subject in subjects if subject in WORKLOADS[workload]}
        for workload in options.only
    }
    for number in range(options.rounds):
        for workload, by_subject in samples.items():
            if workload == "many" and number > 0:
                continue
            names = list(by_subject)
            turns = [names[(number + place) % len(names)] for place in range(len(names))]
            with contextlib.ExitStack() as stack:
                stack.enter_context(_upstream(workload, cores[-1]))
                servers = {
                    subject: stack.enter_context(
                        Server(subject, workload, cores[-1 if subject == "direct" else 0])
                    )
                    for subject in turns
                }
                alone = len(set(cores)) > 1 and not workload.startswith(("relay", "kept"))
                if workload == "many":
                    work = crowd.measure(servers, workload, max(options.seconds, 2.0))
                else:
                    work = measure(servers, workload, options.seconds, alone=alone)
                measured = uvloop.run(work)
            for subject, figures in zip(turns, measured):
                samples[workload][subject].append(figures)
                rate, cost = figures["per_second"], figures["cpu_us"]
                _tell(f"round {number + 1} {workload} {subject}: {rate:,.0f}/s, {cost:.1f} µs")

    for name, value in environment.items():
        print(f"{name}: {value}")
    rounds, seconds = options.rounds, options.seconds
    print(f"{rounds} rounds of {seconds:g} s (paced: twice that; many: one round); medians\n")
    print(f"{report.promises(samples, subjects)}\n\n{report.disturbance(samples)}")
    if "before" in subjects:
        print(f"\n{report.changes(samples)}")
    for workload in samples:
        print(f"\n{report.figures(samples, workload)}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"environment": environment, "samples": samples}, file, indent=1)
    return 0 if (subjects, options.only) == (options.subjects, wanted) else 1


def _parse(arguments: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measure; `pydoc tests.bench.__main__` says how."
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s, for a first look")
    parser.add_argument("--only", type=_names_of(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--subjects", type=_names_of(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument(
        "--relayed", type=int, default=STREAMS["relay-paced"], help="streams of relay-paced"
    )
    parser.add_argument("--many", type=int, default=STREAMS["many"], help="streams of many")
    parser.add_argument("--before", metavar="DIRECTORY", help="another checkout to compare with")
    parser.add_argument("--json", metavar="FILE", help="where to write every sample")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    return options


def _names_of(known: Any) -> Callable[[str], List[str]]:
    def names(text: str) -> List[str]:
        given = text.split(",")
        if not set(given) <= set(known):
            raise argparse.ArgumentTypeError(f"names out of {','.join(known)}, with commas between")
        return given

    return names


@contextlib.contextmanager
def _upstream(workload: str, core: int) -> Iterator[None]:
    """The upstream that `workload` relays, if it does; the servers find it in their environment."""
    if not workload.startswith("relay"):
        yield
        return
    with Server("direct", workload, core) as server:
        os.environ[UPSTREAM] = f"http://127.0.0.1:{server.port}/v1"
        yield


def _answers(subject: str, workloads: List[str], cores: List[int]) -> bool:
    """Whether the subject is installed, and answers each workload with the events expected."""
    for workload in workloads:
        if subject not in WORKLOADS[workload] or subject == "direct":  # it speaks as upstreams do
            continue
        try:
            if _events(subject, workload, cores) == _expected(workload, cores):
                continue
            problem = f"its {workload} reply has other events"
        except (OSError, http.client.HTTPException) as error:
            problem = repr(error)
        _tell(f"{subject} is not measured: {problem}")
        return False
    return True


@functools.cache
def _expected_of_bare(workload: str, core: int) -> Events:
    return _events("bare", workload, [core])


def _expected(workload: str, cores: List[int]) -> Events:
    if not workload.startswith("relay"):
        return _expected_of_bare(workload, cores[0])
    tokens = RELAYED_TOKENS if workload == "relay" else 3
    usage = {"tokens": tokens + 1, "prompt_tokens": 1, "completion_tokens": tokens}
    done = {"conversation_id": CONVERSATION, "usage": usage, "finish_reason": "stop"}
    return [("chunk", workload != "relay" or RELAYED_TEXT), ("done", done)]


def _events(subject: str, workload: str, cores: List[int]) -> Events:
    with _upstream(workload, cores[-1]), Server(subject, workload, cores[0]) as server:
        status, body = server.ask(REQUESTS[workload])
    frames = Decoder().feed(body) if status == 200 else []
    if workload in IN_FORMATS:  # their ids are new in each reply
        return [(frame.event, len(frame.data)) for frame in frames]
    events = [(frame.event, json.loads(frame.data)) for frame in frames]
    if workload.startswith("relay"):  # what one read brings may be one chunk
        text = "".join(data["content"] for event, data in events if event == "chunk")
        others = [(event, data) for event, data in events if event != "chunk"]
        return [("chunk", workload != "relay" or text), *others]
    # What a paced token says is the time.
    return [(event, workload in INTERVALS or data) for event, data in events]


def _tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
