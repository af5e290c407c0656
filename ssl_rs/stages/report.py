"""Write the report."""

from pathlib import Path

from ssl_rs.config import Settings
from ssl_rs.messages import say_line
from ssl_rs.reporting.page import write_report
from ssl_rs.scene_groups import grouping


def report(settings: Settings) -> Path:
    """Write the page and its tables over all finished runs, say which cells lack, and return the page's path."""
    runs, output_dir = settings.value("runs", str), Path(settings.value("output_dir", str))
    run_dir, pattern = settings.value("run_dir", str | None), settings.value("scene_group", str | None)
    settings.check_all_read()
    out_dir = Path(run_dir or output_dir / "report")
    group_of = None if pattern is None else grouping(pattern, "scene_group")
    return write_report(Path(runs), output_dir / "sweeps", out_dir, say_line, group_of)
