"""Run the model: raw features in, answers out. Put your own rows in `inputs`."""
import json
import pathlib

import numpy as np
import onnxruntime

here = pathlib.Path(__file__).resolve().parent
manifest = json.loads((here / "manifest.json").read_text(encoding="utf-8"))
options = onnxruntime.SessionOptions()
for key, value in manifest["session_options"].items():
    options.add_session_config_entry(key, value)
session = onnxruntime.InferenceSession(str(here / "model.onnx"), options, providers=["CPUExecutionProvider"])
golden = np.load(here / "golden.npz", allow_pickle=False)
inputs = {port["name"]: golden["input." + port["name"]] for port in manifest["inputs"]}  # (rows, ...) each
answers = dict(zip([port["name"] for port in manifest["outputs"]], session.run(None, inputs)))
for name, values in answers.items():
    print(name, np.array2string(values[0], precision=4, threshold=16))
    if manifest["labels"] and values.shape[1:] == (len(manifest["labels"]),):
        print("the first row is most like:", manifest["labels"][int(values[0].argmax())])
