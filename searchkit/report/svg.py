"""Small SVG figures from numbers: scales, axes and marks, and nothing that needs a script or a font.

The one idea: a figure is drawn about as wide as a phone (`WIDTH` units), so that its text is read at its own size there
and two figures stand side by side on a desk. Colors are the page's CSS variables, by class, so that dark mode and
print restyle them. Text passes through ElementTree, which escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from searchkit.report.formatting import TIMES

WIDTH = 460.0
CHARACTER = 6.6  # mean width of a character at the figures' font size, in units


@dataclass(frozen=True, slots=True)
class Scale:
    """From data in [low, high] to units in [start, end]; logarithmic if `log`. What is outside goes on the edge."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value, in units."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, 1e-300))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, n: int = 5) -> list[float]:
        """About n round numbers inside the range."""
        if not self.log:
            return [t for t in linear_ticks(self.low, self.high, n) if self.low - 1e-12 <= t <= self.high + 1e-12]
        # The coarsest set of marks that gives three ticks; from it every k-th, if there are too many.
        for marks in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [m * 10.0**d for d in decades for m in marks if self.low <= m * 10.0**d <= self.high]
            if len(found) >= 3:
                return found[:: math.ceil(len(found) / (n + 2))]
        return [self.low, self.high]


def linear_ticks(low: float, high: float, n: int = 5) -> list[float]:
    """About n round numbers that span [low, high]."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / n
    power = 10.0 ** math.floor(math.log10(rough))
    # A little slack: rounding must not skip a step, or a tick at an end, that fits exactly.
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]  # 3 × 0.1 is 0.30000000000000004


def spanning(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    log: bool = False,
    pad: float = 0.06,
    include: Sequence[float] = (),
) -> Scale:
    """A scale over the finite values with a margin. Without any, 0 to 1."""
    finite = [v for v in (*values, *include) if math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if log and low > 0:
        # On a logarithmic scale the margin is a factor.
        ratio = max((high / low) ** pad, 1.05)
        return Scale(low / ratio, high * ratio, start, end, log=True)
    margin = (high - low) * pad if high > low else max(abs(high) * 0.05, 1e-6)
    return Scale(low - margin, high + margin, start, end)


def wants_log(values: Sequence[float]) -> bool:
    """Costs that span more than a factor of 8 crowd on a linear axis."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > 8


class Figure:
    """A drawing in progress. `name` makes the ids of its title and description unique on the page."""

    def __init__(self, name: str, title: str, description: str, *, height: float) -> None:
        self.height = height
        self.root = ElementTree.Element(
            "svg",
            {
                "viewBox": f"0 0 {WIDTH:g} {height:g}",
                "role": "img",
                "aria-labeledby": f"{name}-title {name}-desc",
                "class": "figure",
            },
        )
        ElementTree.SubElement(self.root, "title", {"id": f"{name}-title"}).text = title
        ElementTree.SubElement(self.root, "desc", {"id": f"{name}-desc"}).text = description

    def add(self, tag: str, look: str, *, text: str = "", tip: str = "", **attributes: float | str) -> None:
        """One element of CSS class `look`; `tip` is shown on hover. Underscores in names stand for hyphens."""
        plain = {k.replace("_", "-"): f"{v:.2f}" if isinstance(v, float) else str(v) for k, v in attributes.items()}
        node = ElementTree.SubElement(self.root, tag, {"class": look, **plain})
        if tip:
            ElementTree.SubElement(node, "title").text = printable(tip)
        elif text:
            node.text = printable(text)

    def line(self, points: Sequence[tuple[float, float]], look: str) -> None:
        """A line through points."""
        self.add("polyline", look, points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points))

    def rule(self, start: tuple[float, float], end: tuple[float, float], look: str) -> None:
        """A straight line between two points."""
        self.add("line", look, x1=float(start[0]), y1=float(start[1]), x2=float(end[0]), y2=float(end[1]))

    def dot(self, x: float, y: float, look: str, *, r: float = 3.5, tip: str = "") -> None:
        """A disc of radius r; `tip` is shown on hover."""
        self.add("circle", look, tip=tip, cx=float(x), cy=float(y), r=float(r))

    def box(
        self, corner: tuple[float, float], size: tuple[float, float], look: str, *, tip: str = "", opacity: float = 1.0
    ) -> None:
        """A filled rectangle. size: its width and height; corner: its upper left one."""
        wide, high = max(float(size[0]), 0.0), max(float(size[1]), 0.0)
        place = {"x": float(corner[0]), "y": float(corner[1]), "width": wide, "height": high}
        self.add("rect", look, tip=tip, text="", fill_opacity=opacity, **place)

    def picture(self, corner: tuple[float, float], size: tuple[float, float], uri: str) -> None:
        """A picture of pixels, which stay squares however large it is drawn."""
        x, y, width, height = (float(v) for v in (*corner, *size))
        self.add("image", "picture", href=uri, preserveAspectRatio="none", x=x, y=y, width=width, height=height)

    def text(self, x: float, y: float, text: str, *, look: str = "label", anchor: str = "start") -> None:
        """A text; x, y is where its baseline starts, has its middle, or ends, as `anchor` says."""
        self.add("text", look, text=text, x=float(x), y=float(y), text_anchor=anchor)

    def axes(
        self, x: Scale, y: Scale, *, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]]
    ) -> None:
        """Thin grid lines with their numbers: below for x, on the left for y."""
        for value, words in y_ticks:
            self.rule((x.start, y(value)), (x.end, y(value)), "grid")
            self.text(x.start - 7, y(value) + 4, words, look="tick", anchor="end")
        for value, words in x_ticks:
            self.rule((x(value), y.start), (x(value), y.start + 4), "axis")
            self.text(x(value), y.start + 17, words, look="tick", anchor="middle")
        self.rule((x.start, y.start), (x.end, y.start), "axis")

    def titles(self, x: Scale, y: Scale, x_title: str, y_title: str) -> None:
        """What the axes measure, with units: y's above its axis, so that no text is turned."""
        self.text(0, y.end - 12, y_title, look="axis-title")
        self.text(x.end, y.start + 35, x_title, look="axis-title", anchor="end")

    def legend(self, y: float, entries: Sequence[tuple[str, str]]) -> None:
        """entries: (CSS class of the mark, words). A class with "line" in it is drawn as a line, else as a dot."""
        at = 0.0
        for look, words in entries:
            if at > 0 and at + 22 + CHARACTER * len(words) > WIDTH:
                at, y = 0.0, y + 17
            if "line" in look:
                self.rule((at, y - 4), (at + 16, y - 4), look)
            elif look == "cross":
                self.text(at + 8, y, TIMES, look="mark c2", anchor="middle")
            else:
                self.dot(at + 8, y - 4, look, r=4)
            self.text(at + 22, y, words, look="tick")
            at += 22 + CHARACTER * len(words) + 16

    def markup(self) -> str:
        """The figure as SVG."""
        return ElementTree.tostring(self.root, encoding="unicode")


COLORS = ("c1", "c2", "c3", "c4", "c5")


def color_each(names: Sequence[str]) -> dict[str, str]:
    """A color for each of several names, in their order, again from the first after the last; empty if there is one."""
    several = sorted(set(names))
    return {name: COLORS[n % len(COLORS)] for n, name in enumerate(several)} if len(several) > 1 else {}


def printable(text: str) -> str:
    """Without the control characters that markup cannot hold."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def shortened(text: str, n: int) -> str:
    """At most n characters; an ellipsis stands for the rest."""
    return text if len(text) <= n else text[: n - 1] + "…"
