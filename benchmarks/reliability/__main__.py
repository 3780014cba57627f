"""Run drills and write the page: see the package."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time

from benchmarks.harness import machine
from benchmarks.reliability.record import PAGE, gather, keep, text

DRILLS = (
    "overload", "triton_killed", "stub_killed", "other_weights", "replicas", "rolling", "envoy", "canary",
    "clients_killed", "memory", "fuzz",
    "bombs", "identity", "overhead", "hedging", "strangers", "supply_chain",
    "loop_stall",
)  # fmt: skip


def main() -> None:
    """Entry point of the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(DRILLS)}; all without")
    parser.add_argument("--short", action="store_true", help="in seconds; only prints")
    parser.add_argument("--gather", action="store_true", help="run nothing, write the page again")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(DRILLS):
        parser.error(f"no drill is called {sorted(unknown)}; there are {', '.join(DRILLS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that what was started is ended too
    for name in () if arguments.gather else (arguments.names or DRILLS):
        module = importlib.import_module(f"benchmarks.reliability.{name}")
        title = (module.__doc__ or name).splitlines()[0]
        print(f"## {title}\n", flush=True)
        before, started_s = machine(), time.monotonic()
        result = module.run(arguments.short)
        seconds = time.monotonic() - started_s
        print(f"{text(name, result)}\n{seconds:.0f} s; load before: {before['load before']}\n", flush=True)
        if not arguments.short:
            keep(name, title, result, before, seconds)
    if not arguments.short:
        gather(DRILLS)
        print(f"written: {PAGE.name}")


if __name__ == "__main__":
    main()
