"""Answer lines of text by lines of text, token by token: the loop around the graph.

    python run.py "12 March 1998" "3/12/98"
    python run.py --beam 4 < lines.txt

Without a beam each token is the most likely one. Needs numpy and onnxruntime.
"""
import argparse
import json
import pathlib
import sys

import numpy as np
import onnxruntime

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import decoding  # the files beside this one
import tokenizer


class Model:
    """The network, the tokenizers of both sides, and the mark that begins and ends an answer."""

    def __init__(self, name="model.onnx"):
        manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        for setting in manifest["session_options"].items():
            options.add_session_config_entry(*setting)
        self.session = onnxruntime.InferenceSession(str(HERE / name), options, providers=["CPUExecutionProvider"])
        words = json.loads((HERE / "tokenizer.json").read_text(encoding="utf-8"))
        self.sources, self.words = tokenizer.Tokenizer(words), tokenizer.Tokenizer(words["answers"])
        self.mark = len(self.words.tokens)

    def answer(self, lines, beam=1, longest=None):
        """The answers' tokens. What is longer than the network takes is cut."""
        rows = [self.sources.encode(line)[: self.sources.steps] for line in lines]
        order = sorted(range(len(rows)), key=lambda k: len(rows[k]))  # little of a batch is padding
        lengths = np.array([len(rows[k]) for k in order], np.int64)
        tokens = np.zeros((len(rows), lengths.max()), np.int64)
        for row, k in zip(tokens, order):
            row[: len(rows[k])] = rows[k]

        def ask(chosen, previous):
            given = {"tokens": tokens[chosen, : lengths[chosen].max()], "lengths": lengths[chosen]}
            return self.session.run(["log_probabilities"], {**given, "previous": previous.astype(np.int64)})[0]

        longest = min(longest or self.words.steps, self.words.steps)
        if beam == 1:
            made = decoding.greedy(ask, len(rows), mark=self.mark, longest=longest)
        else:
            made = [decoding.beam(ask, k, mark=self.mark, longest=longest, width=beam) for k in range(len(rows))]
        found = [[]] * len(rows)
        for k, answer in zip(order, made):
            found[k] = answer
        return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="*", help="lines of text; without any, standard input")
    parser.add_argument("--beam", type=int, default=1, help="how many answers are followed at once")
    parser.add_argument("--length", type=int, help="tokens of an answer at most")
    parser.add_argument("--model", default="model.onnx", help="or model_fp32.onnx")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    wanted = parser.parse_args()
    if wanted.beam < 1 or (wanted.length is not None and wanted.length < 1):
        parser.error("--beam and --length are whole numbers from 1 on")
    lines = [" ".join(line.split()) for line in wanted.lines or sys.stdin if line.strip()]
    if not lines:
        parser.error("there is no text; give some lines")
    model = Model(wanted.model)
    for line, tokens in zip(lines, model.answer(lines, wanted.beam, wanted.length)):
        text = model.words.decode(tokens).strip()
        print(json.dumps({"text": line, "tokens": tokens, "answer": text}) if wanted.json else text)


if __name__ == "__main__":
    main()
