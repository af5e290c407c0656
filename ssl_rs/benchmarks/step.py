"""Where the time of one pretraining step goes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ssl_rs.benchmarks.base import (
    Findings,
    Phases,
    Workplace,
    alternate,
    check_repeats,
    milliseconds,
    peak_memory,
)
from ssl_rs.data.sampling import READ_AHEAD
from ssl_rs.precision import autocast
from ssl_rs.pretext.network import PretextNetwork
from ssl_rs.stages.placed_network import place_network
from ssl_rs.stages.pretraining import initial_network
from ssl_rs.stages.pretraining_batches import batch_making, crop_on_device, scene_crops
from ssl_rs.stages.pretraining_plan import Plan
from ssl_rs.training.accumulation import in_parts
from ssl_rs.training.cuda_graph import Replayed, Work, replayed_or_not
from ssl_rs.training.divergence import FirstBadSteps
from ssl_rs.training.job import Job, as_it_is
from ssl_rs.training.settings import MOST_STEPS, exactness
from ssl_rs.training.state import Progress
from ssl_rs.training.step import gradient_norm, gradients_of, take_step, update, wrap
from ssl_rs.views.base import View, make_views

PHASES = ("data wait", "transfer", "views", "encoder", "heads", "backward", "optimizer")

CHANGES = {
    "data wait": "raise trainer.num_workers, or keep the store on the device with trainer.resident=always",
    "transfer": "keep the store on the device with trainer.resident=always",
    "views": "use fewer views, or larger batches; in place of views=kornia those of ssl_rs",
    "heads": "narrow pretext.inpainting.task.decoder.widths, or use fewer tasks",
    "optimizer": "use a larger trainer.batch_size, and optimizer.fused=true where it is false",
    "encoder": "only a smaller backbone or dataset.crop_size, trainer.precision=bf16 or a faster device makes a step "
    "cheaper",
}
"""What to change where a part is the bottleneck."""

SPARE = 0.05
"""The share of a step that each part may cost which is no network."""


@dataclass(frozen=True)
class StepBenchmark:
    """Times a step of the real loop beside two bounds, in turns, and its parts.

    `bare_encoder` is forward and backward of the same encoder on as many random images that lie on the device, in the
    same passes, precision, layout and parts, and recorded as a CUDA graph where the step is; `bare_network` is encoder,
    heads and optimizer on random views that lie there. What each part of a step costs is taken from separate steps that
    wait for the device behind it, always without torch.compile and CUDA graphs. All of them lie on the device side by
    side, so a GPU needs three to four times the memory of a run.

    Args:
        repeats: Turns, of which the median counts.
        calls: Steps a turn.
    """

    repeats: int = 5
    calls: int = 3

    def __post_init__(self) -> None:
        check_repeats(self.repeats, self.calls)

    def __call__(self, workplace: Workplace) -> Findings:
        """Measure the pretraining of the config."""
        with exactness(workplace.plan.site.trainer.deterministic):  # as in the loop: it decides over kernels
            return self._measure(Step(workplace.plan))

    def _measure(self, step: "Step") -> Findings:
        subjects: Mapping[str, Callable[[], object]] = {
            "step": step.whole,
            "bare_network": step.bare_network,
            "bare_encoder": step.bare_encoder,
            "watched": step.watched,
        }
        before = dict.fromkeys(("step", "watched"), step.use_up)
        with closing(step):
            seconds = alternate(subjects, self.repeats, self.calls, step.device, before, step.phases.seconds.clear)
        return _findings(step, seconds)


class Step:
    """One pretraining in all the ways it is measured; it goes on for ever with a learning rate of 0."""

    def __init__(self, plan: Plan) -> None:
        site = plan.site
        self.plan, self.device = plan, site.device
        self.trainer = replace(site.trainer, max_steps=MOST_STEPS)
        self.network, _ = initial_network(plan)
        self.optimizer = place_network(self.network, self.network.encoder, site, plan.recipe)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = 0.0  # the same work, and no number leaves its range
        endless = replace(site, trainer=self.trainer)
        source = endless.bring(scene_crops(plan, site.seed))
        # What is read ahead while nobody takes any: by each process, and what is on its way to a GPU.
        self.ready = READ_AHEAD * endless.readers(source) + (site.device.type == "cuda")
        make_batch, complete = batch_making(plan)
        job = Job(
            self.network, partial(endless.batches, source), make_batch, plan.weights,
            self.optimizer, plan.recipe.schedule, self.trainer, site.device, plan.run.directory,
            plan.run.identity(site), site.processes, site.seed, after_step=self.network.after_step, complete=complete,
        )  # fmt: skip
        self.network.train()
        self.module, self.job = wrap(job, 0)
        self.backward = gradients_of(self.module, self.job, 0)
        compiled = any(hasattr(part, "_orig_mod") for part in self.module.modules())  # what torch.compile wraps
        self.encoder = torch.compile(self.network.encoder) if compiled else self.network.encoder
        self.crops = self.job.crops(0)
        self.resident = _random_views(self.job)
        self.bare_job = replace(self.job, make_batch=lambda stored, step: self.resident, complete=as_it_is)
        self.bare_backward = gradients_of(self.module, self.bare_job, 0)
        self.images = _as_encoded(self.network, self.resident, self.trainer.gradient_accumulation)
        self.encoding: Work = self._encode
        if isinstance(self.backward, Replayed):  # what the step is compared with is recorded, too
            self.encoding = replayed_or_not(self._encode, self.network.encoder, lambda: self.images)
        self.phases = Phases(self.device)
        self.progress, self.bad_steps = Progress(), FirstBadSteps()

    def use_up(self) -> None:
        """Take as many steps as there are batches that were read ahead."""
        for _ in range(self.ready):
            self.whole()

    def close(self) -> None:
        """End the processes that read ahead: they would outlive the end of this one."""
        self.crops.close()

    def whole(self) -> None:
        """Take a step as the loop does."""
        take_step(self.backward, next(self.crops), self.job, self.progress, self.bad_steps)

    def bare_network(self) -> None:
        """Take a step whose views lie on the device."""
        take_step(self.bare_backward, None, self.bare_job, self.progress, self.bad_steps)

    def bare_encoder(self) -> None:
        """Run the encoder forward and backward."""
        self.encoding(self.images)
        self.network.encoder.zero_grad()

    def _encode(self, images: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
        for passes in images:
            with self._autocast():
                deepest = [self.encoder(each)[-1] for each in passes]
            total = torch.stack([each.float().mean() for each in deepest]).sum()
            total.backward()  # type: ignore[no-untyped-call]
        return {}

    def watched(self) -> None:
        """Take a step and wait after each of its parts."""
        phases, plan, step = self.phases, self.plan, self.progress.step
        with phases.measure("data wait"):
            stored = next(self.crops)
        with phases.measure("transfer"):
            crop = crop_on_device(plan, stored)
        with phases.measure("views"):
            views = make_views(crop, plan.makers, seed=plan.site.seed, step=step, rows=plan.site.rows)
        for part in in_parts(views, self.trainer.gradient_accumulation):
            with self._autocast():
                with phases.measure("encoder"):
                    features = self.network.encode(part)
                with phases.measure("heads"):
                    outputs = self.network.judge(part, features)
            total = torch.stack([plan.weights[name] * output.loss for name, output in outputs.items()]).sum()
            with phases.measure("backward"):
                total.backward()  # type: ignore[no-untyped-call]
        with phases.measure("optimizer"):
            update(self.job, step, gradient_norm(self.network))
        phases.end_step()

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.job.identity.precision)


def _random_views(job: Job) -> dict[str, View]:
    """Return the views of a step with random values in place of the images', on the device."""
    views: dict[str, View] = job.complete(job.make_batch(next(job.crops(0)), 0))
    return {name: replace(view, image=torch.rand_like(view.image)) for name, view in views.items()}


def _as_encoded(network: PretextNetwork, views: Mapping[str, View], parts: int) -> list[list[Tensor]]:
    """Return the images of each pass of the encoder in each part of a step, in the layout it sees them in."""
    encoded = []
    for part in in_parts(views, parts):
        images = [part[name].image for name in network.views]
        passes = images if network.encoder_pass == "per_view" else [torch.cat(images)]
        encoded.append([network.normalization(each) for each in passes])
    return encoded


def _findings(step: Step, seconds: Mapping[str, float]) -> Findings:
    parts = step.phases.medians()
    total = sum(parts.values())
    triplets, views = step.plan.site.rows.total, len(step.network.views)  # of all processes, as in metrics.jsonl
    rates = {name: triplets / seconds[name] for name in ("step", "bare_network", "bare_encoder")}
    figures = {
        "milliseconds": {name: round(parts[name] * 1000, 3) for name in PHASES},
        "step_milliseconds": round(seconds["step"] * 1000, 3),
        "triplets_per_second": round(rates["step"], 3),
        "images_per_second": round(rates["step"] * views, 3),  # that the encoder sees: a view of each crop, or three
        "bare_network": {"triplets_per_second": round(rates["bare_network"], 3)},
        "bare_encoder": {"triplets_per_second": round(rates["bare_encoder"], 3)},
        "step_over_network": round(rates["step"] / rates["bare_network"], 4),
        "step_over_encoder": round(rates["step"] / rates["bare_encoder"], 4),
        "augmentation_share": round(parts["views"] / total, 4),
        "data_wait_share": round(parts["data wait"] / total, 4),
        "peak_memory_mb": round(peak_memory(step.device), 1),
        "parameters": _parameters(step.network),
        "batch_size": step.trainer.batch_size,
        "views": list(step.network.views),
    }
    table = [("part", "ms", "share")]
    table += [(name, milliseconds(parts[name]), f"{parts[name] / total:.1%}") for name in PHASES]
    table += [("", "", ""), ("", "ms a step", "triplets/s")]
    table += [(name.replace("_", " "), milliseconds(triplets / rate), f"{rate:.2f}") for name, rate in rates.items()]
    table += [
        ("", "", ""),
        ("step over network", f"{figures['step_over_network']:.3f}", ""),
        ("step over encoder", f"{figures['step_over_encoder']:.3f}", ""),
        ("peak memory, MB", f"{figures['peak_memory_mb']:.0f}", ""),
    ]
    return Findings(figures, table, advice(parts))


def advice(parts: Mapping[str, float]) -> str:
    """Return a sentence that names the bottleneck, what it costs, and the setting to change.

    Args:
        parts: Seconds of each of PHASES.
    """
    name, total = bottleneck(parts), sum(parts.values())
    if name == "encoder":
        share = (parts["encoder"] + parts["backward"]) / total
        return f"The encoder is the bottleneck, as it should be (with all of backward {share:.0%}): {CHANGES[name]}."
    share = parts[name] / total
    if name == "heads":
        return f"The heads are the bottleneck: forward they cost {share:.0%}, more than the encoder: {CHANGES[name]}."
    return f"Beside the network, {name} costs {share:.1%} of a step, more than {SPARE:.0%}: {CHANGES[name]}."


def bottleneck(parts: Mapping[str, float]) -> str:
    """Return the part that is worth changing.

    What is not network must not cost more than SPARE of a step; the heads not more than the encoder.

    Args:
        parts: Seconds of each of PHASES.
    """
    total = sum(parts.values())
    around = max(("data wait", "transfer", "views", "optimizer"), key=lambda name: parts[name])
    if parts[around] > SPARE * total:
        return around
    return "heads" if parts["heads"] > parts["encoder"] else "encoder"


def _parameters(network: PretextNetwork) -> dict[str, int]:
    """Count the parameters of the encoder and of each head."""
    parts: dict[str, nn.Module] = {"encoder": network.encoder, **dict(network.tasks.items())}
    return {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}
