"""Peak memory of one measurement by either side, in this process.

The number is the growth of the resident set while one measurement runs (`memory.resident_growth`),
once another one of the same shape is done: libraries, threads, weights, batches and what is kept
for good are there before, and memory that the first one left free has been given back. perspic's
weights have gradients only while it runs, so these count for it, as ours do for us. For us, XLA's
plan (scratch and results), which is the same number by another way, and the growth while it
compiled: that happens once in a process, and perspic has nothing like it.

``python -m benchmarks.rival_memory SIDE MODEL BATCH LENGTH CHECKOUT``
"""

from __future__ import annotations

import gc
import json
import sys

import jax

from benchmarks import memory, rival, timing


def peak(side, model_name, batch_size, length, path):
    """Megabytes, by kind, for a side of `rival.run`."""
    work = rival.subject(model_name, batch_size, length, steps=0)
    if side == "perspic":
        theirs = rival.start_rival(path, model_name, length, work)
        theirs.analyse(rival.PAPER_PROBES)
        gc.collect()
        found = {"peak": memory.resident_growth(lambda: theirs.analyse(rival.PAPER_PROBES))}
    else:
        made = []
        compiling = memory.resident_growth(
            lambda: made.append(rival.compile_ours(rival.our_functions(work)[side], work))
        )
        [(compiled, arguments)] = made

        def measure():
            jax.block_until_ready(compiled(*arguments))

        measure()
        gc.collect()
        found = {
            "peak": memory.resident_growth(measure),
            "planned": timing.planned_bytes(compiled, "temp", "output"),
            "compiling": compiling,
        }
    return {f"{kind}_megabytes": size / 1e6 for kind, size in found.items()}


if __name__ == "__main__":
    side, model_name, batch_size, length, path = sys.argv[1:]
    print(json.dumps(peak(side, model_name, int(batch_size), int(length), path)))
