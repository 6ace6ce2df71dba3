"""A rival: the Optuna script that one would write, with its TPE, its median pruner, and a DataLoader in fp32.

    python benchmarks/rivals/plain_optuna.py DATA --seconds 600 --seed 0 --most-params 95000

It knows nothing of searchkit. Candidates are plain or residual networks within the limit on parameters; each trains for
up to 10 epochs with AdamW and a one-cycle schedule; 55 % of the time is for trials, and the best is trained anew with
the rest. The accuracy is that of the network in fp32 on all test pictures.
"""

from __future__ import annotations

import time

import optuna
import torch
from pictures import load, options, tell
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

EPOCHS, TRIALS_SHARE, BATCH = 10, 0.55, 128


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, kernel: int, *, residual: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, kernel, stride, kernel // 2, bias=False)
        self.second = nn.Conv2d(width, width, kernel, 1, kernel // 2, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])
        self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[1](self.second(F.relu(self.norms[0](self.first(x)))))
        return F.relu(y if self.shortcut is None else y + self.shortcut(x))


def network(trial: optuna.trial.BaseTrial, channels: int, n_classes: int) -> nn.Module:
    width = trial.suggest_int("width", 8, 48, step=4)
    kernel = trial.suggest_categorical("kernel", [3, 5])
    residual = trial.suggest_categorical("residual", [True, False])
    stages = trial.suggest_int("stages", 2, 4)
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for stage in range(stages):
        wide = int(width * trial.suggest_float("growth", 1.0, 2.0) ** stage)
        for index in range(trial.suggest_int(f"blocks_{stage}", 1, 2)):
            layers.append(Block(inputs, wide, 2 if stage and not index else 1, kernel, residual=residual))
            inputs = wide
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(trial.suggest_float("dropout", 0.0, 0.3)),
        nn.Linear(inputs, n_classes),
    )  # fmt: skip


def augmented(x: Tensor, *, flips: bool) -> Tensor:
    """Shifted by up to 4 pixels and, if that is allowed, flipped: a batch at a time."""
    side = x.shape[-1]
    padded = F.pad(x, (4, 4, 4, 4), mode="reflect")
    dx, dy = torch.randint(0, 9, (2,)).tolist()
    x = padded[:, :, dy : dy + side, dx : dx + side]
    return x.flip(3) if flips and torch.rand(()) < 0.5 else x


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--most-params", type=int, default=95_000)
    given = parser.parse_args()
    began = time.monotonic()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    x_train, y_train, x_test, y_test = (torch.from_numpy(a.copy()) for a in load(given.data))
    mean, std = x_train.float().mean(), x_train.float().std()
    x_train, x_test = (((x.float() - mean) / std).permute(0, 3, 1, 2).contiguous() for x in (x_train, x_test))
    n_val = len(x_train) // 10
    train = TensorDataset(x_train[n_val:], y_train[n_val:])
    flips, n_classes, trained = x_train.shape[1] == 3, int(y_train.max()) + 1, 0

    def fitted(net: nn.Module, lr: float, epochs: int, trial: optuna.Trial | None, ends: float) -> float:
        loader = DataLoader(train, BATCH, shuffle=True, drop_last=True)
        optimizer = torch.optim.AdamW(net.parameters(), lr, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * len(loader))
        right = 0
        for epoch in range(epochs):
            net.train()
            for x, y in loader:
                loss = F.cross_entropy(net(augmented(x, flips=flips)), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                if time.monotonic() > ends:
                    break
            right = correct(net, x_train[:n_val], y_train[:n_val])
            if trial is not None:
                trial.report(right / n_val, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
            if time.monotonic() > ends:
                break
        return right / n_val

    def correct(net: nn.Module, x: Tensor, y: Tensor) -> int:
        net.eval()
        with torch.no_grad():
            return sum(int((net(a).argmax(1) == b).sum()) for a, b in zip(x.split(500), y.split(500), strict=True))

    pace: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        nonlocal trained
        net = network(trial, x_train.shape[1], n_classes)
        if sum(p.numel() for p in net.parameters()) > given.most_params:
            raise optuna.TrialPruned
        trained += 1
        started = time.monotonic()
        value = fitted(net, trial.suggest_float("lr", 1e-3, 2e-2, log=True), EPOCHS, trial, search_ends)
        pace.append((time.monotonic() - started) / EPOCHS)
        return value

    search_ends = began + TRIALS_SHARE * given.seconds
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=given.seed))
    study.optimize(objective, timeout=max(1.0, search_ends - time.monotonic()))
    best = network(study.best_trial, x_train.shape[1], n_classes)
    ends = began + given.seconds - 10.0
    # as many epochs as the rest holds at the pace of the trials
    epochs = max(1, int((ends - time.monotonic()) / max(sorted(pace)[len(pace) // 2], 1e-3)))
    fitted(best, study.best_params["lr"], epochs, None, ends)
    params = sum(p.numel() for p in best.parameters())
    tell(correct(best, x_test, y_test), len(y_test), params=params, trained=trained + 1, began=began,
         what=f"{len(study.trials)} trials asked, {epochs} epochs at the end")  # fmt: skip


if __name__ == "__main__":
    main()
