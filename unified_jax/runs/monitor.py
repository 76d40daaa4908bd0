"""The loop's work between steps: reads metrics, judges non-finite steps, draws previews, validates, saves."""

import contextlib
import math
from collections import deque
from pathlib import Path
from typing import Any

import jax

from unified_jax.errors import RunError
from unified_jax.hosts import shared
from unified_jax.models.latent_features import resting
from unified_jax.models.stages import STAGES, merged
from unified_jax.models.tuned import whole_model
from unified_jax.runs.checkpoints import Checkpoints
from unified_jax.runs.measuring import measurer
from unified_jax.runs.metrics import LAG, Clock, MetricsWriter, Pending, Progress, to_host
from unified_jax.runs.patience import Patience, measured
from unified_jax.runs.previews import Previewer, Validator
from unified_jax.runs.reading import AGAIN
from unified_jax.runs.saved import loading
from unified_jax.runs.stages import load_stages
from unified_jax.runs.stragglers import Pace
from unified_jax.runs.watchdog import Pulse
from unified_jax.training.experiment import Experiment
from unified_jax.training.flops import peak_flops
from unified_jax.training.state import State
from unified_jax.typing import Params


class Watch:
    """Reads what the steps report: metrics, non-finite steps, previews, validation, checkpoints."""

    def __init__(
        self,
        experiment: Experiment,
        frozen: Params,
        writer: MetricsWriter,
        progress: Progress,
        checkpoints: Checkpoints,
        folder: Path,
    ) -> None:
        self.experiment, self.writer, self.progress = experiment, writer, progress
        self.frozen = frozen
        self.checkpoints, self.folder = checkpoints, folder
        self.pending: deque[Pending] = deque()
        self.clock, self.flops = Clock(), 0.0
        self.previewer = Previewer(self.experiment) if self.experiment.preview.every else None
        self.validator = Validator(self.experiment) if self.experiment.validation.every else None
        self.best = measurer(self.experiment) if self.experiment.checkpoint.best.every else None
        best = self.experiment.checkpoint.best
        self.patience = Patience(best, measured(writer.path, experiment))
        self.pulse: Pulse | None = None
        self.pace = Pace(folder / "logs", jax.process_index(), jax.process_count(), progress.say)
        self.last: dict[str, Any] = {}
        self.skipped = 0
        """Skipped steps of the run."""
        self.stopped = False
        """Whether patience has run out."""

    def note(self, pending: Pending) -> None:
        """Takes a started step and reads the one LAG steps back."""
        self.pending.append(pending)
        self.drain(LAG)

    def drain(self, lag: int) -> None:
        """Reads all but the last `lag` steps. Raises RunError at a non-finite step under the policy 'stop'."""
        while len(self.pending) > lag:
            self._read(self.pending.popleft())

    def _read(self, done: Pending) -> None:
        finite, norm = jax.device_get((done.metrics["finite"], done.metrics["param_norm"]))
        if not finite or math.isnan(norm):
            self.skipped += int(not finite)
            self.writer.write_non_finite(done.step, done.batch, {"loss": to_host(done.metrics)["loss"]})
            self._judge(done.step, lost=math.isnan(norm))
            self.progress.say(f"step {done.step}: loss or gradient not finite, skipped")
        if done.step % self.experiment.log_every == 0 or done.step == self.experiment.steps:
            values = to_host({k: v for k, v in done.metrics.items() if k != "finite"})
            values |= {"skipped": float(not finite), "examples": done.batch.examples}
            peak = peak_flops(jax.devices()[0])
            peak = peak * jax.device_count() if peak else None
            values |= self.pace.report(done.step)
            self.last = values | self.clock.read(self.experiment.batch_size, self.flops, peak)
            self.writer.write(done.step, self.last)
        self.progress.update(done.step, self.last)
        self._beat(f"step {done.step}")

    def _judge(self, step: int, lost: bool) -> None:
        """Raises RunError if a run cannot continue, or has learned nothing; `lost`: a parameter is NaN."""
        record = f"its slots and example ids are in {self.folder / 'non_finite.jsonl'}."
        if lost:
            raise RunError(
                f"Step {step} left parameters that are not finite; {record} {self.checkpoints.last_good(wait=True)} "
                f"The same settings would come to the same: {AGAIN}."
            )
        if self.experiment.non_finite == "stop":
            raise RunError(
                f"Step {step} has a loss or gradient that is not finite; {record} "
                f"{self.checkpoints.last_good(wait=True)} Look closer with --replay {step}, or continue with "
                "--non-finite skip."
            )
        if self.skipped == step == self.experiment.steps:
            raise RunError(
                f"All {step} step(s) had a loss or gradient that is not finite and were skipped, so nothing was "
                f"learned; the slots and example ids are in {self.folder / 'non_finite.jsonl'}."
            )

    def _beat(self, what: str) -> None:
        if self.pulse:
            self.pulse.beat(what)

    def close(self) -> None:
        """Closes the progress bar and the writers."""
        self.pace.close()
        self.progress.close()
        self.writer.close()

    def report(self, step: int, values: dict[str, Any]) -> None:
        """A line of metrics.jsonl after those of the steps before it."""
        self.drain(0)
        self.writer.write(step, to_host(values))

    def due(self, step: int) -> tuple[bool, bool, bool, bool]:
        """Whether a preview, a validation, a measurement, a checkpoint is due after this step."""

        def now(every: int) -> bool:
            return bool(every) and (step % every == 0 or step == e.steps)

        e = self.experiment
        return now(e.preview.every), now(e.validation.every), now(e.checkpoint.best.every), now(e.checkpoint.every)

    def look(self, state: State, step: int) -> None:
        """Checkpoints, previews, validation and measurements that are due after this step, in this order: what fails
        costs no checkpoint."""
        preview, validate, measure, save = due = self.due(step)
        if not any(due):
            return
        self.drain(0)
        if save:
            self.checkpoints.save(state, step)
        if preview and self.previewer:
            self._preview(state, step)
        if validate and self.validator:
            loss = self.validator.loss(merged(state.ema[0], self.frozen), state.aux, state.step)
            self.writer.write(step, {"validation/loss": loss if math.isfinite(loss) else None})
            self.progress.say(f"step {step}: validation loss {loss:.5f}")
            if not self.best:
                self.checkpoints.save_best(state, step, loss, "validation/loss")
        if measure and self.best:
            self._measure(state, step)
        self._beat(f"the previews, validation or checkpoint of step {step}")

    def _measure(self, state: State, step: int) -> None:
        """The metric that decides which checkpoint is the best, and whether the run goes on."""
        assert self.best
        wanted = self.experiment.checkpoint.best
        value = self.best.value(merged(state.ema[0], self._whole(state), state.aux), step)
        self.writer.write(step, {f"best/{wanted.metric}": value if math.isfinite(value) else None})
        self.progress.say(f"step {step}: {wanted.metric} {value:.5g} of {wanted.count} samples")
        of = f"{wanted.metric} of {wanted.count} samples against {wanted.against}"
        self.checkpoints.save_best(state, step, -value if wanted.higher else value, of)
        self.patience = self.patience.after(value)
        self.stopped = bool(shared([int(self.patience.over)])[0])
        if self.stopped:
            self.progress.say(
                f"step {step}: no better {wanted.metric} in {wanted.patience} measurements; the run ends here."
            )

    def _whole(self, state: State) -> Params:
        """The frozen parameters with the stages that rest while it trains, which samples need."""
        names = resting(self.experiment.model)
        if not names:
            return self.frozen
        how = loading(jax.tree.leaves(state.params)[0].sharding.mesh, self.experiment.rules)
        stages = load_stages(self.folder, whole_model(self.experiment.trained), how, names)
        return {**self.frozen, STAGES: {**self.frozen.get(STAGES, {}), **stages}}

    def _preview(self, state: State, step: int) -> None:
        """An image grid; a failed write is reported and does not stop the run."""
        path = self.folder / "previews" / f"step_{step:07d}.png"
        assert self.previewer
        try:
            self.previewer.write(merged(state.ema[0], self._whole(state), state.aux), path)
            if path.is_file():
                self.writer.image(step, "preview", path)
        except RunError as error:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            self.progress.say(f"step {step}: {error}")

    def summary(self, step: int, parameters: int) -> dict[str, Any]:
        """The content of summary.json."""
        seconds, waited = self.clock.whole()
        return {
            "step": step,
            "finished": step == self.experiment.steps or self.stopped,
            "loss": self.last.get("loss"),
            "skipped": self.skipped,
            "parameters": parameters,
            "flops_per_step": self.flops,
            "time/seconds": seconds,
            "time/data_wait_share": waited,
        }
