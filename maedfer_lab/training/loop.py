"""The training loop of pre-training and fine-tuning: devices, resume, log, stop.

Accelerate finds the device and joins the processes; precision is the configuration's, through
torch's own autocast and gradient scaler, so that runs of one notebook may differ in it.

What makes a resumed run end bit for bit as an uninterrupted one (same number of processes, CPU):
clip i of the stream, the masks and the random state of a step are functions of the seed and the
step alone; weights, optimiser, scaler, log and the task's own state are in the checkpoint.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from maedfer_lab.runs import LogRow, Run
from maedfer_lab.training.loading import read_batches
from maedfer_lab.training.progress import Progress, delayed_interrupt
from maedfer_lab.training.shares import own_share
from maedfer_lab.training.stepping import Stepper
from maedfer_lab.training.task import Task

__all__ = ["Task", "TrainedLog", "own_share", "train"]

READ_EVERY = 10  # steps between looks at the loss: each look waits for the device


@dataclass(frozen=True)
class TrainedLog:
    """What a training leaves beside its model.

    log: rows of step, lr, losses, and where judged its measures. seconds: over all its parts.
    skipped: steps whose gradients overflowed in fp16 and changed nothing.
    waited: share of the time in [0, 1] in which this process waited for data.
    """

    log: list[LogRow]
    seconds: float
    skipped: int
    waited: float


def train(
    task: Task,
    run: Run,
    *,
    workers: int = 0,
    on_log: Callable[[list[LogRow]], None] | None = None,
    tensorboard: bool = False,
    compile: bool = False,
) -> TrainedLog:
    """Train `task.model` in place, from the state kept in `run` or from the start.

    The first Ctrl-C (or SIGTERM, which Slurm sends) ends the step, keeps the state and raises
    KeyboardInterrupt. A state that cannot be written (full disk) is a warning, and tried again
    at the next time to save. The caller finishes the run: `Run.finish`.

    workers: processes that read clips.
    on_log: called by the main process with the log so far, every few steps, for a live curve.
    tensorboard: write the log also for TensorBoard, in the run's folder.
    compile: run the model's step through `torch.compile`. Measured on a CPU only, with the small
        model: in bf16 an eighth faster after two minutes of compiling, in float32 a sixth slower.

    Raises:
        FloatingPointError: a loss is not finite; names the clips. The last good state is kept.
        ChildProcessError: a process that read clips died; names the clip.
    """
    stepper = Stepper(task, compile)
    gpus = [stepper.device] if stepper.device.type == "cuda" else []
    with torch.random.fork_rng(gpus), delayed_interrupt() as interrupt:
        return _train(task, stepper, run, workers, on_log, tensorboard, interrupt.is_set)


def _train(
    task: Task,
    stepper: Stepper,
    run: Run,
    workers: int,
    on_log: Callable[[list[LogRow]], None] | None,
    tensorboard: bool,
    interrupted: Callable[[], bool],
) -> TrainedLog:
    config, optim = task.config, task.config.optim
    is_main = stepper.accelerator.is_main_process
    start, log, unlogged, seconds = 0, [], [], 0.0
    if is_main:
        run.sweep()
    if (state := run.load_state()) is not None:
        stepper.load_state_dict(state)
        start, log, unlogged = state["step"], state["log"], state["unlogged"]
        seconds = state["seconds"]
    parts = stepper.parts(start)
    loaded = read_batches(
        task.stream,
        parts,
        workers,
        lambda index: task.names([index])[0],
        pin_memory=stepper.device.type == "cuda",
    )
    shown = stepper.accelerator.is_local_main_process
    pending: list[LogRow] = []
    is_drawn = getattr(task.stream, "is_drawn", False)
    with Progress(config.name, start, optim, seconds, workers, shown, is_drawn) as progress:
        batches = progress.timed(loaded)
        writer, written = _tensorboard(run, start) if tensorboard and is_main else None, len(log)
        for step in range(start, optim.last_step):
            pending.append(stepper.step(step, batches, parts.shares))
            done = step + 1
            is_last = done == optim.last_step
            judge = is_last or (config.eval_every and done % config.eval_every == 0)
            keep = is_last or done % config.save_every == 0
            look = judge or keep or done % READ_EVERY == 0
            stop = False  # many processes ask each other only when they look at the loss anyway
            if look or stepper.accelerator.num_processes == 1:
                stop = stepper.agree(interrupted()) and not is_last
            if look or stop:
                rows = stepper.read(pending)
                pending.clear()
                _check_finite(task, rows, run)
                unlogged += rows
                progress.show(unlogged[-1], stepper.skipped)
            progress.update()
            if judge or (look and len(unlogged) >= task.log_every):
                log += _means(unlogged, task.log_every, everything=bool(judge))
                unlogged = [row for row in unlogged if row["step"] > log[-1]["step"]]
            if judge:
                log[-1] |= task.judge()
            if writer is not None and look:
                written = _write_scalars(writer, log, written)
            if on_log is not None and is_main and look and log:
                on_log(log)
            if (keep or stop) and is_main:
                state = {**stepper.state_dict(), "step": done, "log": log, "unlogged": unlogged,
                         "seconds": progress.seconds}  # fmt: skip
                kept = _keep(run, state)
            if stop:
                if is_main:
                    progress.write(_stopped(done, optim.last_step, run, kept))
                stepper.accelerator.wait_for_everyone()  # an early end would have the others killed
                raise KeyboardInterrupt
        return TrainedLog(log, round(progress.seconds, 1), stepper.skipped, progress.waited)


def _means(rows: list[LogRow], every: int, everything: bool) -> list[LogRow]:
    """Means of every `every` rows, under the step of the last; `everything`: of the rest too."""
    end = len(rows) if everything else len(rows) // every * every
    means = []
    for first in range(0, end, every):
        part = rows[first : min(first + every, end)]
        names = [name for name in part[-1] if name != "step"]
        mean = {name: math.fsum(row[name] for row in part) / len(part) for name in names}
        means.append({"step": part[-1]["step"], **mean})
    return means


def _check_finite(task: Task, rows: list[LogRow], run: Run) -> None:
    """Raise at the first loss that is not finite, with the clips of its batch."""
    for row in rows:
        if math.isfinite(row["loss"]):
            continue
        size, step = task.config.optim.batch_size, int(row["step"])
        names = "\n  ".join(task.names(range((step - 1) * size, step * size)))
        raise FloatingPointError(
            f"loss is {row['loss']} at step {step} (learning rate {row['lr']:.2e}); the last good "
            f"state is in {run.folder}. Lower lr={task.config.optim.lr} or use "
            f"precision='float32', and look at the clips of this batch:\n  {names}"
        )


def _keep(run: Run, state: dict[str, Any]) -> bool:
    """Save the state; a failure (a full disk) is told, and the training goes on."""
    try:
        run.save_state(state)
    except OSError as error:
        warnings.warn(
            f"step {state['step']} could not be kept: {error}. The state before it stays, the "
            "training goes on and tries again at the next time to save",
            stacklevel=2,
        )
        return False
    return True


def _stopped(done: int, steps: int, run: Run, kept: bool) -> str:
    where = f"the state is kept in {run.folder}" if kept else "the state before it is kept"
    return f"Stopped after step {done} of {steps}; {where}. Run the same command again to go on."


def _tensorboard(run: Run, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "tensorboard=True needs the package tensorboard; type: pip install tensorboard"
        ) from error
    return SummaryWriter(str(run.folder / "tensorboard"), purge_step=start + 1)


def _write_scalars(writer: Any, log: list[LogRow], written: int) -> int:
    for row in log[written:]:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, value, row["step"])
    return len(log)
