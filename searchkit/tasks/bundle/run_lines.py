"""Ask the model of lines of text: an answer for each.

    python run.py "How far is it from Denver to Aspen ?" "Who was Galileo ?"
    python run.py < lines.txt

Needs numpy and onnxruntime.
"""
import argparse
import json
import pathlib
import sys

import numpy as np
import onnxruntime

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import tokenizer  # the file beside this one


def inputs_of(lines, words):
    """Tokens, padded with 0 at the end, and their lengths. What is longer than the network takes is cut."""
    rows = [words.encode(line)[: words.steps] for line in lines]
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, numbers in zip(tokens, rows):
        row[: len(numbers)] = numbers
    return {"tokens": tokens, "lengths": np.array([len(row) for row in rows], np.int64)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="*", help="lines of text; without any, standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    wanted = parser.parse_args()
    lines = [line.strip() for line in wanted.lines or sys.stdin if line.strip()]
    if not lines:
        parser.error("there is no text; give some lines")
    manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for setting in manifest["session_options"].items():
        options.add_session_config_entry(*setting)
    session = onnxruntime.InferenceSession(str(HERE / "model.onnx"), options, providers=["CPUExecutionProvider"])
    given = inputs_of(lines, tokenizer.load(HERE / "tokenizer.json"))
    (answers,) = session.run(None, {port.name: given[port.name] for port in session.get_inputs()})
    for line, answer in zip(lines, answers):
        best = int(answer.argmax())
        label = manifest["labels"][best] if manifest["labels"] else str(best)
        if wanted.json:
            print(json.dumps({"text": line, "label": label, "answer": [round(float(a), 6) for a in answer]}))
        else:
            print(f"{label} ({answer[best]:.1%})  {line}")


if __name__ == "__main__":
    main()
