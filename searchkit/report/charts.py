"""The report's figures: each a pure function from the plain data of report.json to SVG, or "" if there is nothing.

Every figure says in its description what it shows, for who cannot see it, and repeats no number that a table near it
gives. Colors follow Okabe and Ito (2008), so that none is told from another by hue alone if vision differs; shapes,
dashes and words tell them apart too.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence

from searchkit.report import formatting
from searchkit.report.png import data_uri
from searchkit.report.rows import CurveRow, FileRow, FrontRows, HistoryRows, LayerRow, PictureRows, PointRow
from searchkit.report.svg import WIDTH, Figure, Scale, color_each, shortened, spanning, wants_log

LEFT, RIGHT, TOP = 58.0, WIDTH - 12, 34.0

Mark = tuple[str, formatting.Estimate, str]
"""A name, its estimate with the interval, and the CSS class of its color."""


def _value_ticks(scale: Scale, metric: str) -> list[tuple[float, str]]:
    ticks = scale.ticks()
    if metric not in formatting.SHARES:
        return [(t, formatting.short(t)) for t in ticks]
    fine = len(ticks) > 1 and ticks[1] - ticks[0] < 0.01
    return [(t, f"{100 * t:.1f}" if fine else f"{100 * t:.0f}") for t in ticks]


def _axis_name(metric: str) -> str:
    return formatting.metric_name(metric) + (", %" if metric in formatting.SHARES else "")


def front(found: FrontRows, metric: str) -> str:
    """Metric against cost, both on val: the trials, the front's line, and the way of the stages to what is shipped."""
    points = found["points"]
    if not points:
        return ""
    name, line, looks = found["cost"], found["line"], color_each([p["space"] for p in points])
    costs = [p["cost"] for p in points] + [p["cost"] for p in line]
    log = wants_log(costs)
    height = 340.0 if looks else 320.0
    x = spanning(costs, LEFT, RIGHT, log=log, pad=0.05)
    y = spanning(_main_body([p["value"] for p in points], [p["value"] for p in line]), 248.0, TOP)
    best = sorted((p for p in points if p["on_front"]), key=lambda p: p["cost"])
    figure = Figure(
        "front", "Pareto front",
        f"Validation {formatting.metric_name(metric)} against {formatting.COSTS[name]} of {len(points)} trials; "
        f"{len(best)} {'is' if len(best) == 1 else 'are'} on the front, and one is marked as chosen.",
        height=height,
    )  # fmt: skip
    figure.axes(x, y, x_ticks=[(t, _cost_tick(name, t)) for t in x.ticks(4)], y_ticks=_value_ticks(y, metric))
    unit = formatting.COSTS[name] + (", logarithmic" if log else "")
    figure.titles(x, y, unit, f"validation {_axis_name(metric)}")
    for p in (p for p in points if not p["on_front"]):
        look = f"ring {looks[p['space']]}" if looks else "dot faint"
        figure.dot(x(p["cost"]), y(p["value"]), look, r=3.2, tip=_trial_tip(p, metric, name))
    figure.line([(x(p["cost"]), y(p["value"])) for p in best], "line faint" if looks else "line c1")
    for p in best:
        look = f"dot {looks.get(p['space'], 'c1')}"
        figure.dot(x(p["cost"]), y(p["value"]), look, r=4, tip=_trial_tip(p, metric, name))
    way = "faint" if looks else "c2"  # with several families, a color is a family's
    figure.line([(x(p["cost"]), y(p["value"])) for p in line], f"line {way} dashed")
    for step in line[1:]:
        tip = f"{step['stage']}: {formatting.cost(name, step['cost'])}"
        figure.dot(x(step["cost"]), y(step["value"]), f"dot {way}", r=4, tip=tip)
    for p in (p for p in points if p["chosen"]):
        figure.dot(x(p["cost"]), y(p["value"]), "ring c1", r=8)
    entries = [("dot c1", "on the front"), ("dot faint", "dominated"), ("ring c1", "chosen")]
    if looks:
        entries = [*_families(looks), ("ring faint", "dominated"), ("line faint", "the front")]
    figure.legend(height - 6 - 17 * bool(looks), [*entries, *[(f"line {way} dashed", "its stages")] * (len(line) > 1)])
    return figure.markup()


def _families(looks: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(f"dot {look}", shortened(family, 18)) for family, look in looks.items()]


def _main_body(values: Sequence[float], always: Sequence[float]) -> list[float]:
    """Without the far outliers, which are drawn at the edge: a trial that learnt nothing would flatten all others."""
    ordered = sorted(values)
    if len(ordered) < 8:
        return [*values, *always]
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    reach = 3 * (high - low) or math.inf  # if half of them are equal, none is far off
    return [v for v in values if low - reach <= v <= high + reach] + list(always)


def _cost_tick(name: str, value: float) -> str:
    if name == "size_bytes":
        return f"{value / 1e3:.3g} KB" if value < 1e6 else f"{value / 1e6:.3g} MB"
    return formatting.short(value)


def _trial_tip(point: PointRow, metric: str, name: str) -> str:
    of = f"trial {point['number']} of {point['space']}"
    return f"{of}: {formatting.metric(metric, point['value'])}, {formatting.cost(name, point['cost'])}"


def differences(rows: Sequence[FileRow], metric: str) -> str:
    """Each stage's difference to the fp32 winner with its interval, around the line of no difference."""
    scale = 100 if metric in formatting.SHARES else 1
    compared = [(row["name"], row["difference"]) for row in rows if not row["is_reference"]]
    marks: list[Mark] = [
        (name, found, "c3" if found["indistinguishable"] else _good(bool(found["better"]))) for name, found in compared
    ]
    unit = "points" if metric in formatting.SHARES else f"in {formatting.metric_name(metric)}"
    told = "; ".join(f"{name} {formatting.difference(metric, found)}" for name, found, _ in marks)
    figure = Figure(
        "differences", "Paired difference to the fp32 winner on test", told, height=TOP + 46 + 34.0 * len(marks)
    )
    return _forest(figure, marks, 0.0, f"difference to the fp32 winner, {unit}", scale=scale)


def ratios(rows: Sequence[FileRow]) -> str:
    """Each stage's latency as a ratio to the fp32 winner's, around 1."""
    timed = [(row["name"], row["latency"]) for row in rows if not row["is_reference"]]
    marks: list[Mark] = [
        (name, {"value": found["ratio"], "low": found["low"], "high": found["high"]}, _speed(found["verdict"]))
        for name, found in timed
    ]
    told = "; ".join(f"{name}: {formatting.latency(found)}" for name, found in timed)
    figure = Figure("ratios", "Latency as a ratio to the fp32 winner", told, height=TOP + 46 + 34.0 * len(marks))
    return _forest(figure, marks, 1.0, "latency, ratio to the fp32 winner; left is faster")


def _good(better: bool) -> str:
    return "c1" if better else "c2"


def _speed(verdict: str) -> str:
    return "c3" if verdict == "no difference" else _good(verdict == "faster")


def _forest(figure: Figure, marks: Sequence[Mark], zero: float, unit: str, *, scale: float = 1) -> str:
    """Points with their intervals, one line each, around the dashed line at `zero`."""
    if not marks:
        return ""
    bottom = figure.height - 46
    x = spanning([v for _, f, _ in marks for v in (f["low"], f["high"])], 112.0, RIGHT, include=(zero,), pad=0.1)
    y = Scale(0, len(marks), TOP, bottom)
    for t in x.ticks(5):
        if abs(t - zero) > 1e-12:
            figure.rule((x(t), TOP - 6), (x(t), bottom), "grid")
        figure.text(x(t), bottom + 16, f"{scale * t:.6g}".replace("-", formatting.MINUS), look="tick", anchor="middle")
    figure.rule((x(zero), TOP - 6), (x(zero), bottom), "zero")
    figure.text(RIGHT, bottom + 36, unit, look="axis-title", anchor="end")
    for index, (name, found, look) in enumerate(marks):
        at = y(index + 0.5)
        figure.text(0, at + 4, shortened(name, 16), look="label")
        figure.rule((x(found["low"]), at), (x(found["high"]), at), f"bar-line {look}")
        figure.dot(x(found["value"]), at, f"dot {look}", r=5)
    return figure.markup()


def history(found: HistoryRows, metric: str) -> str:
    """Trials in order, the best so far, and what the same trials in random order would have had by then."""
    trials = found["trials"]
    looks = color_each([t["space"] for t in trials])
    scored = [value for t in trials if (value := t["value"]) is not None]
    if not scored:
        return ""
    height = 310.0
    numbers = [t["number"] for t in trials]
    x = Scale(min(numbers) - 0.5, max(numbers) + 0.5, LEFT, RIGHT)
    steps = found["best_so_far"]
    y = spanning(_main_body(scored, [v for _, v in steps]), height - 72, TOP)
    figure = Figure(
        "history", "Search history",
        f"Validation {formatting.metric_name(metric)} of {len(scored)} scored trials in order, with the best so far "
        "and the best so far expected of the same trials in random order.", height=height,
    )  # fmt: skip
    whole = [t for t in linear_numbers(numbers) if x.low <= t <= x.high]
    figure.axes(x, y, x_ticks=[(t, f"{t:g}") for t in whole], y_ticks=_value_ticks(y, metric))
    figure.titles(x, y, "trial", f"validation {_axis_name(metric)}")
    for t in trials:
        if t["value"] is None:
            figure.text(x(t["number"]), y.start - 3, formatting.TIMES, look="mark c2", anchor="middle")
        else:
            look = f"{'dot' if t['whole'] else 'ring'} {looks.get(t['space'], 'faint')}"
            tip = f"trial {t['number']} of {t['space']}: {formatting.metric(metric, t['value'])}"
            figure.dot(x(t["number"]), y(t["value"]), look, r=3, tip=tip)
    figure.line([(x(n), y(v)) for n, v in found["random_so_far"]], "line c3 dashed")
    stairs = [(x(steps[0][0]), y(steps[0][1]))] if steps else []
    for (_, before), (n, v) in zip(steps, steps[1:], strict=False):
        stairs += [(x(n), y(before)), (x(n), y(v))]
    figure.line([*stairs, (RIGHT, stairs[-1][1])] if stairs else [], "line c1")
    entries = [("line c1", "best so far"), ("line c3 dashed", "same trials, random order"), ("dot faint", "whole")]
    if any(t["value"] is not None and not t["whole"] for t in trials):
        entries.append(("ring faint", "stopped at a rung"))
    if any(t["value"] is None for t in trials):
        entries.append(("cross", "rejected or failed"))
    figure.legend(height - 23, [*entries, *_families(looks)])
    return figure.markup()


def linear_numbers(numbers: Sequence[int]) -> list[int]:
    """At most nine round whole numbers that span these: trials on an axis."""
    span = max(numbers) - min(numbers)
    step = max(1, next(m * 10**d for d in range(9) for m in (1, 2, 5) if span / (m * 10**d) <= 8))
    return [n for n in range(0, max(numbers) + 1, step) if n >= min(numbers)]


def curves(rows: Sequence[CurveRow], name: str, *, key: str, unit: str, log: bool = False) -> str:
    """`key` (loss or val) by epoch; those marked `named` have a color and a name, the others are faint."""
    drawn = [(row, [(p["epoch"], p[key]) for p in row["points"] if p.get(key) is not None]) for row in rows]
    drawn = [(row, points) for row, points in drawn if points]
    if not drawn:
        return ""
    height = 280.0
    values = [v for _, points in drawn for _, v in points]
    log = log and wants_log(values)
    last = max(e for _, points in drawn for e, _ in points)
    x = Scale(0, max(last, 1), LEFT, RIGHT)
    y = spanning(
        values if log else _main_body(values, [points[-1][1] for _, points in drawn]), height - 88, TOP, log=log
    )
    figure = Figure(
        name,
        f"{unit} by epoch",
        f"{unit} by epoch of " + ", ".join(row["name"] for row, _ in drawn) + ".",
        height=height,
    )
    y_ticks = [(t, formatting.short(t)) for t in y.ticks()] if key == "loss" else _value_ticks(y, drawn[0][0]["metric"])
    figure.axes(x, y, x_ticks=[(t, f"{t:g}") for t in linear_numbers([0, int(last)])], y_ticks=y_ticks)
    figure.titles(x, y, "epoch", unit + (", logarithmic" if log else ""))
    looks = ["c1", "c2", "c3 dashed", "c4", "c5 dashed"]
    named: list[tuple[str, str]] = []
    for row, points in drawn:
        look = f"line {looks[len(named)]}" if row["named"] and len(named) < len(looks) else "line faint"
        figure.line([(x(e), y(v)) for e, v in points], look)
        if len(points) == 1:
            figure.dot(x(points[0][0]), y(points[0][1]), look.replace("line", "dot"), r=3)
        if look != "line faint":
            named.append((look, shortened(row["name"], 24)))
    figure.legend(height - 23, named)
    return figure.markup()


def bars(rows: Sequence[tuple[str, float]], name: str, title: str, unit: str) -> str:
    """Horizontal bars from 0 to 1, the longest first."""
    if not rows:
        return ""
    height = 30 + 22.0 * len(rows)
    x = Scale(0, max(1e-9, max(v for _, v in rows)), 178, RIGHT - 42)
    figure = Figure(name, title, "; ".join(f"{label} {v:.2f}" for label, v in rows), height=height)
    figure.text(0, 13, unit, look="axis-title")
    for index, (label, value) in enumerate(rows):
        top = 24 + 22.0 * index
        figure.text(168, top + 12, shortened(label, 25), look="label", anchor="end")
        figure.box((178, top + 2), (x(value) - 178, 13), "fill c1")
        figure.text(x(value) + 6, top + 12, f"{value:.2f}", look="tick")
    return figure.markup()


def confusion(table: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Rows are the truth, columns the answer. Shade is the share of the row; cells have their count if it fits."""
    n = len(table)
    cell = min(44.0, (WIDTH - 96) / n)
    left, top = 92.0, 52.0
    height = top + cell * n + 12
    right = sum(table[i][i] for i in range(n))
    figure = Figure(
        "confusion", "Confusion matrix",
        f"{right} of {sum(map(sum, table))} test examples are on the diagonal of correct predictions.",
        height=height,
    )  # fmt: skip
    figure.text(left, 14, "answer →", look="axis-title")
    figure.text(0, 14, "truth ↓", look="axis-title")
    fits = max(2, int(cell // 6.4))
    every = max(1, math.ceil(12 / cell))
    for i, row in enumerate(table):
        total = max(1, sum(row))
        if i % every == 0:
            figure.text(left - 8, top + cell * (i + 0.5) + 4, shortened(labels[i], 12), look="tick", anchor="end")
            figure.text(left + cell * (i + 0.5), top - 8, shortened(labels[i], fits), look="tick", anchor="middle")
        for j, value in enumerate(row):
            share = value / total
            look = "cell right" if i == j else "cell wrong"
            tip = f"{labels[i]} answered as {labels[j]}: {value} of {total}"
            # Errors are mostly small shares of their row and would hardly be seen: their shares are tripled.
            shade = 0.0 if value == 0 else 0.12 + 0.88 * share if i == j else 0.25 + 0.75 * min(1.0, 3 * share)
            figure.box((left + cell * j, top + cell * i), (cell - 1, cell - 1), "cell", tip=tip)
            if value:
                figure.box((left + cell * j, top + cell * i), (cell - 1, cell - 1), look, tip=tip, opacity=shade)
            if value and cell >= 15:
                strong = "on" if shade > 0.55 else ""
                middle = (left + cell * (j + 0.5), top + cell * (i + 0.5) + 4)
                figure.text(*middle, str(value), look=f"count {strong}", anchor="middle")
    return figure.markup()


def predicted(points: Sequence[Sequence[float]], name: str, target: str) -> str:
    """Prediction against truth on one scale, with the line of perfect answers."""
    if not points:
        return ""
    height = 380.0
    values = [v for pair in points for v in pair]
    x, y = spanning(values, LEFT, RIGHT), spanning(values, height - 50, TOP)
    figure = Figure(
        name, f"Predicted against true {target}", f"{len(points)} test examples; the line is a perfect prediction.",
        height=height,
    )  # fmt: skip
    ticks = [(t, formatting.short(t)) for t in x.ticks()]
    figure.axes(x, y, x_ticks=ticks, y_ticks=ticks)
    figure.titles(x, y, f"true {target}", f"predicted {target}")
    figure.rule((x(x.low), y(y.low)), (x(x.high), y(y.high)), "zero")
    for truth, given in points:
        figure.dot(
            x(truth),
            y(given),
            "dot c1 thin",
            r=3,
            tip=f"true {formatting.number(truth, 4)}, predicted {formatting.number(given, 4)}",
        )
    return figure.markup()


def by_step(lines: Mapping[str, Sequence[float]], unit: str) -> str:
    """What each step to come is off by, the shipped file first."""
    height = 280.0
    values = [value for line in lines.values() for value in line]
    last = max(len(line) for line in lines.values())
    x, y = Scale(1, max(last, 2), LEFT, RIGHT), spanning([0.0, *values], height - 88, TOP)
    figure = Figure(
        "by-step", "Error by forecast step", f"{unit} of {last} steps to come: " + ", ".join(lines) + ".",
        height=height,
    )  # fmt: skip
    ticks = [(float(n), str(n)) for n in linear_numbers([1, max(last, 2)])]
    figure.axes(x, y, x_ticks=ticks, y_ticks=[(t, formatting.short(t)) for t in y.ticks()])
    figure.titles(x, y, "step to come", unit)
    looks = ["line c1", "line c2", "line c3 dashed", "line c4", "line c5 dashed"][: len(lines)]
    for line, look in zip(lines.values(), looks, strict=False):
        figure.line([(x(step), y(value)) for step, value in enumerate(line, 1)], look)
    figure.legend(height - 23, [(look, shortened(name, 24)) for look, name in zip(looks, lines, strict=False)])
    return figure.markup()


def histogram(counts: Sequence[int], edges: Sequence[float], unit: str) -> str:
    """How many test examples have a score between two edges. unit: what the scores are."""
    height = 260.0
    x, y = Scale(edges[0], edges[-1], LEFT, RIGHT), Scale(0, max(counts) * 1.05, height - 50, TOP)
    figure = Figure(
        "histogram", f"Single test examples: {unit}", f"{sum(counts)} examples in {len(counts)} bins.", height=height
    )
    figure.axes(
        x, y, x_ticks=[(t, formatting.short(t)) for t in x.ticks()], y_ticks=[(t, f"{t:g}") for t in y.ticks(4)]
    )
    figure.titles(x, y, unit, "test examples")
    for value, low, high in zip(counts, edges, edges[1:], strict=False):
        tip = f"{formatting.number(low)} to {formatting.number(high)}: {value}"
        figure.box((x(low) + 0.5, y(value)), (x(high) - x(low) - 1, y.start - y(value)), "fill c1", tip=tip)
    return figure.markup()


def pictures(found: PictureRows) -> str:
    """found: `evidence.pictures`: a row of pictures for each of its rows, under its name."""
    n, high, wide, channels = found["shape"]
    gap = 2.0
    side = min(WIDTH / n - gap, 72.0)
    tall = side * high / wide
    height = len(found["rows"]) * (tall + 30)
    figure = Figure("pictures", "Pictures", f"{n} pictures a row: {', '.join(found['rows'])}.", height=height)
    for index, (name, encoded) in enumerate(found["rows"].items()):
        top, pixels, size = index * (tall + 30), base64.b64decode(encoded), high * wide * channels
        figure.text(0, top + 14, name, look="axis-title")
        for k in range(n):
            uri = data_uri(pixels[k * size : (k + 1) * size], wide, high, channels)
            figure.picture((k * (side + gap), top + 20), (side, tall), uri)
    return figure.markup()


TICK_CHARACTER = 7.0
"""Width of a digit in the style of ticks, at most."""


def layers(rows: Sequence[LayerRow]) -> str:
    """Parameters of each layer before (outline) and after (filled) pruning."""
    if not rows:
        return ""
    height = 34 + 22.0 * len(rows)
    labels = [f"{row['params_before']:,} → {row['params_after']:,}" for row in rows]
    room = 12 + TICK_CHARACTER * max(map(len, labels))
    x = Scale(0, max(1.0, *(row["params_before"] for row in rows)), 150, RIGHT - room)
    figure = Figure(
        "layers", "Layers before and after pruning",
        "; ".join(f"{row['name']} {row['params_before']:,} to {row['params_after']:,}" for row in rows), height=height,
    )  # fmt: skip
    figure.text(0, 13, "parameters: outline before, filled after", look="axis-title")
    for index, (row, label) in enumerate(zip(rows, labels, strict=True)):
        top = 26 + 22.0 * index
        figure.text(142, top + 12, shortened(row["name"], 21), look="label", anchor="end")
        figure.box((150, top + 2), (x(row["params_before"]) - 150, 13), "outline")
        figure.box((150, top + 2), (x(row["params_after"]) - 150, 13), "fill c1")
        figure.text(x(row["params_before"]) + 6, top + 12, label, look="tick")
    return figure.markup()
