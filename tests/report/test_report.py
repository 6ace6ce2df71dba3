"""The report: what it says, that nothing from outside becomes markup, and that a browser shows it without scripts."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import optuna
import pytest
from PIL import Image
from report_run import ACCURACY, LABELS, RMSE, add_line, make_evidence, make_run

from searchkit.core.errors import BadInput
from searchkit.core.goal import Goal
from searchkit.evaluation.records import Evidence
from searchkit.report import charts, formatting, markdown
from searchkit.report import write as report
from searchkit.report.data import gather, redacted
from searchkit.report.png import png
from searchkit.report.svg import Scale, linear_ticks, spanning
from searchkit.run import Run

optuna.logging.set_verbosity(optuna.logging.WARNING)

FRECHET = Goal("frechet", "minimize")
SECTIONS = (
    "stages", "front", "distillation", "pruning", "quantization", "errors", "search", "curves", "failures", "data",
    "conditions",
)  # fmt: skip
EVIL = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
CHROMIUM = shutil.which("chromium")

EMPTY = ("No stage was applied", "was skipped", "No trial has finished", "No learning curve", "Nothing was scored")


class Page(HTMLParser):
    """What a browser would make of the page, as far as the tests ask."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Evidence, dict[str, Path]]:
    root = tmp_path_factory.mktemp("runs")
    run = make_run(root)
    evidence = make_evidence(add_line(run, ACCURACY), ACCURACY, "classes")
    return run, evidence, report.write(run, evidence, root / "reports" / run.name)


def test_every_section_is_there_and_the_page_is_small(whole):
    _, _, paths = whole
    page = Page(paths["html"].read_text())
    assert [a["id"] for a in page.named("section")] == list(SECTIONS)
    assert paths["html"].stat().st_size < 1_000_000
    assert len(page.named("svg")) == 11  # front, differences, ratios, layers, errors, history, importances, 4 of curves
    assert not any(words in page.text for words in EMPTY)  # a whole run has no empty section
    assert "pruned, step 1" in page.text and "pruned, step 3" not in page.text  # as the two steps were announced
    for section in ("Stages", "Pareto front", "Distillation", "Quantization", "Search", "Conditions"):
        assert section in paths["md"].read_text()


def test_json_is_strict_and_repeats(whole):
    run, evidence, paths = whole
    found = json.loads(paths["json"].read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert found["schema_version"] == 1
    assert found["verdict"] == report.verdict(run, evidence) == report.verdict_in(paths)
    before = {kind: path.read_bytes() for kind, path in paths.items()}
    report.write(run, evidence, paths["html"].parent)
    assert before == {kind: path.read_bytes() for kind, path in paths.items()}  # a pure function of the run
    assert sorted(p.name for p in paths["html"].parent.iterdir()) == ["report.html", "report.json", "report.md"]


def test_the_verdict_says_what_the_evidence_says(whole):
    run, evidence, _ = whole
    chosen, n = evidence.models[-1], evidence.n
    sentence = report.verdict(run, evidence)
    assert sentence.startswith("mlp-digits-7f: 40.4 KB int8 mlp network, ")
    assert f"{100 * chosen.metric.value:.1f} % [" in sentence and f"of the {n} test examples right" in sentence
    assert "worse than the fp32 winner (−" in sentence and "1.2× slower [1.2, 1.3]" in sentence
    same = replace(
        chosen,
        difference=replace(chosen.difference, indistinguishable=True, better=None),
        latency=replace(chosen.latency, verdict="no difference", ratio=0.95, low=0.94, high=1.0),
    )
    sentence = report.verdict(run, replace(evidence, models=(*evidence.models[:3], same, same)))
    assert "not distinguishable from the fp32 winner" in sentence
    assert "no measurable difference in latency (0.95× [0.94, 1.00])" in sentence
    near = replace(same, latency=replace(same.latency, high=0.96))  # measured, and too small to count
    sentence = report.verdict(run, replace(evidence, models=(*evidence.models[:3], near, near)))
    assert "less than 10 % difference in latency (0.95× [0.94, 0.96])" in sentence


def test_the_bundle_of_the_line_is_named_by_its_digest(whole, tmp_path):
    run, evidence, _ = whole
    digest = "ab" * 32
    try:
        run.write_json("bundle.json", {"artifact": evidence.chosen, "digest": digest})
        found = report.write(run, evidence, tmp_path / "own")
        run.write_json("bundle.json", {"artifact": "another", "digest": digest})
        others = report.write(run, evidence, tmp_path / "others")
    finally:
        (run.path / "bundle.json").unlink()
    assert all(digest in path.read_text() for path in found.values()) and len(found) == 3
    assert not any(digest in path.read_text() for path in others.values())


def test_stages_that_share_a_file_share_a_row(whole):
    run, evidence, _ = whole
    rows = gather(run, evidence).to_json()["stages"]
    assert [row["name"] for row in rows] == ["fp32 winner", "distilled", "pruned", "quantized"]
    assert rows[-1]["is_chosen"] and len(rows[-1]["ids"]) == 2 and rows[0]["is_reference"]


def test_front_and_history(whole):
    run, evidence, _ = whole
    found = gather(run, evidence).to_json()
    points, search = found["front"]["points"], found["search"]
    best = [p for p in points if p["on_front"]]
    for p in points:
        beaten = any(o["value"] >= p["value"] and o["cost"] <= p["cost"] and o != p for o in points)
        assert p["on_front"] != beaten
    assert max(points, key=lambda p: p["value"]) in best
    assert sum(p["chosen"] for p in points) == 1
    assert search["n_trained"] + search["n_rejected"] + search["n_failed"] == 22
    assert search["random_so_far"][-1][1] == pytest.approx(search["best_so_far"][-1][1])
    assert search["random_so_far"][0][1] == pytest.approx(np.mean([p["value"] for p in points]))


@pytest.mark.parametrize("kind", ["values", "reconstruction"])
def test_errors_of_other_kinds(tmp_path, kind):
    run = make_run(tmp_path, goal=RMSE, n_trials=3)
    evidence = make_evidence(add_line(run, RMSE), RMSE, kind)
    paths = report.write(run, evidence, tmp_path / "out")
    page = Page(paths["html"].read_text())
    assert "test RMSE" in page.text and "McNemar’s exact p" not in page.text
    ids = {a["id"] for a in page.named("title") if "id" in a}
    assert ("predicted-0-title" in ids) == (kind == "values") and ("histogram-title" in ids) == (
        kind == "reconstruction"
    )


def test_pictures_are_shown_from_within_the_page(tmp_path):
    run = make_run(tmp_path, goal=FRECHET, n_trials=3)
    evidence = make_evidence(add_line(run, FRECHET), FRECHET, "generation")
    rows = {
        name: base64.b64encode(bytes([*range(256), *range(64)])).decode() for name in ("real", "fp32 winner", "shipped")
    }
    shown = replace(evidence, pictures={"shape": [5, 8, 8, 1], "rows": rows})
    text = report.write(run, shown, tmp_path / "out")["html"].read_text()
    page = Page(text)
    images = [str(attributes["href"]) for attributes in page.named("image")]
    assert len(images) == 15 and all(image.startswith("data:image/png;base64,") for image in images)
    with Image.open(io.BytesIO(base64.b64decode(images[1].partition(",")[2]))) as second:
        assert second.mode == "L" and np.asarray(second).tobytes() == bytes(range(64, 128))
    assert "img-src data:" in text and "The top row shows real images" in page.text
    assert "test Fréchet distance" in page.text and "Precision is the share of generated images" in page.text
    without = report.write(run, evidence, tmp_path / "other")["html"].read_text()
    assert "img-src" not in without and not Page(without).named("image")


def test_a_png_is_what_its_pixels_say():
    rng = np.random.default_rng(0)
    for shape in ((3, 5, 3), (1, 1, 1), (7, 2, 1)):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        with Image.open(io.BytesIO(png(pixels.tobytes(), shape[1], shape[0], shape[2]))) as image:
            assert np.array_equal(np.asarray(image).reshape(shape), pixels)
    with pytest.raises(ValueError, match="11 bytes are no 2x2 picture of 3 channels"):
        png(bytes(11), 2, 2, 3)


def test_a_search_alone_says_so(tmp_path):
    run = make_run(tmp_path, n_trials=4)
    page = Page(report.write(run, None, tmp_path / "out")["html"].read_text())
    assert [a["id"] for a in page.named("section")] == list(SECTIONS)
    assert "search only, 4 trials" in page.text and "nothing was scored on test" in page.text
    for words_ in (
        "No stage was applied",
        "Distillation was skipped",
        "Pruning was skipped",
        "Quantization was skipped",
    ):
        assert words_ in page.text
    assert "Importances need at least 6 trained trials; there are 4." in page.text


def test_a_run_in_which_nothing_finished(tmp_path):
    run = make_run(tmp_path, n_trials=0)
    page = Page(report.write(run, None, tmp_path / "out")["html"].read_text())
    assert "no trial has finished" in page.text and "No trial has finished, so there is no Pareto front." in page.text


def test_nothing_from_outside_becomes_markup(tmp_path):
    run = make_run(tmp_path, n_trials=6, task=EVIL, command=EVIL, reason=EVIL, column=EVIL)
    run.config["name"] = EVIL
    line = add_line(run, ACCURACY, layer=EVIL, reason=EVIL)
    evidence = make_evidence(line, ACCURACY, "classes", labels=(EVIL, *LABELS[1:]))
    paths = report.write(run, evidence, tmp_path / "out")
    page = Page(paths["html"].read_text())
    assert not page.named("script") and not page.named("img") and not page.named("link") and not page.named("iframe")
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert "href" not in attributes and "src" not in attributes and "style" not in attributes
    assert page.text.count(EVIL) >= 8  # the strings themselves are all still there
    assert "<script" not in paths["md"].read_text() and "<img" not in paths["md"].read_text()
    assert json.loads(paths["json"].read_text())["labels"][0] == EVIL


def test_no_password_is_passed_on(tmp_path):
    url = "postgresql://ada:p4ss/w:rd@db.example:5432/studies?sslmode=require&password=s3cret&x=1"
    run = make_run(tmp_path, n_trials=6, command=url, reason=f"could not connect to {url}")
    run.config["question"]["storage"] = url
    evidence = make_evidence(add_line(run, ACCURACY), ACCURACY, "classes")
    for found in (None, evidence, replace(evidence, command=("searchkit", f"--storage={url}"), recipe="compact")):
        paths = report.write(run, found, tmp_path / "out")
        for path in paths.values():
            assert "w:rd" not in path.read_text() and "s3cret" not in path.read_text()
        data = json.loads(paths["json"].read_text())
        hidden = "postgresql://ada:***@db.example:5432/studies?sslmode=require&password=***&x=1"
        assert data["question"]["storage"] == hidden and hidden in data["command"]
    assert redacted("http://localhost:8080/x") == "http://localhost:8080/x" and redacted("a:b@c") == "a:b@c"


def test_policy_and_offline(whole):
    _, _, paths = whole
    text = paths["html"].read_text()
    metas = Page(text).named("meta")
    policy = next(m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"https?://|url\(|@import", text)


def test_every_table_scrolls_on_a_narrow_screen(whole):
    text = whole[2]["html"].read_text()
    open_boxes, n_tables = [], 0
    for closing, tag, given in re.findall(r"<(/?)(div|table)\b([^>]*)>", text):
        if tag == "div" and closing:
            open_boxes.pop()
        elif tag == "div":
            open_boxes.append(given)
        elif not closing:
            n_tables += 1
            assert open_boxes and 'class="scroll" tabindex="0"' in open_boxes[-1]
    assert n_tables > 8
    style = text[text.index("<style>") : text.index("</style>")]
    assert re.search(r"\.scroll\{overflow-x:auto;[^}]*max-width:100%", style)
    narrow = style[style.index("@media (max-width:700px)") :]
    assert "minmax(0,1fr)" in narrow and "td .small,thead th{white-space:normal}" in narrow


def test_accessible(whole):
    page = Page(whole[2]["html"].read_text())
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    for figure in page.named("svg"):
        assert figure["role"] == "img" and all(i in ids for i in str(figure["aria-labeledby"]).split())
    assert all(cell.get("scope") in ("col", "row") for cell in page.named("th"))
    assert page.named("html")[0]["lang"] == "en" and len(page.named("h1")) == 1


def test_colors_have_contrast():
    """WCAG 2.2: 4.5 for text, 3 for marks, in light and dark."""
    style = Path(report.__file__).with_name("style.css").read_text()
    for theme in re.findall(r":root\{([^}]*--on[^}]*)\}", style):
        colors = dict(re.findall(r"--([a-z0-9]+):(#[0-9a-f]+)", theme))
        for name in ("ink", "soft"):
            assert contrast(colors[name], colors["paper"]) >= 4.5 and contrast(colors[name], colors["panel"]) >= 4.5
        for name in ("c1", "c2", "c3", "c4", "c5", "faint"):
            assert contrast(colors[name], colors["paper"]) >= 3, name
        assert contrast(colors["on"], colors["c1"]) >= 4.5
    assert len(re.findall(r"--on:", style)) == 2


def contrast(a: str, b: str) -> float:
    def luminance(color: str) -> float:
        digits = color[1:] if len(color) == 7 else "".join(c * 2 for c in color[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_folder_that_cannot_be_written(whole, tmp_path):
    run, evidence, _ = whole
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="Cannot write the report to .*file"):
        report.write(run, evidence, tmp_path / "file")


def test_numbers_in_words():
    assert formatting.number(1234.5) == "1,234" or formatting.number(1234.5) == "1,230"
    assert formatting.number(0.0123) == "0.0123" and formatting.number(-2.0) == "−2.00" and formatting.number(0) == "0"
    assert (
        formatting.size(999) == "999 B"
        and formatting.size(12_345) == "12.3 KB"
        and formatting.size(2_500_000) == "2.50 MB"
    )
    assert formatting.metric("accuracy", 0.9724) == "97.2 %" and formatting.metric("rmse", 53.128) == "53.13"
    assert (
        formatting.signed("accuracy", -0.0031) == "−0.3 points"
        and formatting.signed("accuracy", 0.00001) == "0.0 points"
    )
    assert formatting.smaller(1000, 250) == "4.0× smaller" and formatting.smaller(10, 20) == "2.0× larger"
    assert formatting.latency({"ratio": 0.5, "low": 0.4, "high": 0.8, "verdict": "faster"}) == "2.0× faster [1.2, 2.5]"
    assert formatting.p_value(0.0004) == "< 0.001" and formatting.p_value(0.04321) == "0.043"


def test_scales_and_ticks():
    assert linear_ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0] and linear_ticks(3.0, 3.0) == [3.0]
    log = Scale(100, 10_000, 0, 200, log=True)
    assert log(1000) == pytest.approx(100) and 1000.0 in log.ticks() and log(1) == 0
    assert spanning([float("nan")], 0, 1)(0.5) == 0.5
    flat = spanning([2.0, 2.0], 0, 100)
    assert flat(2.0) == pytest.approx(50)


def test_one_point_and_none_can_be_drawn():
    assert charts.front({"points": [], "line": [], "cost": "params"}, "accuracy") == ""
    alone = {"space": "mlp", "number": 0, "value": 0.9, "cost": 10.0, "on_front": True, "chosen": True}
    assert "<svg" in charts.front({"points": [alone], "line": [], "cost": "latency_ms"}, "accuracy")
    assert charts.differences([], "accuracy") == "" and charts.curves([], "a", key="val", unit="x") == ""


def test_markdown_escapes():
    assert markdown.escaped("a|b\n<i> *x*") == r"a\|b &lt;i&gt; \*x\*"


def test_the_goal_without_evidence_is_the_searchs(tmp_path):
    found = gather(make_run(tmp_path, goal=RMSE, n_trials=3), None)
    assert found.goal == Goal("rmse", "minimize")


# ── in a browser ─────────────────────────────────────────────────────────────────────────────────────────────────────


def browse(folder: Path, page: Path, *options: str) -> str:
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}",
        # a sandboxed frame in a process of its own may come too late for the picture
        "--disable-features=IsolateSandboxedIframes", "--virtual-time-budget=5000",
        *options,
        page.resolve().as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_chromium_shows_it_without_scripts(whole, tmp_path):
    from PIL import Image

    page, picture = whole[2]["html"], tmp_path / "page.png"
    browse(tmp_path, page, "--window-size=1200,2600", f"--screenshot={picture}")
    image = Image.open(picture).convert("RGB")
    assert image.size == (1200, 2600)
    for top in range(0, 2600, 650):  # no quarter of it is blank, and text and marks have their own colors
        colors = image.crop((0, top, 1200, top + 650)).getcolors(1_000_000)
        assert colors is not None and len(colors) > 50 and max(n for n, _ in colors) < 0.97 * 1200 * 650
    blue = sum(n for n, (r, g, b) in image.getcolors(1_000_000) or [] if (r, g, b) == (0, 0x67, 0xA3))
    assert blue > 500  # the style sheet passed its policy
    for name, sandbox in (("scripts", ""), ("none", "sandbox")):  # a sandboxed frame runs no script
        address = page.resolve().as_uri()
        frame = f"<style>*{{margin:0;border:0}}</style><iframe {sandbox} width=390 height=1500 src='{address}'>"
        (tmp_path / f"{name}.html").write_text(f"<!doctype html>{frame}</iframe>")
        browse(tmp_path, tmp_path / f"{name}.html", "--window-size=500,1500", f"--screenshot={tmp_path / name}.png")
    scripts, none = (Image.open(tmp_path / f"{name}.png").convert("RGB") for name in ("scripts", "none"))
    assert scripts.tobytes() == none.tobytes() and len(none.getcolors(1_000_000) or []) > 100
    dom = browse(tmp_path, page, "--dump-dom")
    assert [a["id"] for a in Page(dom).named("section")] == list(SECTIONS)
    assert not Page(dom).named("script")
