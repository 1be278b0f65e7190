"""Steps in step against those of one process: python benchmarks/allreduce.py [--quick]

Trains with `bin/pl_submit` on this machine, as one process and as two workers that train in step,
on the same rows in steps of the same size: a dense model of 10M parameters, all of whose gradients
go through the allreduce in each step, and two embedding tables of 200,000 x 16, of which the rows
used do. On one machine two workers have no more cores than one process: the difference is the
price of the second process and of the allreduce.
"""

from __future__ import annotations

import argparse
import statistics

from submit import submit

WORKERS = 2
STRATEGIES = {
    "one process": ["--strategy", "single"],
    f"{WORKERS} workers": ["--strategy", "multi-worker", "--num-workers", str(WORKERS)],
}
MODELS = {
    "dense": ["--model", "dense", "--batch-size", "512", "--steps", "10"],
    "tables": ["--model", "tables", "--batch-size", "8192", "--steps", "50"],
}
ROW_BYTES = 16 * 4 + 8  # of a table's gradient: values, and an index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one turn instead of three")
    turns = 1 if parser.parse_args().quick else 3
    for name, args in MODELS.items():
        taken: dict[str, list[float]] = {strategy: [] for strategy in STRATEGIES}
        parameters = 0.0
        for _ in range(turns):
            for strategy, options in STRATEGIES.items():
                metrics = submit(options, "benchmarks/apps/steps.py", args)["metrics"]
                taken[strategy].append(metrics["step_secs"])
                parameters = metrics["parameters"]
        one, many = (statistics.median(secs) for secs in taken.values())
        rows = int(args[args.index("--batch-size") + 1])
        # what one worker sends in a ring (Patarasuk and Yuan 2009); a gather sends its part on
        if name == "dense":
            sent = 2 * (WORKERS - 1) / WORKERS * parameters * 4
        else:
            sent = (WORKERS - 1) * 2 * rows / WORKERS * ROW_BYTES
        print(f"{name}: {parameters:,.0f} parameters, steps of {rows} rows, medians of {turns}")
        print(f"  one process  {1 / one:8.1f} steps/s")
        print(f"  {WORKERS} workers    {1 / many:8.1f} steps/s  {one / many:5.2f}x", end="")
        extra = f", {sent / (many - one) / 1e6:,.0f} MB/s of what they take longer"
        print(f"  {sent / 1e6:.1f} MB sent by each in a step{extra if many > one else ''}")


if __name__ == "__main__":
    main()
