"""Checkpoints: the state comes back bit for bit, or the one before it does, or a message says why not."""

import dataclasses
import errno
import io
import warnings

import pytest
import torch
from torch import nn

import ssl_rs
from ssl_rs.errors import InputError
from ssl_rs.training import state as states
from ssl_rs.training.divergence import check_weights
from ssl_rs.training.state import Identity, Progress, load_checkpoint, save_checkpoint

CPU = torch.device("cpu")
IDENTITY = Identity("hash", 1, "fp32")
SUMS = {"loss": torch.tensor(0.1) + torch.tensor(0.2), "loss/a": torch.tensor(3.0)}


def start(seed=0, kind=torch.optim.Adam):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = kind(network.parameters(), lr=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
    for group in optimizer.param_groups:
        group["initial_lr"] = 0.1
    return network, optimizer


def step(network, optimizer, seed):
    images = torch.rand(5, 3, generator=torch.Generator().manual_seed(seed))
    network(images).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def bits(network, optimizer):
    """Everything that a state holds, as bytes."""
    file = io.BytesIO()
    torch.save([network.state_dict(), optimizer.state_dict()["state"]], file)
    return [
        value.numpy().tobytes()
        for part in (network.state_dict(), *optimizer.state_dict()["state"].values())
        for value in part.values()
    ]


def save(folder, network, optimizer, number, identity=IDENTITY):
    return save_checkpoint(folder, network, optimizer, Progress(number, 1.5, dict(SUMS), 2), identity, CPU)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_a_state_comes_back_bit_for_bit_and_goes_on_the_same(tmp_path, kind):
    network, optimizer = start(kind=kind)
    for number in range(3):
        step(network, optimizer, number)
    optimizer.param_groups[0]["lr"] = 0.05
    save(tmp_path, network, optimizer, 3)
    other_network, other_optimizer = start(seed=1, kind=kind)
    progress = load_checkpoint(tmp_path, other_network, other_optimizer, IDENTITY, CPU)
    assert bits(other_network, other_optimizer) == bits(network, optimizer)
    assert other_optimizer.param_groups[0] == {
        **optimizer.param_groups[0],
        "params": other_optimizer.param_groups[0]["params"],
    }
    assert progress == Progress(3, 1.5, SUMS, 2)
    for pair in ((network, optimizer), (other_network, other_optimizer)):
        step(*pair, 9)
    assert bits(other_network, other_optimizer) == bits(network, optimizer)


@pytest.mark.parametrize("device", [CPU, torch.device("meta")])
def test_counts_of_an_optimizer_stay_where_it_keeps_them(tmp_path, device):
    """On a GPU Adam keeps its counts on the CPU: from the device it would wait for each of them in every step.

    The meta device stands for one here; what is loaded onto it is gone, but tells where it lies.
    """
    network, optimizer = start()
    step(network, optimizer, 0)
    save(tmp_path, network, optimizer, 1)
    other, other_optimizer = start(seed=1)
    other.to(device)
    other_optimizer = torch.optim.Adam(other.parameters(), lr=0.1)
    progress = load_checkpoint(tmp_path, other, other_optimizer, IDENTITY, device)
    states_of = list(other_optimizer.state.values())
    assert {each["step"].device.type for each in states_of} == {"cpu"}
    assert {each["exp_avg"].device.type for each in states_of} == {device.type}
    assert {each.device.type for each in progress.sums.values()} == {device.type}


def test_without_a_checkpoint_nothing_changes(tmp_path):
    network, optimizer = start()
    before = bits(network, optimizer)
    assert load_checkpoint(tmp_path / "none", network, optimizer, IDENTITY, CPU) is None
    assert bits(network, optimizer) == before


def test_the_newest_two_are_kept(tmp_path):
    network, optimizer = start()
    for number in (5, 10, 200, 1000):
        path = save(tmp_path, network, optimizer, number)
        assert path.is_file()
    assert sorted(found.name for found in tmp_path.iterdir()) == ["step-00000200.ckpt", "step-00001000.ckpt"]
    assert load_checkpoint(tmp_path, *start(), IDENTITY, CPU).step == 1000
    assert torch.load(path, weights_only=True)["progress"]["step"] == 1000  # by anybody


def test_a_checkpoint_that_cannot_be_written_leaves_those_before(tmp_path, monkeypatch):
    network, optimizer = start()
    save(tmp_path, network, optimizer, 1)

    def full(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path, network, optimizer, 2)
    assert load_checkpoint(tmp_path, *start(), IDENTITY, CPU).step == 1


def truncated(content):
    return content[: len(content) // 2]


def without_an_end(content):
    return content[:-1]


def emptied(content):
    return b""


def with_other_weights(content):
    """Change one bit of a tensor, which no format would notice without a checksum."""
    place = content.index(MARK)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def of_something_else(content):
    file = io.BytesIO()
    torch.save({"model": {}}, file)
    return file.getvalue()


def of_a_list(content):
    file = io.BytesIO()
    torch.save([1, 2], file)
    return file.getvalue()


MARK = torch.tensor([1234.5678]).numpy().tobytes()
DAMAGES = [truncated, without_an_end, emptied, with_other_weights, of_something_else, of_a_list]


def two_checkpoints(folder):
    network, optimizer = start()
    nn.init.constant_(network[0].bias, 1234.5678)
    step(network, optimizer, 0)
    older = save(folder, network, optimizer, 1)
    state = bits(network, optimizer)
    step(network, optimizer, 1)
    nn.init.constant_(network[0].bias, 1234.5678)
    return older, save(folder, network, optimizer, 2), state


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    _, newer, state = two_checkpoints(tmp_path)
    newer.write_bytes(damage(newer.read_bytes()))
    network, optimizer = start(seed=1)
    with pytest.warns(UserWarning, match=r"step-00000002\.ckpt is damaged .*going back"):
        progress = load_checkpoint(tmp_path, network, optimizer, IDENTITY, CPU)
    assert progress.step == 1
    assert bits(network, optimizer) == state
    # Two are kept: the damaged one is none of them, or a later damage would find no whole one.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001.ckpt", "step-00000002.damaged"]
    save(tmp_path, network, optimizer, 3)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step-00000001.ckpt", "step-00000003.ckpt"]


def test_every_damaged_byte_is_noticed(tmp_path):
    network, optimizer = start()
    step(network, optimizer, 0)
    path = save(tmp_path, network, optimizer, 1)
    content = path.read_bytes()
    for place in range(0, len(content), 61):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        other = start(seed=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(InputError, match="No checkpoint"):
                load_checkpoint(tmp_path, *other, IDENTITY, CPU)


def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    older, newer = sorted(two_checkpoints(tmp_path)[:2])
    whole = states._read

    def read(path):
        if path == newer:
            raise OSError(errno.EACCES, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(states, "_read", read)
    with pytest.raises(OSError, match=r"Permission denied: .*step-00000002\.ckpt"):
        load_checkpoint(tmp_path, *start(), IDENTITY, CPU)
    assert sorted(path.name for path in tmp_path.iterdir()) == [older.name, newer.name]


def test_one_that_another_process_sets_aside_in_the_meantime_is_passed_over(tmp_path, monkeypatch):
    """The first process renames a damaged one, which another has listed and not read yet."""
    _, newer, state = two_checkpoints(tmp_path)
    listed = states._newest_first

    def slow(folder):
        paths = listed(folder)
        newer.rename(newer.with_suffix(".damaged"))
        return paths

    monkeypatch.setattr(states, "_newest_first", slow)
    network, optimizer = start(seed=1)
    assert load_checkpoint(tmp_path, network, optimizer, IDENTITY, CPU, set_aside=False).step == 1
    assert bits(network, optimizer) == state


def test_without_a_whole_checkpoint_the_run_does_not_start_over_silently(tmp_path):
    for path in two_checkpoints(tmp_path)[:2]:
        path.write_bytes(truncated(path.read_bytes()))
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(InputError, match=r"No checkpoint in .* is whole"):
        load_checkpoint(tmp_path, *start(), IDENTITY, CPU)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"config_hash": "other"}, "belongs to another run: config_hash was other, is hash"),
        ({"world_size": 2}, "belongs to another run: world_size was 2, is 1"),
        ({"world_size": 2, "precision": "bf16"}, "belongs to another run: world_size was 2, is 1; precision was bf16"),
        ({"precision": "bf16"}, "where trainer.precision=auto means bf16, here it means fp32: .* Go on there; or"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, other, said):
    network, optimizer = start()
    save(tmp_path, network, optimizer, 1, dataclasses.replace(IDENTITY, **other))
    with pytest.raises(InputError, match=said):
        load_checkpoint(tmp_path, network, optimizer, IDENTITY, CPU)


def test_other_surroundings_are_told(tmp_path, monkeypatch):
    network, optimizer = start()
    save(tmp_path, network, optimizer, 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    with pytest.warns(UserWarning, match="threads was .*, is 77: the run goes on, but not bit for bit"):
        assert load_checkpoint(tmp_path, network, optimizer, IDENTITY, CPU).step == 1


@pytest.mark.parametrize("version", ["torch", "ssl_rs"])
def test_another_version_is_refused_unless_it_is_accepted(tmp_path, monkeypatch, version):
    network, optimizer = start()
    save(tmp_path, network, optimizer, 1)
    monkeypatch.setattr(torch if version == "torch" else ssl_rs, "__version__", "9.9")
    said = f"{version}_version was .*, is 9.9"
    with pytest.raises(InputError, match=rf"{said}.*trainer\.accept_other_versions=true"):
        load_checkpoint(tmp_path, network, optimizer, IDENTITY, CPU)
    with pytest.warns(UserWarning, match=f"{said}: the run goes on, but not bit for bit"):
        assert load_checkpoint(tmp_path, network, optimizer, IDENTITY, CPU, accept_changes=True).step == 1


def narrower():
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    return network, torch.optim.Adam(network.parameters())


def with_a_buffer():
    network, optimizer = start()
    network.register_buffer("count", torch.zeros(()))
    return network, optimizer


def partly_frozen():
    network, _ = start()
    return network, torch.optim.Adam(network[2].parameters())


@pytest.mark.parametrize(("build", "said"), [
    (narrower, "size mismatch for 0.weight"),
    (with_a_buffer, 'Missing key.s. in state_dict: "count"'),
    (partly_frozen, "loaded state dict contains a parameter group that doesn't match"),
])  # fmt: skip
def test_a_checkpoint_of_another_network_is_kept_and_told_as_such(tmp_path, build, said):
    path = save(tmp_path, *start(), 1)
    with pytest.raises(InputError, match=f"does not fit the network that the present code builds: .*{said}") as told:
        load_checkpoint(tmp_path, *build(), IDENTITY, CPU)
    assert "Delete" not in str(told.value)
    assert path.is_file()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    network, _ = start()
    check_weights(network, 2, tmp_path)
    nn.init.constant_(network[2].bias, value)
    with pytest.raises(InputError, match=r"2\.bias is no longer finite after step 2: it diverged.*" + str(tmp_path)):
        check_weights(network, 2, tmp_path)


def test_only_the_first_process_sets_a_damaged_one_aside(tmp_path):
    _, newer, _ = two_checkpoints(tmp_path)
    newer.write_bytes(newer.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="is damaged"):
        load_checkpoint(tmp_path, *start(seed=1), IDENTITY, CPU, set_aside=False)
    assert newer.exists()


def test_sums_are_none_of_the_values_that_a_recording_writes_anew():
    progress, value = Progress(), torch.tensor(1.0)
    for number in (1.0, 2.0, 4.0):
        value.fill_(number)  # as `replay.Replayed` does
        progress.add({"loss": value})
        assert value == number
    assert (progress.sums["loss"], progress.count) == (7.0, 3)


@pytest.mark.parametrize(("later", "said"), [
    (("loss",), "Step 3 has no error, unlike every step before it: a task has to return the same metrics"),
    (("loss", "error", "size"), "Step 3 has size, unlike every step before it"),
])  # fmt: skip
def test_values_that_only_some_steps_have_are_refused(later, said):
    progress, one = Progress(), torch.tensor(1.0)
    for progress.step in (1, 2):
        progress.add({"loss": one, "error": one})
    progress.step = 3
    with pytest.raises(InputError, match=said):
        progress.add(dict.fromkeys(later, one))


def test_the_newest_is_the_one_with_the_highest_number_however_many_digits_it_has(tmp_path):
    network, optimizer = start()
    for number in (99_999_999, 100_000_000, 100_000_001):
        assert save(tmp_path, network, optimizer, number).is_file()
    assert load_checkpoint(tmp_path, *start(), IDENTITY, CPU).step == 100_000_001
