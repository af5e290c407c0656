"""Other data than a finished run was trained on: what they are called where nobody says it."""

import os
import re
from dataclasses import replace
from pathlib import Path

from ssl_rs.data.dataset import Dataset
from ssl_rs.data.folder import Folder
from ssl_rs.data.store import Store
from ssl_rs.data.store_location import locate_store

LONGEST = 100
"""Letters of a name: folders that begin with it say more."""


def name_by_folder(root: str, trained: str) -> str:
    """Return what data are called by their folder: its name, with _ for what no name of data may hold.

    Args:
        root: Their folder.
        trained: Name of the data that the run was trained on, which others do not get.
    """
    folder = Path(os.path.abspath(root)).name
    name = re.sub(r"[^\w.-]+", "_", folder).lstrip(".-")[:LONGEST]
    return name if name.strip("_") and name != trained else f"other_than_{trained}"


def may_be_other(dataset: Dataset, store_dir: Path, manifest_sha256: object) -> bool:
    """Tell whether a folder that moved, as far as can be seen without preparing it, may hold other data.

    Args:
        dataset: Named as the data of the training. One that is no folder of a user's own is what its name says.
        store_dir: Folder of all stores.
        manifest_sha256: Of the data of the training.

    Raises:
        InputError: As `ssl_rs.data.prepare.prepare`.
    """
    if not isinstance(dataset, Folder):
        return False
    path, _ = locate_store(dataset, store_dir)
    return not path.exists() or Store.open(path).manifest.sha256 != manifest_sha256


def named_as_trained(store: Store, name: str, manifest_sha256: object) -> Store | None:
    """Return a store under the name that a run's own data have, None where it holds other data.

    Args:
        store: Prepared under another name.
        name: Of the data of the training.
        manifest_sha256: Likewise.
    """
    manifest = replace(store.manifest, dataset=name)
    return Store(store.path, manifest) if manifest.sha256 == manifest_sha256 else None
