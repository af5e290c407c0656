"""Who may import whom; and what must not be imported early."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ssl_rs"
SIBLINGS = (
    "pretext", "segmentation", "data", "training", "reporting", "initialization", "weights_file", "finetuned",
    "exporting",
)  # fmt: skip
LEAVES = (
    "agreement", "bands", "batch_norm", "config_hash", "distributed", "encoder", "errors", "files", "imagenet",
    "interrupts", "locks", "machine", "messages", "own_code", "pictures", "plain_types", "precision", "pretrained",
    "randomness", "run_directory", "scene_groups", "secret_values", "seen_images", "several_pretrainings",
    "task_output", "transfer", "weights", "weights_metadata",
)  # fmt: skip
COMPOSING = ("config", "overrides", "sweep", "sweep_plan")  # these, and nothing below them, may know Hydra


def imports(path: Path) -> set[str]:
    """Return the dotted names of all modules that a file imports, also inside of functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(*parts: str) -> list[Path]:
    found = []
    for part in parts:
        own = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").is_file() else list((PACKAGE / part).rglob("*.py"))
        assert own, f"there is no ssl_rs.{part} any more"
        found += own
    return found


def own(path: Path) -> set[str]:
    """Return the parts of ssl_rs that a file imports: the second name."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("ssl_rs.")}


@pytest.mark.parametrize("part", SIBLINGS)
def test_siblings_do_not_import_one_another(part):
    for path in files(part):
        # One way to start adds to what all have.
        others = {"initialization"} if part in ("weights_file", "finetuned") else set()
        assert own(path) <= {part, "views", *LEAVES, *others}, path


def test_views_import_leaves_only():
    for path in files("views"):
        assert own(path) <= {"views", *LEAVES}, path


def test_only_benchmarks_know_benchmarks():
    for path in (*files("stages"), *(path for part in SIBLINGS for path in files(part))):
        assert "benchmarks" not in own(path), path


def test_leaves_import_leaves_only():
    for path in files(*LEAVES):
        assert own(path) <= set(LEAVES), path


def test_hydra_ends_at_the_entry_points():
    for path in PACKAGE.rglob("*.py"):
        if path.stem not in COMPOSING:
            assert not {name for name in imports(path) if name.split(".")[0] in ("hydra", "omegaconf")}, path


def test_the_report_starts_without_torch():
    code = (
        "import sys, ssl_rs.report, ssl_rs.stages.report; print('torch' in sys.modules, 'scipy.stats' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == ["False", "False"]


def test_importing_the_package_is_quick_and_pulls_in_nothing_heavy():
    code = "import time; t = time.perf_counter(); import ssl_rs; print(time.perf_counter() - t);"
    code += "import sys; print('torch' in sys.modules)"
    seconds, heavy = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert float(seconds) < 0.3
    assert heavy == "False"


def test_help_does_not_wait_for_torch():
    code = "import sys; from ssl_rs.command import main; main('pretrain', ['--help']); print('torch' in sys.modules)"
    started = time.monotonic()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False"
    assert time.monotonic() - started < 5


def test_processes_that_read_scenes_do_not_wait_for_torch():
    code = "import sys, ssl_rs.data.workers, ssl_rs.data.folder; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_command_seeks_no_garbage_among_what_its_imports_made():
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 10_000));"
    code += "from ssl_rs.command import main; main('pretrain', ['--cfg']); print(gc.get_threshold()[0], gc.isenabled())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-2:] == ["10000 True", "True"]
