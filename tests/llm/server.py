"""The process of a Llama: it tells its address on standard output, and serves until its standard
input ends, which it does when the parent ends, in whatever way."""

from __future__ import annotations

import json
import os
import sys

import xllamacpp

from .llama import MODEL, model_file

# A thread that waits for another one spins. On a machine that has other things to do as well, as
# many threads as processors are slower than half of them, by far; and a model of this size has no
# use for many.
THREADS = min(4, max(1, (os.cpu_count() or 1) // 2))


def main() -> None:
    options = json.loads(sys.argv[1])
    params = xllamacpp.CommonParams()
    params.model.path = str(model_file())
    params.model_alias = {MODEL}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = options["slots"]
    params.n_ctx = options["slots"] * options["context"]
    params.kv_unified = options["shared"]
    params.sampling.ignore_eos = options["endless"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.n_gpu_layers = 0
    params.fit_params = False  # it would make the context as large as the memory
    params.cache_ram_mib = 0
    params.ui = False
    params.cors_origins = ""  # no page in a browser has business here
    params.verbosity = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    del server  # its threads end with it


if __name__ == "__main__":
    main()
