import numpy as np
import pytest

from ssl_rs.reporting.comparing import compare
from ssl_rs.reporting.results import read_runs
from ssl_rs.reporting.samples import Column, sample_grid


@pytest.fixture
def grid_of(tmp_path):
    def make():
        (table,), _ = compare(read_runs(tmp_path / "runs")[0])
        return sample_grid(table)

    return make


def test_the_grid_shows_the_smallest_and_largest_fraction_of_every_row(write_run, write_samples, grid_of):
    for label in ("random", "imagenet"):
        for fraction in (0.1, 0.5, 1.0):
            write_samples(
                write_run(f"{label}{fraction}", label=label, fraction=fraction), names=("a", "b", "c", "d", "e")
            )
    grid, left_out = grid_of()
    assert left_out == []
    assert grid.columns == [Column(label, fraction) for label in ("random", "imagenet") for fraction in (0.1, 1.0)]
    assert grid.spans == [("random", 2), ("imagenet", 2)]
    assert [name for name, _ in grid.rows] == ["a", "b", "c", "d"]
    assert all(len(pictures) == 6 for _, pictures in grid.rows)


def test_the_share_of_right_pixels_leaves_ignored_ones_out(write_run, write_samples, grid_of):
    directory = write_run("a")
    write_samples(directory, right=48)
    with np.load(directory / "samples.npz") as archive:
        content = dict(archive)
    content["truth"][0, :2] = 255  # 16 of the 48 right pixels of the first tile
    content["truth"][1] = 255
    np.savez(directory / "samples.npz", **content)
    grid, _ = grid_of()
    assert grid.rows[0][1][2].right == pytest.approx(32 / 48)
    assert grid.rows[1][1][2].right is None


def test_tiles_are_matched_by_name_not_by_order(write_run, write_samples, grid_of):
    write_samples(write_run("a"), names=("x", "y"), right=64)
    second = write_run("b", label="imagenet")
    write_samples(second, names=("y", "z"), right=0)
    grid, _ = grid_of()
    assert [name for name, _ in grid.rows] == ["x", "y"]
    assert grid.rows[0][1][3] is None
    assert grid.rows[1][1][3].right == 0


def test_the_seed_with_most_samples_is_shown(write_run, write_samples, grid_of):
    write_samples(write_run("a", seed=0), right=0)
    write_samples(write_run("b", seed=1), right=64)
    write_samples(write_run("c", seed=1, label="imagenet"), right=64)
    grid, _ = grid_of()
    assert grid.seed == 1
    assert [picture.right for picture in grid.rows[0][1][2:]] == [1.0, 1.0]


def test_runs_without_samples_have_no_grid(write_run, grid_of):
    write_run("a")
    assert grid_of() == (None, [])


def test_broken_samples_are_named_and_pickles_are_never_loaded(write_run, write_samples, grid_of, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    write_samples(write_run("good"))
    (write_run("garbage", seed=1) / "samples.npz").write_bytes(b"PK\x03\x04 nothing")
    (write_run("empty", seed=2) / "samples.npz").write_bytes(b"")
    np.savez(write_run("keys", seed=3) / "samples.npz", images=np.zeros(3))
    trap = np.array([Trap()], dtype=object)
    np.savez(write_run("pickle", seed=4) / "samples.npz", images=trap, truth=trap, prediction=trap, names=trap)
    wrong = np.zeros((1, 8, 8), dtype=np.uint8)
    np.savez(write_run("shape", seed=5) / "samples.npz", images=wrong, truth=wrong, prediction=wrong, names=["a"])
    grid, left_out = grid_of()
    assert grid.seed == 0
    assert sorted(each.path.parent.name for each in left_out) == ["empty", "garbage", "keys", "pickle", "shape"]
    assert not (tmp_path / "sprung").exists()


def test_of_seeds_with_as_many_samples_the_first_is_shown(write_run, write_samples, grid_of):
    for seed in (2, 1, 3):
        write_samples(write_run(f"{seed}", seed=seed))
    grid, _ = grid_of()
    assert grid.seed == 1


def test_an_ignored_index_next_to_the_classes_counts_for_nothing(write_run, write_samples, grid_of):
    directory = write_run("a")  # of two classes
    write_samples(directory, right=32)
    with np.load(directory / "samples.npz") as archive:
        content = dict(archive)
    content["truth"][:, 4:] = 2
    np.savez(directory / "samples.npz", **content)
    grid, _ = grid_of()
    assert grid.rows[0][1][2].right == 1.0


def test_runs_of_one_seed_from_several_pretrainings_count_once(write_run, write_samples, grid_of):
    for label in ("random", "tasks"):
        write_samples(write_run(label, label=label, seed=0))
    for weights in ("p", "q", "r"):
        write_samples(write_run(weights, label="tasks", seed=1, provenance={"sha256": weights}))
    grid, _ = grid_of()
    assert (grid.seed, len(grid.columns)) == (0, 2)
