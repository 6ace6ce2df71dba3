"""Score rows: how unlike normal each is, and whether it is above the threshold.

    python run.py                                  the few rows that the bundle brings
    python run.py mine.npz                         an array with the input's name, or x
    python run.py mine.npz --threshold 0.8 --json

Needs numpy and onnxruntime.
"""
import argparse
import json
import pathlib

import numpy as np
import onnxruntime

HERE = pathlib.Path(__file__).resolve().parent


def rows_of(path, port, parser):
    """(n, ...) rows of the input, from an npz file; the golden rows without one."""
    if path is None:
        return np.load(HERE / "golden.npz", allow_pickle=False)["input." + port["name"]]
    try:
        with np.load(path, allow_pickle=False) as stored:
            name = next((name for name in (port["name"], "x", "x_test") if name in stored.files), None)
            if name is None:
                parser.error(f"{path} has no array '{port['name']}'; it has {', '.join(stored.files) or 'none'}")
            rows = stored[name]
    except (OSError, ValueError, AttributeError) as error:
        parser.error(f"{path} cannot be read as an npz file: {error}")
    try:
        return rows.astype(port["dtype"]).reshape(len(rows), *port["shape"])
    except (ValueError, TypeError) as error:
        parser.error(f"'{name}' of {path} has rows of shape {rows.shape[1:]}, the model takes {port['shape']}: {error}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="an npz file with rows")
    parser.add_argument("--threshold", type=float, help="instead of the bundle's own")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row")
    wanted = parser.parse_args()
    manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
    calibration, (port,) = manifest["calibration"], manifest["inputs"]
    threshold = calibration["threshold"] if wanted.threshold is None else wanted.threshold
    rows = rows_of(wanted.data, port, parser)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for setting in manifest["session_options"].items():
        options.add_session_config_entry(*setting)
    session = onnxruntime.InferenceSession(str(HERE / "model.onnx"), options, providers=["CPUExecutionProvider"])
    for start in range(0, len(rows), 256):
        (scores,) = session.run([calibration["output"]], {port["name"]: rows[start : start + 256]})
        for row, score in enumerate(scores.tolist(), start):
            label = calibration["above"] if score > threshold else calibration["below"]
            if wanted.json:
                print(json.dumps({"row": row, "score": score, "threshold": threshold, "label": label}))
            else:
                print(f"row {row}: score {score:.4g}, {label} (threshold {threshold:.4g})")


if __name__ == "__main__":
    main()
