"""The ordinary training loop: one function from a state to a later state.

It stops at the end of any epoch and goes on from there bit for bit, in this process or another: the order of the
examples and every random draw depend on (seed, epoch) alone, and the schedule is a function of the step. So a rung of a
search is a call, and a killed process costs one call.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from searchkit.core import timing
from searchkit.core.interrupt import raise_if_interrupted
from searchkit.core.network import HasAuxLoss, HasMaskedHead
from searchkit.core.replicas import Replicas, replicas
from searchkit.core.schedule import Pace
from searchkit.core.schedule import lr_factor as lr_factor
from searchkit.core.serialization import derive_seed
from searchkit.core.state import capture, restore_, snapshot, with_prefix
from searchkit.core.task import HasParts, SelfSupervised, Task
from searchkit.core.training import Batch, FitPlan, Teacher, Training, TrainState
from searchkit.onnx.predictor import Deployed, TorchPredictor

WATCHED = 2_000
"""Examples of val at most that a learning curve is drawn from: an epoch's whole val of 7,500 pictures took a tenth of a
search (measured on CIFAR-10). What trials are compared by is always all of val."""


class Diverged(Exception):
    """The loss is not a finite number any more."""


def fit(model: nn.Module, task: Task, plan: FitPlan, state: TrainState) -> TrainState:
    """Train a network in place from a state to a later one.

    Args:
        model: Is left in eval mode, with the averaged weights if `training.ema` > 0, and with the best ones on val if
            `training.patience` > 0.
        task: Gives the batches, the loss and the metric.
        plan: Until which epoch, on which schedule, for how long. Of several replicas (`core.replicas`), each is called
            alike; the first validates.
        state: Where the training stands; `TrainState()` at the start.

    Returns:
        The state at epoch `plan.until`, or where patience or the time ended the training. Its numbers are "curve":
        [{epoch, loss, seconds, thread_seconds, steps, val if it was scored}]; "pretraining", the same of what goes
        before the first epoch; "stopped_by": "patience", "time" or None; "best" and "best_epoch".

    Raises:
        Diverged: The loss is not a finite number.
        Interrupted: After Ctrl-C, at the start of an epoch.
    """
    training, deadline, team = plan.training, time.monotonic() + plan.seconds, replicas()
    model.to(plan.device)
    if plan.channels_last:
        channels_last_(model)
    pretraining = list(state.numbers.get("pretraining", [])) if state.epoch else pretrain_(model, task, plan, deadline)
    # After the layout is set: fused AdamW reads a moment in the memory order of its weights, and `restore_` stores it
    # in the order that they have now. With restored moments in another order, the weights differed by .020 after one
    # more rung, without an error (measured).
    optimizer = make_optimizer(model, training)
    if state.epoch:
        restore_(model, optimizer, state.tensors)
    average = _Average(model, training.ema, state) if training.ema > 0 else None
    curve = list(state.numbers.get("curve", []))
    best = with_prefix(state.tensors, "best.")
    best_value: float | None = state.numbers.get("best")
    best_epoch, stopped_by = int(state.numbers.get("best_epoch", 0)), state.numbers.get("stopped_by")
    # early stopping keeps the best epoch, so it sees all of val
    watched = task.glimpse(WATCHED) if isinstance(task, HasParts) and not training.patience else task
    epoch, pace = state.epoch, Pace(plan, task.n_examples("train"), state)
    while epoch < plan.until and stopped_by is None:
        row = _epoch_(model, task, plan, optimizer, epoch, average=average, pace=pace, deadline=deadline)
        # An epoch that the deadline cut short counts as one.
        stopped_by = "time" if _is_over(deadline, team) else None
        epoch += 1
        if plan.validate or training.patience:
            with _averaged(model, average):
                value = validation(model, watched, plan.device) if team.rank == 0 else math.nan
                row["val"] = value = team.agreed(value)
                # Without the check, NaN as the first value would be kept: nothing is better than NaN.
                better = math.isfinite(value) and (best_value is None or task.goal.better(value, best_value))
                if training.patience and better:
                    best_value, best_epoch = value, epoch
                    best = snapshot(model.state_dict())
            if training.patience and epoch - best_epoch >= training.patience:
                stopped_by = "patience"
        curve.append(row)
    after = TrainState(epoch, capture(model, optimizer))
    after.numbers = {"curve": curve, "stopped_by": stopped_by, "best": best_value, "best_epoch": best_epoch}
    after.numbers |= {"pretraining": pretraining} if pretraining else {}
    after.numbers |= {"progress": pace.progress()} if plan.fills else {}
    after.tensors |= snapshot(best, "best.")
    # the state holds the raw weights, from which training goes on; what is left in the model is for use
    if average is not None:
        after.numbers["ema_updates"] = average.n_updates
        after.tensors |= snapshot(average.tensors, "ema.")
        model.load_state_dict(average.tensors)
    if training.patience and best:
        model.load_state_dict(best)
    model.eval()
    return after


def pretrain_(model: nn.Module, task: Task, plan: FitPlan, deadline: float) -> list[dict[str, Any]]:
    """Train a network in place to tell what was hidden of its inputs (BERT: Devlin et al. 2019, arXiv:1810.04805).

    It takes `training.pretrain_epochs` before the first epoch, on a schedule of its own, from the seed alone. What the
    network needs for it ends with it.

    Args:
        model: The network.
        task: Gives the batches and the loss.
        plan: As of `fit`.
        deadline: On the monotonic clock.

    Returns:
        The learning curve; [] if no such epochs are asked for, or task or network offer nothing of the kind.
    """
    training = replace(plan.training, epochs=plan.training.pretrain_epochs, augment=())
    if not training.epochs or not isinstance(task, SelfSupervised) or not isinstance(model, HasMaskedHead):
        return []
    torch.manual_seed(derive_seed(plan.seed, "restorer"))
    restorer = model.restorer().to(plan.device)
    own = replace(plan, training=training, seed=derive_seed(plan.seed, "pretraining"), loss=task.pretext, fills=False)
    optimizer, rows, pace = make_optimizer(restorer, training), [], Pace(own, task.n_examples("train"), TrainState())
    for epoch in range(training.epochs):
        rows.append(_epoch_(restorer, task, own, optimizer, epoch, average=None, pace=pace, deadline=deadline))
        if _is_over(deadline, replicas()):
            break
    return rows


def _is_over(deadline: float, team: Replicas) -> bool:
    """Whether the time is over, by the clock of the first replica."""
    return math.isfinite(deadline) and bool(team.agreed(float(time.monotonic() > deadline)))


def _epoch_(
    model: nn.Module,
    task: Task,
    plan: FitPlan,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    *,
    average: _Average | None,
    pace: Pace,
    deadline: float,
) -> dict[str, Any]:
    """One epoch in place, or its steps up to the deadline: its row of the learning curve. Raises Diverged."""
    raise_if_interrupted()
    training, started, of_thread = plan.training, time.monotonic(), time.thread_time()
    team = replicas()
    # replicas see other rows, and draw their dropout apart
    torch.manual_seed(derive_seed(plan.seed, epoch, *([team.rank] if team.rank else [])))
    model.train()
    objective = team.together(_Objective(model, task, plan))
    total, n_steps = torch.zeros((), device=plan.device), 0
    for batch in task.batches("train", training, seed=derive_seed(plan.seed, "order", epoch), device=plan.device):
        rate = training.lr * pace.lr_factor(epoch, n_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        # summed on the device: reading each loss would wait for a GPU at every step
        rows, weight = team.shard(batch)
        total += _step_(model, objective, plan, optimizer, rows, weight=weight)
        n_steps += 1
        if average is not None:
            average.update_(model)
        if _is_over(deadline, team):
            break
    # Checked once an epoch, since one loss that is not finite makes the sum not finite.
    mean = float(team.mean(total)) / max(1, n_steps)
    if not math.isfinite(mean):
        raise Diverged(f"the training loss became {mean} in epoch {epoch + 1} (learning rate {training.lr:g})")
    seconds, of_thread = time.monotonic() - started, time.thread_time() - of_thread
    return {"epoch": epoch + 1, "loss": mean, "seconds": seconds, "thread_seconds": of_thread, "steps": n_steps}


def validation(model: nn.Module, task: Task, device: str) -> float:
    """The goal's value on val, by the same lines that score an exported file. The model is left in eval mode."""
    model.eval()
    with timing.part("validation"):
        deployed = Deployed(task.preprocessor(), model, task.postprocessor()).to(device)
        evaluation = task.evaluate(TorchPredictor(deployed, task.inputs, task.answers, device=device), "val")
    return task.goal.value(evaluation.scores)


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimizer that a training names, over all parameters that are trained.

    Weight decay is for matrices and kernels only: decaying biases and norm scales helps nothing (He et al. 2018,
    arXiv:1812.01187, section 3.1).

    Raises:
        ValueError: There is none of this name.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    match training.optimizer:
        case "adamw":
            # fused was 1.04 times the speed of the default on a CPU
            return torch.optim.AdamW(groups, lr=training.lr, betas=(training.momentum, 0.999), fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=training.lr, alpha=0.9)
        case "momentum":
            return torch.optim.SGD(groups, lr=training.lr, momentum=training.momentum, nesterov=True)
        case "sgd":
            return torch.optim.SGD(groups, lr=training.lr)
    raise ValueError(f"no optimizer named '{training.optimizer}'; they are sgd, momentum, rmsprop, adamw")


def distillation(task: Task, teacher: Teacher, device: str) -> Callable[[nn.Module, Batch], Tensor]:
    """The loss of a student: (1 − weight) · the task's loss + weight · its distance to the teacher.

    Hinton et al. 2015, arXiv:1503.02531.

    Args:
        task: Has both losses.
        teacher: Is moved to the device, in eval mode.
        device: On which the student is trained.

    Returns:
        (student, batch) to a scalar; the student runs once a batch.
    """
    network, weight = teacher.network.to(device).eval(), teacher.weight

    def loss(student: nn.Module, batch: Batch) -> Tensor:
        once = _Once(student)
        match = task.distillation_loss(once, network, batch, temperature=teacher.temperature)
        return (1.0 - weight) * task.loss(once, batch) + weight * match

    return loss


class _Once(nn.Module):
    """A network that runs once for one batch, however many losses ask for its output."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.output: Any = None

    def forward(self, *inputs: Tensor) -> Any:
        if self.output is None:
            self.output = self.inner(*inputs)
        return self.output

    # The task's loss looks for it on the network that it is given, which is this wrapper.
    def aux_loss(self) -> Tensor | float:
        return self.inner.aux_loss() if isinstance(self.inner, HasAuxLoss) else 0.0


CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""torch's memory formats by the number of axes: pictures and volumes."""


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=CHANNELS_LAST[x.ndim]) if x.ndim in CHANNELS_LAST else x


def channels_last_(model: nn.Module) -> None:
    """Lay every parameter and buffer of pictures and volumes out with its channels last, in place."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = _channels_last(tensor.data)


class _Objective(nn.Module):
    """The loss of a batch as a module, so that replicas can average the gradients of whatever a task's loss runs."""

    def __init__(self, network: nn.Module, task: Task, plan: FitPlan) -> None:
        super().__init__()
        self.network = network
        self.loss: Callable[[nn.Module, Batch], Tensor] = task.loss if plan.loss is None else plan.loss

    def forward(self, target: Tensor, *inputs: Tensor) -> Tensor:
        loss: Tensor = self.loss(self.network, Batch(inputs, target))
        return loss


def _step_(
    model: nn.Module,
    objective: nn.Module,
    plan: FitPlan,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    weight: float,
) -> Tensor:
    """One optimizer step; the loss, detached. weight: of this replica's rows, see `Replicas.shard`."""
    if plan.channels_last:
        batch = Batch(tuple(_channels_last(x) for x in batch.inputs), batch.target)
    # Forward pass and loss alone: backward runs each operation in the type that autocast chose for its forward.
    with torch.autocast(plan.device, torch.bfloat16, enabled=plan.precision == "bf16"):
        loss: Tensor = objective(batch.target, *batch.inputs)
    if weight != 1.0:
        loss = loss * weight
    if plan.training.l1 > 0:
        weights = [p.abs().sum() for p in model.parameters() if p.ndim > 1]
        loss = loss + plan.training.l1 * torch.stack(weights).sum()
    optimizer.zero_grad(set_to_none=True)  # None and not zeros: a pass over memory less
    loss.backward()  # type: ignore[no-untyped-call]
    if plan.training.clip_norm > 0:
        nn.utils.clip_grad_norm_(model.parameters(), plan.training.clip_norm)
    optimizer.step()
    return loss.detach()


class _Average:
    """An exponential moving average of weights and running statistics.

    The decay is warmed up so that early epochs are not held back by the random start: min(decay, (1 + t) / (10 + t)),
    as in tf.train.ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float, state: TrainState) -> None:
        self.decay = decay
        self.n_updates = int(state.numbers.get("ema_updates", 0))
        saved = with_prefix(state.tensors, "ema.")
        # `clone`, since `state_dict` gives the model's own tensors, which the optimizer changes in place.
        self.tensors = {k: saved.get(k, v).detach().to(v.device).clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update_(self, model: nn.Module) -> None:
        self.n_updates += 1
        keep = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        for name, value in model.state_dict().items():
            # Counters, such as BatchNorm's of its batches, are whole numbers, for which `lerp_` is not implemented.
            if value.is_floating_point():
                self.tensors[name].lerp_(value, 1.0 - keep)
            else:
                self.tensors[name].copy_(value)


@contextmanager
def _averaged(model: nn.Module, average: _Average | None) -> Iterator[None]:
    """Inside, the model holds the averaged weights."""
    if average is None:
        yield
        return
    # Copies, since `load_state_dict` writes into the very tensors that `state_dict` gives.
    raw = {k: v.detach().clone() for k, v in model.state_dict().items()}
    model.load_state_dict(average.tensors)
    yield
    model.load_state_dict(raw)
