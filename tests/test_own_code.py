"""Parts that a user wrote count for what a run is."""

import collections
import importlib
import sys

from ssl_rs.encoder import Backbone
from ssl_rs.files import sha256_of
from ssl_rs.own_code import hash_of_own, hashes_of_own


def test_the_file_of_a_part_is_hashed_and_ours_is_not(tmp_path, monkeypatch):
    (tmp_path / "mine_here").mkdir()
    file = tmp_path / "mine_here/part.py"
    file.write_text("class Part:\n    pass\n")
    other = tmp_path / "mine_here/other.py"
    other.write_text("class Other:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    values = {
        "a": {"_target_": "mine_here.part.Part"}, "b": [[{"_target_": "mine_here.other.Other"}]],
        "backbone": {"_target_": "ssl_rs.encoder.Backbone", "name": "resnet18"}, "seed": 0,
    }  # fmt: skip
    expected = {"code of mine_here.other.Other": sha256_of(other), "code of mine_here.part.Part": sha256_of(file)}
    assert hashes_of_own(values, ["mine_here"]) == expected
    file.write_text("class Part:\n    later = 1\n")  # what runs here is what was imported
    assert hashes_of_own(values, ["mine_here"]) == expected
    assert hashes_of_own(values, ["mine"]) == {}
    assert hashes_of_own(values, []) == {}
    assert hash_of_own(Backbone) is None
    assert hash_of_own(sys) is None
    assert hash_of_own(collections.OrderedDict) is not None
    for name in ("mine_here.part", "mine_here.other", "mine_here"):
        del sys.modules[name]
