"""Run the model: raw features in, answers out. Put your own rows in `inputs`, by name, as README.md says."""
import json
import pathlib

import numpy as np
import onnxruntime

here = pathlib.Path(__file__).resolve().parent
manifest = json.loads((here / "manifest.json").read_text(encoding="utf-8"))
options = onnxruntime.SessionOptions()
for setting in manifest["session_options"].items():
    options.add_session_config_entry(*setting)
session = onnxruntime.InferenceSession(str(here / "model.onnx"), options, providers=["CPUExecutionProvider"])
golden = np.load(here / "golden.npz", allow_pickle=False)
inputs = {port.name: golden["input." + port.name] for port in session.get_inputs()}
for port, values in zip(session.get_outputs(), session.run(None, inputs)):
    print(port.name, "of the first row:", values[0], "of the classes", manifest["labels"] or "none")
