"""searchkit in miniature: the whole idea in one file that runs (python docs/miniature.py FOLDER), in under a minute.

One noun, the Artifact: a model at rest, as JSON and safetensors in its own folder. One verb, the Stage: an artifact in,
its child out. The run directory is all that passes between them, so resuming is reading. The exported file is measured.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import optuna
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

RUN = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/miniature")
X, Y = load_digits(return_X_y=True)
X_train, X_rest, Y_train, Y_rest = train_test_split(X.astype("float32"), Y, test_size=0.4, stratify=Y, random_state=0)
X_val, X_test, Y_val, Y_test = train_test_split(X_rest, Y_rest, test_size=0.5, stratify=Y_rest, random_state=0)


def sample(trial):
    """The only place that knows Optuna; build is the only one that knows torch."""
    return {"width": trial.suggest_int("width", 8, 128, log=True), "depth": trial.suggest_int("depth", 1, 2)}


def build(arch):
    widths = [64, *[arch["width"]] * arch["depth"]]
    hidden = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], 10))


def identity(**lineage):
    """An artifact's id is the digest of its lineage: known before any work, found again after a kill."""
    return hashlib.sha256(json.dumps(lineage, sort_keys=True).encode()).hexdigest()[:12]


def save(id, net, **about):
    """artifact.json comes last, by rename: what can be listed is whole."""
    folder = RUN / id
    folder.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), folder / "weights.safetensors")
    (folder / "tmp").write_text(json.dumps({"id": id, **about}))
    (folder / "tmp").rename(folder / "artifact.json")


def load(id):
    file = RUN / id / "artifact.json"
    return json.loads(file.read_text()) if file.exists() else None


def network(artifact):
    """build(arch), replay the edits, load the weights: no pickle, no class that must be importable by its old name."""
    net = build(artifact["arch"])
    for edit in artifact["edits"]:
        cut_(net, **edit)
    net.load_state_dict(load_file(RUN / artifact["id"] / "weights.safetensors"))
    return net.eval()


def cut_(net, layer, keep):
    """Mechanism: hidden units out of one layer, and their columns out of the next one."""
    a, b = net[layer], net[layer + 2]
    a.weight, a.bias = nn.Parameter(a.weight[keep].detach()), nn.Parameter(a.bias[keep].detach())
    b.weight = nn.Parameter(b.weight[:, keep].detach())


def fit(net, epochs, seed=0):
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    x, y = torch.from_numpy(X_train) / 16, torch.from_numpy(Y_train)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


def right(net, x, y):
    with torch.no_grad():
        return net(torch.from_numpy(x) / 16).argmax(1).numpy() == y


def search(n_trials, epochs):
    """Ask, sample, build, fit, evaluate, save, tell."""
    RUN.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(n_trials):
        trial = study.ask()
        arch = sample(trial)
        id = identity(arch=arch, number=number)
        if load(id) is None:  # a killed search goes on from here: what is whole is not trained again
            net = fit(build(arch), epochs, seed=number)
            cost = sum(p.numel() for p in net.parameters())
            save(id, net, arch=arch, edits=[], val=float(right(net, X_val, Y_val).mean()), params=cost, parent=None)
        study.tell(trial, [load(id)[objective] for objective in ("val", "params")])
    made = [load(f.parent.name) for f in RUN.glob("*/artifact.json")]
    return max((a for a in made if a["parent"] is None), key=lambda a: (a["val"], -a["params"]))


def prune(parent, to=0.5, epochs=15):
    """A stage: artifact in, child out."""
    id = identity(parent=parent["id"], stage="prune", to=to)
    if (done := load(id)) is not None:
        return done
    net, edits = network(parent), [*parent["edits"]]
    for layer in range(0, len(net) - 1, 2):
        importance = net[layer].weight.norm(dim=1) * net[layer + 2].weight.norm(dim=0)
        keep = importance.topk(max(1, int(len(importance) * to))).indices.sort().values.tolist()
        edits.append({"layer": layer, "keep": keep})
        cut_(net, **edits[-1])
    params = sum(p.numel() for p in net.parameters())
    assert params < parent["params"], "a prune that shrinks nothing is an error"
    fit(net, epochs)
    val = float(right(net, X_val, Y_val).mean())
    save(id, net, arch=parent["arch"], edits=edits, val=val, params=params, parent=parent["id"])
    return load(id)


def export(artifact):
    """The input's scaling is inside the graph; the file is compared with the network on every example of val."""
    net = network(artifact)
    scaled = nn.Sequential(nn.Linear(64, 64, bias=False), net)
    scaled[0].weight.data = torch.eye(64) / 16
    path = RUN / artifact["id"] / "model.onnx"
    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(
        scaled, (torch.from_numpy(X_val[:2]),), path, dynamic_shapes=(batch,), external_data=False, verbose=False
    )
    session = ort.InferenceSession(path)
    answer = session.run(None, {session.get_inputs()[0].name: X_val})[0]
    assert np.abs(answer - scaled(torch.from_numpy(X_val)).detach().numpy()).max() < 1e-4, "the export is not the model"
    return session, path


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    winner = search(n_trials=6, epochs=15)
    for name, artifact in (("winner", winner), ("pruned", prune(winner))):
        session, path = export(artifact)
        hits = session.run(None, {session.get_inputs()[0].name: X_test})[0].argmax(1) == Y_test
        half, size = 1.96 * hits.std() / len(hits) ** 0.5, path.stat().st_size
        print(f"{name}: {hits.mean():.3f} ± {half:.3f} of test right, {artifact['params']} parameters, {size} bytes")
