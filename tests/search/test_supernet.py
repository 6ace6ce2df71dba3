"""The strategy "supernet": a kind, the training that is taken up again, scores, and the trials that start from it."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_search import BUDGET, settings

from searchkit import lifecycle
from searchkit.config.run import RunConfig
from searchkit.config.search import SearchConfig
from searchkit.context import Context
from searchkit.core import catalogue
from searchkit.core.errors import BadInput
from searchkit.core.space import Limits
from searchkit.core.space_file import load_space
from searchkit.core.training import Training
from searchkit.nn.sharing import NORMS
from searchkit.report.starts import told_starts
from searchkit.run import Run
from searchkit.search.choices import at, like
from searchkit.search.coordinator import search
from searchkit.search.cost_model import CostModel
from searchkit.search.sampler import SearchView
from searchkit.search.starts import FACT
from searchkit.search.supernet import strategy
from searchkit.search.supernet.kind import Kind, grown, other_kinds
from searchkit.search.supernet.scoring import Judge, Scored, hunt, ranked
from searchkit.search.supernet.strategy import Supernet, spearman
from searchkit.search.supernet.training import sandwich
from searchkit.tasks import registry

CNN = load_space(Path(__file__).parents[2] / "spaces" / "cnn.py")
TASK = registry.load({"task": "digits"})
SMALL = settings(budget=replace(BUDGET, trials=3, epochs=1), strategy="supernet")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "KINDS", 1)
    monkeypatch.setattr(strategy, "MOST_SCORED", 12)


def context(root: Path) -> Context:
    run = Run.open(root / "run") if (root / "run").exists() else Run.create(root, "run", {})
    return Context(run, TASK, lambda name: CNN, seed=1, limits=Limits(params=6000), echo=lambda line: None)


def view_of(ctx: Context) -> SearchView:
    costs = CostModel(CNN, ctx, cost=None, ship_int8=False)
    return SearchView(CNN, TASK.spec, ("maximize",), 3, 3, 1, costs.weigh, costs.limited)


def kind_of(ctx: Context) -> Kind:
    view = view_of(ctx)
    (start, *_) = other_kinds(view, random.Random(0), 1)

    def fits(candidate: object) -> bool:
        weighed = view.weigh(candidate)  # type: ignore[arg-type]
        return weighed is not None and weighed[1]

    return grown(view, ctx, start, fits)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Context:
    ctx = context(tmp_path_factory.mktemp("supernet"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategy, "KINDS", 2)
        patch.setattr(strategy, "MOST_SCORED", 12)
        search(CNN, ctx, SMALL)
    return ctx


def test_the_best_scored_are_trained_on_from_the_supernet(searched: Context) -> None:
    run = searched.run
    rows = run.lines(strategy.SCORES)
    assert len(rows) == 12
    assert len({row["key"] for row in rows}) == 12
    trials = sorted(run.trials(), key=lambda a: a.made_by["number"])
    assert len(trials) == 3
    assert all(a.notes[FACT] == {"parent": "supernet", "share": 1.0} for a in trials)
    assert all(a.notes["way"] == "best by the supernet" for a in trials)
    assert all(a.metrics["params"] <= 6000 for a in trials)
    best = min(rows, key=lambda row: row["losses"])
    first = view_of(searched).draw(like(best["params"], at(0.5)), "")
    assert trials[0].arch == first.plain["arch"]


def test_the_report_says_what_was_scored_and_how_well_it_ordered(searched: Context) -> None:
    told = told_starts(searched.run)
    assert "with its weights 12 candidates were scored" in told
    assert "2 epochs" in told
    assert "the 3 trials that were trained on is" in told


def test_a_second_search_trains_and_scores_nothing_again(searched: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (searched.run.path / strategy.FILE).read_bytes()
    again = context(searched.run.path.parent)

    def refuse(*args: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(type(TASK), "fit", refuse)
    supernet = Supernet(CNN, again, SMALL, view_of(again), 0.0, (1,))
    supernet.prepare()
    assert (searched.run.path / strategy.FILE).read_bytes() == before
    assert len(searched.run.lines(strategy.SCORES)) == 12


def test_a_killed_training_goes_on_from_its_last_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for place, kill_at in (("straight", 0), ("killed", 1)):
        ctx = context(tmp_path / place)
        supernet = Supernet(CNN, ctx, SMALL, view_of(ctx), 0.0, (1,))
        save, saved = Run.save_state, [0]

        def failing(run: Run, key: str, state: object) -> None:
            save(run, key, state)  # type: ignore[arg-type] # noqa: B023
            saved[0] += 1  # noqa: B023
            if saved[0] == kill_at:  # noqa: B023
                raise KeyboardInterrupt

        monkeypatch.setattr(Run, "save_state", failing)
        if kill_at:
            with pytest.raises(KeyboardInterrupt):
                supernet.train(supernet.kind(), math.inf)
            assert saved == [1]
            supernet = Supernet(CNN, ctx, SMALL, view_of(ctx), 0.0, (1,))
        supernet.train(supernet.kind(), math.inf)
        assert saved == [2]
        monkeypatch.setattr(Run, "save_state", save)
        state = ctx.run.load_state("cnn-supernet")
        assert state is not None
        found.append(state.tensors)
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_kind_holds_what_it_draws_and_its_smallest(tmp_path: Path) -> None:
    kind = kind_of(context(tmp_path))
    sizes = {
        which: sum(p.numel() for p in kind.built(c).parameters())
        for which, c in (("l", kind.largest), ("s", kind.smallest))
    }
    assert sizes["s"] < sizes["l"] / 2
    assert sizes["l"] <= 6000
    rng = random.Random(0)
    drawn = [kind.at_random(rng) for _ in range(10)]
    drawn += [kind.near(drawn[0].params, rng) for _ in range(10)]  # type: ignore[union-attr]
    assert len({c.key for c in drawn if c}) > 5
    for candidate in drawn:
        assert candidate is not None
        assert kind.found(candidate) is not None
        assert {n: v for n, v in candidate.params.items() if n not in kind.elastic and not n.startswith("train.")} == {
            n: v for n, v in kind.params.items() if n not in kind.elastic
        }


def test_a_step_teaches_the_largest_from_the_data_and_the_others_from_it(tmp_path: Path) -> None:
    kind = kind_of(context(tmp_path))
    batch = next(iter(TASK.batches("train", Training(batch_size=32), seed=0, device="cpu")))
    net = kind.built(kind.largest).train()
    loss = sandwich(kind, TASK, seed=0)(net, batch)
    # The mean of one loss and three distances to what the largest says: at the start the loss alone is log 10.
    own = TASK.loss(net, batch)
    assert 0.25 * float(own.detach()) < float(loss.detach()) < float(own.detach())
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_statistics_are_computed_anew_for_each_candidate(tmp_path: Path) -> None:
    kind = kind_of(context(tmp_path))
    judge = Judge(kind, kind.built(kind.largest), TASK, Training(), device="cpu")
    net = judge.network(kind.smallest)
    norms = [m for m in net.modules() if isinstance(m, NORMS)]
    assert norms
    assert not net.training
    for norm in norms:
        assert norm.momentum == 0.1
        assert int(norm.num_batches_tracked) == 2  # type: ignore[arg-type]
        assert float(norm.running_mean.abs().max()) > 0  # type: ignore[union-attr]
    assert math.isfinite(judge.loss(kind.smallest))


def test_a_hunt_goes_on_as_it_would_have(tmp_path: Path) -> None:
    kind = kind_of(context(tmp_path))

    def score(candidate: object) -> Scored:
        return Scored(candidate.params, candidate.key, (float(len(candidate.key) + hash(candidate.arch.depths) % 7),))  # type: ignore[attr-defined]

    straight: list[Scored] = []
    assert len(list(hunt(kind, straight, score, n=12, seed=4))) == 12
    resumed = straight[:5]
    list(hunt(kind, resumed, score, n=12, seed=4))
    assert resumed == straight


def test_ranks() -> None:
    rows = [Scored({}, key, losses) for key, losses in (("a", (2.0, 1.0)), ("b", (1.0, 2.0)), ("c", (3.0, 3.0)))]
    assert [row.key for row in ranked(rows)] == ["b", "a", "c"]
    assert [row.key for row in ranked([replace(row, losses=row.losses[1:]) for row in rows])] == ["a", "b", "c"]
    assert spearman([(1, 1), (2, 2), (3, 3)]) == pytest.approx(1)
    assert spearman([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1)
    assert spearman([(1, 1), (2, 1), (3, 2), (4, 2)]) == pytest.approx(0.894, abs=1e-3)
    assert spearman([(1, 1), (2, 1)]) == 0


def test_a_family_that_shares_nothing_is_refused_and_those_that_do_are_named() -> None:
    config = RunConfig(search=SearchConfig(space="mlp", strategy="supernet"))
    mlp = load_space(catalogue.FAMILIES / "mlp.py")
    with pytest.raises(
        BadInput, match="'mlp', whose networks do not share weights; those that do are cnn, cnn1d, "
    ) as e:
        lifecycle.resolve(config, mlp)
    assert "\n" not in str(e.value)
    names = [name for name, path in catalogue.files(catalogue.FAMILIES).items() if load_space(path).shares is not None]
    assert catalogue.sharing(catalogue.FAMILIES) == names
    assert lifecycle.resolve(replace(config, search=SearchConfig(space="cnn", strategy="supernet")), CNN)


def test_a_supernet_is_of_one_family(tmp_path: Path) -> None:
    other = replace(CNN, name="other")
    config = RunConfig(search=SearchConfig(space="cnn,other", strategy="supernet"))
    with pytest.raises(BadInput, match="this search has cnn, other; name one of them") as e:
        lifecycle.resolve(config, CNN, other)
    assert "\n" not in str(e.value)
    with pytest.raises(BadInput, match="has cnn, other; name one of them"):
        search([CNN, other], context(tmp_path), SMALL)
    with pytest.raises(BadInput, match="share no weights"):
        search(replace(CNN, shares=None), context(tmp_path), SMALL)


@pytest.mark.parametrize("strategy", ["inherit", "supernet"])
def test_weights_of_a_file_and_a_strategy_exclude_each_other(strategy: str) -> None:
    with pytest.raises(BadInput, match="both say which weights networks start from; leave one of them out") as e:
        SearchConfig(space="cnn", strategy=strategy, init_from="runs/first")
    assert "\n" not in str(e.value)
    assert SearchConfig(space="cnn", init_from="runs/first").strategy == "trials"
