"""seq2seq: no step of an answer sees a later one, both sides are cut together, the bundle writes what torch does."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from isolated_python import python

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.errors import Infeasible
from searchkit.core.serialization import freeze
from searchkit.core.space_file import load_space
from searchkit.core.training import FitPlan, Training, TrainState
from searchkit.data.tokenizer import Tokenizer
from searchkit.nn.attention import CrossAttention
from searchkit.nn.parts import surrogates
from searchkit.nn.sequence import valid_steps
from searchkit.nn.surgery import apply_edits_, drops, mask_edits_, prunable_groups
from searchkit.onnx import io as onnx_io
from searchkit.onnx import measure
from searchkit.onnx.parity import parity
from searchkit.onnx.predictor import OnnxPredictor, TorchPredictor
from searchkit.run import Run
from searchkit.stages.export import Export
from searchkit.stages.pipeline import apply
from searchkit.stages.promote import Promote
from searchkit.stages.quantize import Quantize
from searchkit.tasks import registry
from searchkit.tasks.text.dates import dates
from searchkit.tasks.text.decoding import greedy

SPACE = load_space(Path(__file__).parents[2] / "spaces" / "seq2seq.py")
SOURCE, ANSWER, TOKENS, CLASSES = 13, 9, 30, 20
SPEC = DataSpec(
    "tokens",
    (
        TensorSpec("tokens", (SOURCE,), "int64"),
        TensorSpec("lengths", (), "int64"),
        TensorSpec("previous", (ANSWER,), "int64"),
    ),
    (TensorSpec("logits", (ANSWER, CLASSES)),),
    CLASSES,
    vocabulary=TOKENS,
)
ARCHS = [
    SPACE.arch(width=32, heads=4, depth=2, ffn=2, positions="learned"),
    SPACE.arch(width=32, heads=2, depth=1, tied=False),
    SPACE.arch(kind="gru", width=32, heads=4, depth=2, score="dot"),
    SPACE.arch(kind="gru", width=32, heads=2, depth=1, score="additive", tied=False),
]
IDS = ["transformer", "transformer-untied", "gru-dot", "gru-additive"]


def network(arch: Any) -> Any:
    torch.manual_seed(0)
    net = SPACE.build(arch, SPEC).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # away from the start, where every answer is nearly equal odds
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return net


def rows(n: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(TOKENS, (n, SOURCE), generator=generator)
    return tokens, torch.tensor([SOURCE, 5, 1, 8])[:n], torch.randint(CLASSES, (n, ANSWER), generator=generator)


@pytest.mark.parametrize("arch", ARCHS, ids=IDS)
def test_no_step_of_an_answer_sees_a_later_one(arch: Any) -> None:
    net, (tokens, lengths, previous) = network(arch), rows()
    other = previous.clone()
    other[:, 4] = (other[:, 4] + 1) % CLASSES
    with torch.no_grad():
        before, after = net(tokens, lengths, previous), net(tokens, lengths, other)
        short = net(tokens, lengths, previous[:, :4])
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=1e-5)
    torch.testing.assert_close(before[:, :4], short, rtol=0, atol=1e-5)
    assert (before[:, 4:] - after[:, 4:]).abs().amax((0, 2)).min() > 1e-5


@pytest.mark.parametrize("arch", ARCHS, ids=IDS)
def test_every_step_sees_all_of_the_source_and_nothing_behind_it(arch: Any) -> None:
    net, (tokens, lengths, previous) = network(arch), rows()
    with torch.no_grad():
        before = net(tokens, lengths, previous)
        behind = tokens.clone()
        behind[1, 5:] = 0
        torch.testing.assert_close(net(behind, lengths, previous), before, rtol=0, atol=1e-5)
        torch.testing.assert_close(net(tokens[1:2, :5], lengths[1:2], previous[1:2])[0], before[1], rtol=0, atol=1e-5)
        within = tokens.clone()
        within[1, 4] = (within[1, 4] + 1) % TOKENS
        after = net(within, lengths, previous)
    assert (after[1] - before[1]).abs().amax(1).min() > 1e-5
    assert torch.equal(after[0], before[0])


@pytest.mark.parametrize("arch", ARCHS, ids=IDS)
def test_both_sides_are_cut_together_and_again(arch: Any) -> None:
    """Widths, heads and hidden units; a cut network has the answers of the masked one where no norm is in the way, and
    is built again from its edits."""
    net, x = network(arch), rows()
    before = measure.params(net)
    groups, refused = prunable_groups(net, x)
    assert not refused
    sides = {(member.name, member.side) for group in groups for member in group.members}
    cross = "attention" if arch.kind == "gru" else "decoder.0.cross"
    assert {(cross, "in"), (cross, "out"), (cross, "inner"), ("embedding", "out"), ("answer_embedding", "out")} <= sides
    shared = next(group for group in groups if (cross, "in") in {(m.name, m.side) for m in group.members})
    names = {member.name for member in shared.members}
    assert ("bridge" if arch.kind == "gru" else "norm_memory") in names  # what the encoder gives
    assert ("decoder.0.forwards" if arch.kind == "gru" else "decoder.0.norm_cross") in names  # and what looks at it
    made = drops([(group, [0]) for group in groups])
    masked = copy.deepcopy(net)
    mask_edits_(masked, made)
    apply_edits_(net, made)
    assert measure.params(net) < before
    with torch.no_grad():
        cut = net(*x)
        if arch.kind == "gru":
            torch.testing.assert_close(cut, masked(*x), rtol=1e-4, atol=1e-4)
    other = SPACE.build(arch, SPEC)
    apply_edits_(other, made)
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval()(*x), cut)


def test_cross_attention_is_the_formula() -> None:
    torch.manual_seed(0)
    x, memory = torch.randn(1, 4, 8), torch.randn(1, 5, 8)
    keep = valid_steps(memory, torch.tensor([3]))
    for score in ("dot", "additive"):
        attention = CrossAttention(8, heads=2, score=score).eval()
        q = attention.q(x)[0].view(4, 2, 4).transpose(0, 1)
        k, v = (linear(memory)[0].view(5, 2, 4).transpose(0, 1) for linear in (attention.k, attention.v))
        if score == "dot":
            scores = q @ k.transpose(1, 2) / 2
        else:
            assert attention.score is not None
            units = attention.score.view(2, 1, 1, 4)
            scores = (torch.tanh(q[:, :, None] + k[:, None]) * units).sum(3)
        weights = scores.masked_fill(~keep[:, None, :], float("-inf")).softmax(2)
        expected = attention.proj((weights @ v).transpose(0, 1).reshape(4, 8))
        torch.testing.assert_close(attention(x, memory, keep)[0], expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(attention(x, memory[:, :3], None)[0], expected, rtol=1e-4, atol=1e-6)
        before = attention(x, memory, keep)
        cut = copy.deepcopy(attention)
        cut.cut_inner_([1])
        assert cut.n_inner == 1 and not torch.allclose(cut(x, memory, keep), before)
        with surrogates():
            assert attention(x, memory, keep).shape == x.shape
    with pytest.raises(ValueError, match="No score named 'cosine'; they are dot, additive"):
        CrossAttention(8, heads=2, score="cosine")


def test_refuses_what_it_cannot_do() -> None:
    language = DataSpec(
        "tokens", (TensorSpec("tokens", (40,), "int64"),), (TensorSpec("logits", (40, 9)),), 9, vocabulary=9
    )
    assert SPACE.accepts(SPEC) is None and "--problem translation" in (SPACE.accepts(language) or "")
    for other in ("gpt", "transformer", "rnn", "mlp"):
        assert load_space(Path(__file__).parents[2] / "spaces" / f"{other}.py").accepts(SPEC) is not None, other
    with pytest.raises(Infeasible, match="a width of 30 cannot be split into 4 heads"):
        SPACE.build(SPACE.arch(width=30), SPEC)


# ── The bundle ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=[0, 2], ids=["transformer", "gru"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A small network after two epochs on some dates, and its bundle in fp32."""
    folder = tmp_path_factory.mktemp("seq2seq")
    pairs = dates(600, seed=1)
    lines = [f"{source}\t{answer}" for source, answer in zip(pairs.sources, pairs.answers, strict=True)]
    (folder / "dates.txt").write_text("\n".join(lines), encoding="utf-8")
    task = registry.load({"data": str(folder / "dates.txt"), "kind": "transcription"})
    arch, training = ARCHS[request.param], Training(lr=5e-3, epochs=2, batch_size=32)
    torch.manual_seed(0)
    net = SPACE.build(arch, task.spec)
    task.fit(net, FitPlan(training, seed=0, until=2), TrainState())
    with torch.no_grad():
        for parameter in net.parameters():  # so short a training writes one date alone; noise has more to say
            parameter.add_(0.1 * torch.randn(parameter.shape))
    run = Run.create(folder, "run", {})
    ctx = Context(run, task, lambda name: SPACE, echo=lambda line: None)
    draft = Artifact("trial", "seq2seq", freeze(arch), freeze(training), (), {"stage": "Trial", "number": 0}, None)
    trial = run.save(draft, weights=net.state_dict(), log=[])
    apply((Promote(), Export()), trial, ctx)
    return SimpleNamespace(ctx=ctx, trial=trial, net=net.eval(), task=task, folder=folder, bundle=run.bundle)


def by_torch(net: Any, task: Any, line: str) -> list[int]:
    """The bundle's loop, for one sentence and by torch."""
    words, mark = Tokenizer(task.data.tokenizer), task.words.mark
    tokens = words.encode(line)[: words.steps]
    made: list[int] = []
    while len(made) < task.words.steps - 1:
        with torch.no_grad():
            out = net(torch.tensor([tokens]), torch.tensor([len(tokens)]), torch.tensor([[mark, *made]]))
        token = int(out[0, -1].argmax())
        if token == mark:
            break
        made.append(token)
    return made


def told(*arguments: Any) -> list[dict[str, Any]]:
    done = python(*arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_bundle_writes_what_torch_writes(written: SimpleNamespace) -> None:
    lines = written.task.sources("val")[:40]
    answers = told(written.bundle / "run.py", *lines, "--json")
    assert [row["text"] for row in answers] == lines
    expected = [by_torch(written.net, written.task, line) for line in lines]
    assert [row["tokens"] for row in answers] == expected
    assert [row["answer"] for row in answers] == [written.task.words.text(tokens) for tokens in expected]
    assert len({row["answer"] for row in answers}) > 5
    predictor = TorchPredictor(written.ctx.deployed(written.net), written.task.inputs, written.task.answers)
    assert written.task.write(predictor, "val", 40) == [row["answer"] for row in answers]


def test_what_is_scored_in_one_pass_is_what_greedy_decoding_writes(written: SimpleNamespace) -> None:
    predictor = OnnxPredictor(written.bundle / "model.onnx")
    found = written.task.evaluate(predictor, "val")
    answers = written.task.write(predictor, "val")
    right = [one == other for one, other in zip(answers, written.task.wanted("val"), strict=True)]
    assert found.scores.tolist() == [float(one) for one in right]
    assert found.metrics["exact_match"] == np.mean(right)


def test_a_beam_finds_what_is_at_least_as_likely(written: SimpleNamespace) -> None:
    lines = written.task.sources("val")[:6]
    single, several = (told(written.bundle / "run.py", *lines, "--json", *more) for more in ((), ("--beam", "5")))

    def likelihood(row: dict[str, Any]) -> float:
        words, mark = Tokenizer(written.task.data.tokenizer), written.task.words.mark
        tokens, answer = words.encode(row["text"]), row["tokens"]
        with torch.no_grad():
            inputs = torch.tensor([tokens]), torch.tensor([len(tokens)]), torch.tensor([[mark, *answer]])
            out = written.net(*inputs)[0].log_softmax(-1)
        ended = [*answer, mark] if len(answer) < written.task.words.steps - 1 else answer
        total = sum(float(out[step, token]) for step, token in enumerate(ended))
        return total / ((5 + len(ended)) / 6) ** 0.6

    pairs = [(likelihood(a), likelihood(b)) for a, b in zip(single, several, strict=True)]
    assert np.mean([b for _, b in pairs]) >= np.mean([a for a, _ in pairs]) - 1e-5
    assert told(written.bundle / "run.py", lines[0], "--json", "--beam", "1") == single[:1]
    assert python(written.bundle / "run.py", lines[0], "--beam", "0").returncode == 2
    assert all(len(row["tokens"]) <= 3 for row in told(written.bundle / "run.py", *lines, "--json", "--length", "3"))


def test_the_bundle_verifies_itself_and_its_metric(written: SimpleNamespace, tmp_path: Path) -> None:
    done = python(written.bundle / "verify.py")
    assert done.returncode == 0, done.stdout
    raw, target = written.task.raw("val"), written.task.data.target_of("val")
    np.savez(tmp_path / "mine.npz", **raw, y=target)
    expected = written.task.evaluate(OnnxPredictor(written.bundle / "model.onnx"), "val").metrics["exact_match"]
    done = python(written.bundle / "verify.py", "--data", tmp_path / "mine.npz")
    assert f"exact_match {expected:.4f} on {len(target)} rows" in done.stdout, done.stdout
    changed = shutil.copytree(written.bundle, tmp_path / "changed")
    (changed / "decoding.py").write_text("")
    assert "decoding.py has changed" in python(changed / "verify.py").stdout


def test_the_file_takes_any_batch_and_any_two_lengths(written: SimpleNamespace) -> None:
    session = onnx_io.session(written.bundle / "model.onnx")
    shapes = {port.name: port.shape for port in (*session.get_inputs(), *session.get_outputs())}
    assert shapes["tokens"] == ["batch", "length"] and shapes["previous"] == ["batch", "steps"]
    assert shapes["log_probabilities"][:2] == ["batch", "steps"]
    own = TorchPredictor(written.ctx.deployed(written.net), written.task.inputs, written.task.answers)
    raw = written.task.raw("val")
    for n, source, answer in ((1, 1, 1), (3, 7, 7), (5, 4, 9), (2, 12, 2)):
        given = {
            "tokens": raw["tokens"][:n, :source],
            "lengths": np.minimum(raw["lengths"][:n], source),
            "previous": raw["previous"][:n, :answer],
        }
        assert parity(OnnxPredictor(written.bundle / "model.onnx"), own, given).agrees


def test_int8_files_write_too(written: SimpleNamespace, tmp_path: Path) -> None:
    """As fp32 does in nearly all steps: what static int8 sees of a score does not reach to the mask's −∞ (seen before
    that was so: .6). Each a smaller file."""
    fp32 = written.bundle / "model_fp32.onnx"
    before = written.task.evaluate(OnnxPredictor(fp32), "val")
    there = before.targets >= 0
    for method, least in {"static": 0.85, "dynamic": 0.85, "weight-only": 0.95}.items():
        Quantize()._write(method, fp32, tmp_path / f"{method}.onnx", written.ctx)
        found = written.task.evaluate(OnnxPredictor(tmp_path / f"{method}.onnx"), "val")
        alike = float(np.mean((found.decisions == before.decisions)[there]))
        assert alike > least, (method, alike)
        assert (tmp_path / f"{method}.onnx").stat().st_size < fp32.stat().st_size


def test_greedy_asks_only_for_what_is_open() -> None:
    """A source whose answer has ended is not asked for again, and none is longer than the longest."""
    asked = []

    def ask(chosen: np.ndarray, previous: np.ndarray) -> np.ndarray:
        asked.append(chosen.tolist())
        out = np.zeros((len(chosen), previous.shape[1], 3))
        for answer, source, so_far in zip(out, chosen, previous, strict=True):
            assert so_far[0] == 2
            answer[-1, 2 if len(so_far) - 1 == source else 1] = 1.0  # source k is answered by k ones
        return out

    assert greedy(ask, 4, mark=2, longest=2) == [[], [1], [1, 1], [1, 1]]
    assert asked == [[0, 1, 2, 3], [1, 2, 3]]
