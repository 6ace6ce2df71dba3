"""Text that a bundle's run.py writes beside what torch writes, greedily; and how near both come to the answers of test.

    python benchmarks/translations.py runs/NAME [--sentences 100] [--beam 4]

RUN is a finished run of a task whose answers are texts. The bundle is asked as a user asks it, in a process of its own;
torch has the network behind the bundle's model_fp32.onnx. Prints how many of the first sentences of test are written
alike, token by token, and BLEU with its interval, chrF and exact matches of what the bundle writes; status 1 where the
fp32 file writes anything else than torch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from searchkit.context import Context  # noqa: E402
from searchkit.core.space_file import load_space  # noqa: E402
from searchkit.data.tokenizer import Tokenizer  # noqa: E402
from searchkit.lifecycle import config_of, reopen  # noqa: E402
from searchkit.run import Run  # noqa: E402
from searchkit.tasks import registry  # noqa: E402  (found by the line above)
from searchkit.tasks.text.translations import bleu, bleu_counts, bleu_interval, chrf  # noqa: E402
from searchkit.tasks.text.writing import WritingTask  # noqa: E402


def by_torch(net: torch.nn.Module, task: WritingTask, line: str) -> list[int]:
    """The tokens of one answer, with nothing beside it that could change them."""
    assert task.data.tokenizer is not None
    words, made = Tokenizer(task.data.tokenizer), []
    tokens = words.encode(line)[: words.steps]
    while len(made) < task.words.steps - 1:
        with torch.no_grad():
            so_far = torch.tensor([[task.words.mark, *made]])
            token = int(net(torch.tensor([tokens]), torch.tensor([len(tokens)]), so_far)[0, -1].argmax())
        if token == task.words.mark:
            break
        made.append(token)
    return made


def by_bundle(folder: Path, lines: list[str], *more: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(folder / "run.py"), "--json", *more]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--sentences", type=int, default=100, help="that torch writes too")
    parser.add_argument("--beam", type=int, default=4, help="of the second figure for each measure")
    wanted = parser.parse_args()
    run = Run.open(wanted.run)
    task = registry.load(config_of(run).data.plain())
    if not isinstance(task, WritingTask):
        parser.error(f"{run.name} is a run of {task.name}, whose answers are no texts")
    reopen(run, task)
    spaces = {path.stem: path for path in (HERE.parent / "spaces").glob("*.py")}
    ctx = Context(run=run, task=task, spaces=lambda name: load_space(spaces[name]))
    manifest = json.loads((run.bundle / "manifest.json").read_text(encoding="utf-8"))
    net = ctx.network(ctx.source(run.load(manifest["artifact"])))
    sources, answers = task.sources("test"), task.wanted("test")
    some = sources[: wanted.sentences]
    expected = [by_torch(net, task, line) for line in some]
    files = {"model_fp32.onnx": 0, "model.onnx": 0}
    for name in files:
        found = by_bundle(run.bundle, some, "--model", name)
        files[name] = sum(one["tokens"] == tokens for one, tokens in zip(found, expected, strict=True))
        print(f"{name}: {files[name]} of {len(some)} sentences as torch writes them, token by token")
    for how, more in (("greedy", ()), (f"beam of {wanted.beam}", ("--beam", str(wanted.beam)))):
        written = [one["answer"] for one in by_bundle(run.bundle, sources, *more)]
        counts = bleu_counts(written, answers)
        low, high = bleu_interval(counts)
        near = float(np.mean([chrf(*pair) for pair in zip(written, answers, strict=True)]))
        exact = float(np.mean([one == other for one, other in zip(written, answers, strict=True)]))
        print(
            f"model.onnx, {how}: BLEU {bleu(counts):.2f} ({low:.2f} to {high:.2f}), chrF {near:.2f}, exact "
            f"{100 * exact:.1f} % of {len(sources)} sentences"
        )
    return 0 if files["model_fp32.onnx"] == len(some) else 1


if __name__ == "__main__":
    sys.exit(main())
