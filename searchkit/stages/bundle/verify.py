"""Verify this bundle: the manifest's digest, the hash and size of every file, the golden outputs, and the metric.

    python verify.py
    python verify.py --data mine.npz     arrays: the inputs by name (or x if there is only one), and the targets y

With --data, the metric must lie in the interval that the manifest promises. Targets that are classes or ranks are given
as the labels in manifest.json; if none of these is a whole number, also as their places in that list, from 0. Needs
numpy and onnxruntime. Ends with status 0 if everything holds, 1 if something does not.
"""
import argparse
import hashlib
import json
import pathlib
import runpy
import sys

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

HERE = pathlib.Path(__file__).resolve().parent

# They share no class but Exception.
CANNOT_RUN = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoModel,
              state.NoSuchFile, state.NotImplemented, state.RuntimeException, RuntimeError)


NEEDED = ("README.md", "golden.npz", "model.onnx", "model_fp32.onnx", "run.py", "verify.py")


class Wrong(Exception):
    """What does not hold, in a sentence."""


def digest_of(manifest):
    """SHA-256 of the manifest without its own digest, as JSON with sorted keys and no spaces."""
    plain = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_manifest():
    manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
    if not isinstance(manifest, dict):
        raise Wrong(f"manifest.json holds {type(manifest).__name__}, not an object")
    return manifest


def check_digest(manifest):
    if not manifest.get("digest"):
        raise Wrong("manifest.json has no digest of its own")
    found = digest_of(manifest)
    if found != manifest["digest"]:
        raise Wrong(f"manifest.json has changed: its digest is {found[:12]}..., it says {str(manifest['digest'])[:12]}...")
    return "manifest.json has the digest that it states"


def check_hashes(manifest):
    for name in sorted({*NEEDED, *manifest.get("equipment", ())} - set(manifest["sha256"])):
        raise Wrong(f"the manifest has no sha256 of {name}")
    for name, expected in manifest["sha256"].items():
        file = HERE / name
        if not expected:
            raise Wrong(f"the manifest has no sha256 of {name}")
        if not file.is_file():
            raise Wrong(f"{name} is missing")
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != expected:
            raise Wrong(f"{name} has changed: sha256 {found[:12]}..., in the manifest {expected[:12]}...")
    return f"{len(manifest['sha256'])} files have the hashes of the manifest"


def check_sizes(manifest):
    for name, key in (("model.onnx", "size_bytes"), ("model_fp32.onnx", "fp32_size_bytes")):
        found = (HERE / name).stat().st_size
        if found != manifest[key]:
            raise Wrong(f"{name} has {found:,} bytes; the manifest says {manifest[key]:,}")
    return f"model.onnx has {manifest['size_bytes']:,} bytes, model_fp32.onnx {manifest['fp32_size_bytes']:,}"


def check_labels(manifest):
    """One label for each of the probabilities in the golden outputs."""
    golden, labels = np.load(HERE / "golden.npz", allow_pickle=False), manifest["labels"]
    if len(set(labels)) != len(labels):
        raise Wrong("two labels in the manifest are the same")
    name = "output.probabilities"
    if labels and name in golden.files and golden[name].shape[-1] != len(labels):
        raise Wrong(f"the manifest has {len(labels)} labels; the golden answers have {golden[name].shape[-1]} columns")
    return f"{len(labels)} labels fit the golden answers" if labels else "the answers have no labels"


def open_model(manifest):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for key, value in manifest["session_options"].items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(str(HERE / "model.onnx"), options, providers=["CPUExecutionProvider"])


def rows_in(ports, inputs):
    """How many there are. One entry a row, or as many as another input counts, or none: then all rows share it."""
    n = [inputs[p["name"]].shape[p["axis"]] for p in ports if p["batched"] and p["counted_by"] is None]
    for port in ports:
        if port["counted_by"] is not None:
            counted, have = int(inputs[port["counted_by"]].sum()), inputs[port["name"]].shape[port["axis"]]
            if counted != have:
                raise Wrong(f"'{port['name']}' has {have} entries, and '{port['counted_by']}' counts {counted}")
    if len(set(n)) != 1:
        raise Wrong(f"the inputs differ in their number of rows: {n}")
    return n[0]


def take(ports, inputs, start, stop):
    """Some rows: see rows_in."""
    taken = {}
    for port in ports:
        array, first, last = inputs[port["name"]], start, stop
        if port["counted_by"] is not None:
            ends = np.concatenate([[0], np.cumsum(inputs[port["counted_by"]])])
            first, last = ends[start], ends[min(stop, len(ends) - 1)]
        part = (slice(None),) * port["axis"] + (slice(first, last),)
        taken[port["name"]] = array[part] if port["batched"] else array
    return taken


def pasts(session):
    """The inputs that hold what earlier calls left behind."""
    return [port for port in session.get_inputs() if port.shape[1:2] == ["past"]]


def run(session, manifest, inputs, batch=256):
    n = rows_in(manifest["inputs"], inputs)
    names = [port["name"] for port in manifest["outputs"]]
    parts = []
    for i in range(0, n, batch):
        given = take(manifest["inputs"], inputs, i, i + batch)
        given |= {p.name: np.zeros((min(batch, n - i), 0, *p.shape[2:]), np.float32) for p in pasts(session)}
        parts.append(session.run(names, given))
    return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}


def check_golden(session, manifest):
    golden = np.load(HERE / "golden.npz", allow_pickle=False)
    inputs = {port["name"]: golden["input." + port["name"]] for port in manifest["inputs"]}
    share = manifest["golden_tolerance"]
    worst = 0.0
    for name, values in run(session, manifest, inputs).items():
        expected = golden["output." + name]
        if values.shape != expected.shape or not np.isfinite(values).all():
            raise Wrong(f"'{name}' has shape {values.shape}, expected {expected.shape}, or is not finite")
        largest = max(float(np.abs(expected).max()), 1e-12)
        worst = max(worst, float(np.abs(values - expected).max()) / largest)
    if worst > share:
        raise Wrong(f"golden outputs differ by {worst:.2g} of the largest answer; allowed is {share:g}")
    return f"golden outputs differ by {worst:.2g} of the largest answer (allowed {share:g})"


def check_memory(session, manifest):
    """In two calls, of which the second goes on from what the first left behind, the answers are those of one call."""
    golden = np.load(HERE / "golden.npz", allow_pickle=False)
    inputs = {port["name"]: golden["input." + port["name"]] for port in manifest["inputs"]}
    names = [port["name"] for port in manifest["outputs"]]
    half = next(iter(inputs.values())).shape[1] // 2
    (past,) = pasts(session)
    empty = np.zeros((rows_in(manifest["inputs"], inputs), 0, *past.shape[2:]), np.float32)
    *first, memory = session.run([*names, "memory"], {k: v[:, :half] for k, v in inputs.items()} | {past.name: empty})
    second = session.run(names, {k: v[:, half:] for k, v in inputs.items()} | {past.name: memory})
    worst = 0.0
    for name, early, late, whole in zip(names, first, second, run(session, manifest, inputs).values()):
        found = np.concatenate([early, late], 1)
        worst = max(worst, float(np.sqrt(np.mean((found - whole) ** 2) / max(np.mean(whole**2), 1e-12))))
    if not worst <= manifest["golden_tolerance"]:
        raise Wrong(f"in two calls the answers differ by {worst:.2g} (root mean square) from those in one")
    return f"it goes on from its memory: in two calls the answers differ by {worst:.2g} (root mean square)"


def read_data(path, manifest):
    try:
        with np.load(path, allow_pickle=False) as stored:
            data = {name: stored[name] for name in stored.files}
    except (OSError, ValueError) as error:
        raise Wrong(f"{path} cannot be read as an npz file: {error}") from error
    ports = manifest["inputs"]
    inputs = {}
    for port in ports:
        name = port["name"]
        key = next((k for k in (name, *(("x", "x_test") if len(ports) == 1 else ())) if k in data), None)
        if key is None:
            raise Wrong(f"{path} has no array '{name}'; it has {', '.join(data) or 'none'}")
        array = data[key].astype(port["dtype"])
        fixed = [-1 if size is None else size for size in port["shape"]]
        if port["batched"]:
            fixed.insert(port["axis"], len(array))
        try:
            inputs[name] = array if array.ndim == len(fixed) else array.reshape(fixed)
        except ValueError as error:
            raise Wrong(f"'{key}' has rows of shape {array.shape[1:]}, the model takes {port['shape']}") from error
    target = next((data[k] for k in ("y", "y_test") if k in data), None)
    return inputs, target


def as_indices(target, labels):
    """Class indices, from labels, or from indices if no label is a whole number: the labels decide what a number means,
    never the targets that happen to be there.
    """
    places = {label: i for i, label in enumerate(labels)}
    if not any(label.strip().lstrip("+-").isdecimal() for label in labels):
        places.update((str(i), i) for i in range(len(labels)))
    words = []
    for value in (np.char.decode(target, "utf-8", "replace") if target.dtype.kind == "S" else target).tolist():
        word = str(value)
        if word not in places and isinstance(value, (bool, float)) and float(value).is_integer():
            word = str(int(value))  # a class that was stored as 3.0, or as True
        if word not in places:
            raise Wrong(f"'{word}' in y is no label of this model; its labels are {', '.join(labels[:10])}")
        words.append(word)
    return np.array([places[word] for word in words])


def area(positive, scores):
    """Under the ROC curve: how often a positive row has the higher score, a tie counting half."""
    ranked = np.sort(scores[~positive])
    below = np.searchsorted(ranked, scores[positive], "left") + np.searchsorted(ranked, scores[positive], "right")
    return float(below.mean() / 2 / len(ranked))


def metric(name, answers, inputs, target, labels, unit=()):
    if name == "mse" and target is None and not len(unit):
        target = next(iter(inputs.values()))
    if target is None:
        raise Wrong("the data hold no targets 'y', so there is no metric to compute")
    if len(target) != len(answers):
        raise Wrong(f"there are {len(target)} targets for {len(answers)} rows")
    if name == "accuracy" and target.ndim == 2 and target.shape[1] > 1:
        return float(((answers > 0.5) == (target > 0.5)).mean())
    if name == "accuracy":
        return float((answers.argmax(1) == as_indices(target.reshape(-1), labels)).mean())
    if name == "exact_match":  # a target of -1 is no step
        return float(((answers.argmax(2) == target) | (target < 0)).all(1).mean())
    if name == "nats_per_character":
        words = json.loads((HERE / "tokenizer.json").read_text(encoding="utf-8"))
        tokens = [*words.get("answers", words)["tokens"], ""]  # the last one is the mark that ends an answer
        there = target >= 0
        characters = sum(max(1, len(tokens[token])) for token in target[there])
        nats = np.take_along_axis(answers, np.maximum(target, 0)[..., None], 2)[..., 0]
        return float(-nats[there].astype(float).sum() / characters)
    if name == "roc_auc":
        positive = as_indices(target.reshape(-1), labels)
        if set(positive) != {0, 1}:
            raise Wrong(f"y holds {sorted(set(positive))[:5]}; it is 0 or '{labels[0]}' and 1 or '{labels[1]}', some of both")
        return area(positive == 1, answers)
    if name in ("rmse", "mse", "mse_to_clean"):
        error = answers.astype(float) - target.reshape(answers.shape)
        if len(unit):  # of each channel, so that all weigh alike
            error = error / np.reshape(unit, (-1, *[1] * (error.ndim - 2)))
        error = float((error ** 2).mean())
        return error**0.5 if name == "rmse" else error
    raise Wrong(f"the metric {name} of this model is not one that this script computes (accuracy, rmse, mse, mse_to_clean, roc_auc, nats_per_character, exact_match)")


def own_metric(found, target, labels):
    """By metric.py, which a bundle has if its metric is not one of those above."""
    if target is None:
        raise Wrong("the data hold no targets 'y', so there is no metric to compute")
    rows = len(next(iter(found.values())))
    if len(target) != rows:
        raise Wrong(f"there are {len(target)} targets for {rows} rows")
    try:
        return runpy.run_path(str(HERE / "metric.py"))["metric"](found, target, labels)
    except ValueError as error:
        raise Wrong(f"metric.py refuses these data: {error}") from error


def check_metric(session, manifest, path):
    inputs, target = read_data(path, manifest)
    found, wanted = run(session, manifest, inputs), manifest["metric"]
    answers = found["score"] if wanted["name"] == "roc_auc" else next(iter(found.values()))
    if "metric.py" in manifest["sha256"]:
        value = own_metric(found, target, manifest["labels"])
    else:
        value = metric(wanted["name"], answers, inputs, target, manifest["labels"], wanted.get("unit", ()))
    rows, test = f"on {len(answers)} rows of {path}", wanted.get("test")
    if not test:
        return f"{wanted['name']} {value:.4f} {rows}; without a test score the manifest promises no interval"
    promise = f"{test['value']:.4f} ({test['low']:.4f} to {test['high']:.4f}, n = {test['n']})"
    low, high = own_interval(wanted["name"], value, len(answers), test)
    told = f"{wanted['name']} {value:.4f} {rows}" + (f" ({low:.4f} to {high:.4f})" if low < high else "")
    slack = 1e-6 * max(1.0, abs(test["value"]))  # another processor rounds otherwise
    if high < test["low"] - slack or low > test["high"] + slack or value != value:
        raise Wrong(f"{told} is outside of what the manifest promises, {promise}")
    return f"{told} is as the manifest promises, {promise}"


def own_interval(name, value, n, test):
    """The 95 % interval of a metric on n rows that are fewer than those of test, else the value itself. Wilson's for
    shares; of others it is the promised one, widened for the smaller number of rows.
    """
    if n >= test["n"]:
        return value, value
    if name in ("accuracy", "exact_match"):
        z2 = 1.96**2
        centre = (value + z2 / (2 * n)) / (1 + z2 / n)
        half = 1.96 / (1 + z2 / n) * (value * (1 - value) / n + z2 / (4 * n * n)) ** 0.5
        return min(value, centre - half), max(value, centre + half)
    wider = (test["n"] / n) ** 0.5
    return value - wider * (test["high"] - test["value"]), value + wider * (test["value"] - test["low"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="an npz file with inputs and targets")
    wanted = parser.parse_args()
    try:
        manifest = read_manifest()
        for check in (check_digest, check_hashes, check_sizes, check_labels):
            print("ok   ", check(manifest))
        session = open_model(manifest)
        print("ok   ", check_golden(session, manifest))
        if pasts(session):
            print("ok   ", check_memory(session, manifest))
        if wanted.data:
            print("ok   ", check_metric(session, manifest, wanted.data))
    except (Wrong, OSError) as wrong:
        print("WRONG", wrong)
        return 1
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        print("WRONG", f"a file of the bundle is not what this script reads ({type(error).__name__}: {error})")
        return 1
    except CANNOT_RUN as error:
        print("WRONG", f"onnxruntime cannot run model.onnx: {error}")
        return 1
    print("note  ", "nobody has signed this bundle, so compare this digest with the one in the report or the run:")
    print("      ", manifest["digest"])
    print("verified")
    return 0


if __name__ == "__main__":
    sys.exit(main())
