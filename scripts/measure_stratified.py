"""Measure how near stratified prefixes come to the class shares of all labels, and what the order costs.

Usage: python scripts/measure_stratified.py dataset=mbrsc dataset.root=... store_dir=...
"""

import sys
import time
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_rs.build import build
from ssl_rs.config import compose_config, resolve
from ssl_rs.data import stratified
from ssl_rs.data.label_subset import LabelFraction, choose_labels, class_pixels
from ssl_rs.data.prepare import prepare
from ssl_rs.data.store import Store

PREFIXES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
SEEDS = range(5)


def off(histograms: NDArray[np.int64], number: int) -> float:
    """Return half the sum of absolute differences between the class shares of a prefix and of all, in percent."""
    shares = [part.sum(axis=0) / part.sum() for part in (histograms[:number], histograms)]
    return float(50 * np.abs(shares[0] - shares[1]).sum())


def measure(store: Store, tile_size: int, candidates: int | None) -> str:
    """Return a row: deviations at each prefix, seconds an order, units that two seeds share at 10 %."""
    table, seconds, tenths = [], [], []
    for seed in SEEDS:
        units = choose_labels(store, tile_size, LabelFraction(1.0, "tile"), seed).units
        counts = class_pixels(store, "tile", units)
        started = time.perf_counter()
        if candidates is not None:
            stratified.CANDIDATES = candidates
            order = stratified.stratified_order(counts)
            counts, units = counts[order], tuple(units[place] for place in order)
        seconds.append(time.perf_counter() - started)
        table.append([off(counts, round(share * len(counts))) for share in PREFIXES])
        tenths.append(set(units[: len(units) // 10]))
    shared = np.mean([len(one & other) / len(one) for one, other in combinations(tenths, 2)])
    numbers = " | ".join(f"{value:.2f}" for value in np.mean(table, axis=0))
    return f"| {candidates or 'random'} | {numbers} | {np.mean(seconds):.2f} | {100 * shared:.0f} |"


def main() -> None:
    """Print the table."""
    node = resolve(compose_config("finetune", sys.argv[1:]))
    dataset = build(node["dataset"], "dataset")
    store = prepare(dataset, Path(node["store_dir"]))
    print(f"| candidates | {' | '.join(f'{100 * share:g} %' for share in PREFIXES)} | seconds | shared at 10 %, % |")
    for candidates in (None, 16, 64, 256, 10**9):
        print(measure(store, dataset.tile_size, candidates))
    stratified.CANDIDATES = 64
    many = np.random.default_rng(0).multinomial(128 * 128, [0.3, 0.2, 0.2, 0.15, 0.1, 0.05], 50_000).astype(np.int64)
    started = time.perf_counter()
    stratified.stratified_order(many)
    print(f"50,000 tiles of 6 classes: {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
