"""What a finished run came to, in a line beside the path that is the output."""

from collections.abc import Mapping
from typing import Any

from ssl_rs.distributed import Processes
from ssl_rs.messages import say_line
from ssl_rs.reporting.pretrainings import outcome_of


def tell(what: str, result: Mapping[str, Any]) -> None:
    """Say how good a result is; of all processes, the first does.

    Args:
        what: Begins the line, e.g. "Fine-tuned".
        result: Of any command; what it does not hold is not told.
    """
    if not Processes.from_environment().is_first:
        return
    said = "; ".join(outcome_of(result)) if result.get("command") == "pretrain" else _scored(result)
    say_line(f"{what}: {said}." if said else f"{what}.")


def _scored(result: Mapping[str, Any]) -> str:
    split, dataset, protocol, miou = (result.get(key) for key in ("split", "dataset", "protocol", "miou"))
    where = f"on {'all' if split == 'all' else f'the {split}'} scenes of {dataset}, protocol {protocol}"
    return f"mIoU {100 * miou:.1f} % {where}; result.json has all scores" if isinstance(miou, float) else ""
