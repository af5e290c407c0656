"""Prepare a data set."""

from pathlib import Path

from ssl_rs.config import Settings
from ssl_rs.data.dataset import Dataset
from ssl_rs.data.prepare import prepare as prepare_store
from ssl_rs.stages.site import say_scene


def prepare(settings: Settings) -> Path:
    """Write the store of a data set, unless it is there, and return its path."""
    dataset: Dataset = settings.build("dataset")
    store_dir, run_dir = settings.value("store_dir", str), settings.value("run_dir", str | None)
    for key, kind in (("seed", int), ("output_dir", str), ("trusted_packages", list)):
        settings.value(key, kind)
    settings.check_all_read()
    return prepare_store(dataset, Path(run_dir or store_dir), say_scene).path
