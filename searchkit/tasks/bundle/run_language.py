"""Go on with a text, token by token, with a key/value cache: the loop around the graph.

    python run.py "The statement"
    python run.py "The statement" --length 300 --temperature 0.8 --seed 1

Without a temperature each token is the most likely one. Needs numpy and onnxruntime.
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


class Model:
    """The network, one call at a time: it takes new tokens and what the calls before left behind."""

    def __init__(self, name="model.onnx"):
        manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        for setting in manifest["session_options"].items():
            options.add_session_config_entry(*setting)
        self.session = onnxruntime.InferenceSession(str(HERE / name), options, providers=["CPUExecutionProvider"])
        self.width = next((port.shape[2] for port in self.session.get_inputs() if port.name == "past"), None)
        self.tokenizer = tokenizer.load(HERE / "tokenizer.json")

    def begin(self):
        return np.zeros((1, 0, self.width or 0), np.float32)

    def step(self, tokens, past):
        """The log-probabilities of the token after the last of `tokens`, and the past that has them too."""
        given = {"tokens": np.array([tokens], np.int64)}
        if self.width is None:  # a network without a memory reads its whole window again
            return self.session.run(["log_probabilities"], given)[0][0, -1], past
        answer, memory = self.session.run(["log_probabilities", "memory"], given | {"past": past})
        return answer[0, -1], np.concatenate([past, memory], 1)

    def go_on(self, tokens, length, choose):
        """`length` tokens that follow. When the window is full, its last half is read afresh and goes on from there."""
        window = self.tokenizer.steps
        context = list(tokens)[-window:]
        new, past = context, self.begin()
        for _ in range(length):
            answer, past = self.step(new, past)
            token = choose(answer)
            yield token
            if len(context) == window:
                context = [*context[window - window // 2 :], token]
                new, past = context, self.begin()
            else:
                context = [*context, token]
                new = context if self.width is None else [token]


def sampler(temperature, seed):
    """What chooses a token from log-probabilities: the most likely one, or one drawn."""
    if not temperature:
        return lambda answer: int(answer.argmax())
    generator = np.random.default_rng(seed)

    def draw(answer):
        weights = np.exp((answer - answer.max()).astype(float) / temperature)
        return int(generator.choice(len(weights), p=weights / weights.sum()))

    return draw


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", help="the text to go on with; without one, some of the golden rows")
    parser.add_argument("--length", type=int, default=200, help="tokens to write")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the most likely token")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="model.onnx", help="or model_fp32.onnx")
    parser.add_argument("--json", action="store_true", help="print tokens and text as JSON")
    wanted = parser.parse_args()
    model = Model(wanted.model)
    if wanted.prompt is None:
        golden = np.load(HERE / "golden.npz", allow_pickle=False)["input.tokens"][0]
        tokens = golden[: len(golden) // 2].tolist()
    else:
        tokens = model.tokenizer.encode(wanted.prompt)
    if not tokens:
        parser.error("the prompt is empty; give at least one character")
    made = list(model.go_on(tokens, wanted.length, sampler(wanted.temperature, wanted.seed)))
    text = model.tokenizer.decode(made)
    if wanted.json:
        print(json.dumps({"prompt": tokens, "tokens": made, "text": text}))
    else:
        print(model.tokenizer.decode(tokens) + text)


if __name__ == "__main__":
    main()
