"""A rival: one known network, trained all the while by the best loop that searchkit has.

    python benchmarks/rivals/fixed_network.py DATA resnet-8|mobilenet --seconds 600 --seed 0

ResNet-8 is the reference of MLPerf Tiny (three stages of 16, 32 and 64 channels); the MobileNet has as many parameters
as fit the same bytes. It trains on nine tenths of the training set and keeps no part of the time for compression or
proof: 2 threads, bf16 if that is quicker, channels last, averaged weights, shifts and flips (no flips of clothes), and
a schedule that ends with the time. Its accuracy is that of the network in fp32 on all test pictures.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pictures import load, options, tell  # noqa: E402

from searchkit.context import Context  # noqa: E402
from searchkit.core.training import FitPlan, TrainState  # noqa: E402
from searchkit.run import Run  # noqa: E402
from searchkit.search.candidates import Candidate  # noqa: E402
from searchkit.search.time_planning import SETTINGS, quickest  # noqa: E402
from searchkit.tasks import registry  # noqa: E402
from searchkit.train import fit  # noqa: E402
from spaces import cnn  # noqa: E402

NETWORKS = {
    "resnet-8": cnn.Arch(depths=(1, 1, 1), widths=(16, 32, 64), stem_width=16),
    "mobilenet": cnn.Arch(depths=(1, 2, 3, 3), widths=(32, 48, 88, 144), block="separable", stem_width=24),
}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("network", choices=tuple(NETWORKS))
    given = parser.parse_args()
    began = time.monotonic()
    task = registry.load({"data": str(given.data), "split_seed": given.seed})
    arch, space = NETWORKS[given.network], cnn.SPACE
    augment = ("crop", "flip") if task.spec.inputs[0].shape[0] == 3 else ("crop",)
    training = replace(space.training.default, augment=augment, epochs=100_000)
    folder = Path(tempfile.mkdtemp())
    ctx = Context(Run.create(folder, "r", {}), task, lambda name: space)
    torch.manual_seed(given.seed)
    net = cnn.build(arch, task.spec)
    candidate = Candidate({}, {}, arch, training, "fixed")
    (precision, channels_last), _ = quickest(space, ctx, candidate, SETTINGS)
    torch.set_num_threads(given.threads)
    # scoring takes a few seconds of the time
    left = given.seconds - (time.monotonic() - began) - 10.0
    plan = FitPlan(training, given.seed, 100_000, "cpu", precision, channels_last, seconds=left, fills=True)
    state = fit(net, task, plan, TrainState())
    net = net.eval()
    _, _, x_test, y_test = load(given.data)
    preprocessor, right = task.preprocessor(), 0
    raw = task.raw("test")[task.inputs[0].name]
    assert len(raw) == len(x_test)
    truth = np.asarray(task.data.target_of("test"))
    assert (truth == y_test).all(), "the same pictures in the same order"
    with torch.no_grad():
        for rows in np.array_split(np.arange(len(raw)), 40):
            right += int((net(preprocessor(torch.from_numpy(raw[rows]))).argmax(1).numpy() == truth[rows]).sum())
    params = sum(p.numel() for p in net.parameters())
    tell(right, len(raw), params=params, trained=1, began=began, what=f"{state.epoch} epochs, {precision}")


if __name__ == "__main__":
    main()
