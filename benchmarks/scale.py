"""Scale: what a batch on many workers would take, simulated from what one worker and the driver take here.

Measured in this run: a worker's seconds for a window of requests, the driver's for handing it out and taking what is said of
it, the bytes of both and of the models. Supposed: a link, and storage that takes so many bytes and so many new files a second.
"""

from __future__ import annotations

import heapq
import pickle
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from bulk import requests
from record import record

from tina_cli.batch import WINDOW, Output, generate_numbered, numbered, windows
from tina_cli.device import choose_device
from tina_cli.engine import claimed
from tina_cli.files import canonical_json
from tina_cli.generator import open_generator
from tina_cli.weights import embedded_weights

MODELS = 1_000_000
WORKERS = (1, 10, 100, 1000)
LINK = 1.25e9  # bytes a second of the driver's network: 10 Gbit/s
STORE_BYTES, STORE_FILES = 2e9, 20_000.0  # a second, of shared storage
CORE_HOUR = 0.04  # US dollars, about what clouds ask for a core for an hour
MEASURED = 4  # windows


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes of one window of requests."""

    worker: float
    driver: float
    handed: int  # bytes to the worker
    told: int  # bytes back
    written: int  # bytes of models


def measure() -> Costs:
    """Measure one worker and the driver on this machine, on one core."""
    torch.set_num_threads(1)
    generator = open_generator(embedded_weights(), choose_device("cpu"), cache=False)
    lines = [canonical_json({"classes": names}) for names in requests((MEASURED + 1) * WINDOW)]
    portions = list(windows(numbered(lines)))
    with tempfile.TemporaryDirectory() as name:
        output = Output(Path(name))
        list(generate_numbered(generator, portions[0], output))  # caches
        before = set(Path(name).iterdir())
        start = time.perf_counter()
        said = [list(generate_numbered(generator, portion, output)) for portion in portions[1:]]
        worker = (time.perf_counter() - start) / MEASURED
        written = sum(path.stat().st_size for path in set(Path(name).iterdir()) - before) // MEASURED
        start = time.perf_counter()
        fresh = Output(Path(name) / "other")
        handed = [pickle.dumps((portion, claimed(portion, fresh))) for portion in portions[1:]]
        told = [pickle.dumps(one) for one in said]
        for some in told:
            for line in pickle.loads(some):
                canonical_json(line)
        driver = (time.perf_counter() - start) / MEASURED
    return Costs(worker, driver, len(handed[0]), len(told[0]), written)


def simulate(costs: Costs, workers: int) -> tuple[float, str]:
    """Return the seconds of a batch of `MODELS`, and what it waits for most.

    The driver hands out windows one after the other, two to a worker ahead; a worker makes a window's models and writes them;
    writes share the storage.
    """
    store = max(costs.written / STORE_BYTES, WINDOW / STORE_FILES)
    serial = costs.driver + (costs.handed + costs.told) / LINK
    driver = storage = 0.0
    free = [0.0] * workers
    for _ in range(-(-MODELS // WINDOW)):
        ready = heapq.heappop(free)
        driver = max(driver, ready - 2 * costs.worker) + serial  # a window is handed out while two are waiting
        made = max(ready, driver) + costs.worker
        storage = max(storage, made) + store
        heapq.heappush(free, max(made, storage - costs.worker))  # written while the next is made
    windows_of_each = MODELS / WINDOW
    busy = {
        "workers": windows_of_each * costs.worker / workers,
        "driver": windows_of_each * serial,
        "storage": windows_of_each * store,
    }
    return max(*free, storage), max(busy, key=lambda name: busy[name])


def main() -> None:
    """Measure, simulate, and record."""
    costs = measure()
    first, _ = simulate(costs, 1)
    rows = []
    for workers in WORKERS:
        taken, limit = simulate(costs, workers)
        dollars = CORE_HOUR * workers * taken / 3600
        rows.append([
            f"{workers:,}", f"{taken / 60:,.1f} min", f"{MODELS / taken:,.0f}", f"{first / taken / workers:.0%}", limit,
            f"{costs.written * MODELS / WINDOW / taken / 1e6:,.1f} MB/s", f"{dollars:.2f} $",
        ])  # fmt: skip
    note = (
        f"A simulation of {MODELS:,} models of 2 to 20 classes. Measured here, on one core: {costs.worker:.2f} s for a window "
        f"of {WINDOW} requests, {1000 * costs.driver:.1f} ms of the driver for it, {costs.handed / 1000:.0f} kB there and "
        f"{costs.told / 1000:.0f} kB back, {costs.written / WINDOW / 1000:.1f} kB a model. Supposed: workers of one such core, "
        f"a driver on a link of 10 Gbit/s, storage that takes {STORE_BYTES / 1e9:.0f} GB and {STORE_FILES:,.0f} new files a "
        f"second, {CORE_HOUR} $ for a core for an hour."
    )
    head = ["workers", "time", "models/s", "efficiency", "waits for", "written", "cost"]
    record("scale", "A thousand workers", note, head, rows)


if __name__ == "__main__":
    main()
