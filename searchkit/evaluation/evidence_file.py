"""evidence.json as it is read: checked field by field, and for what its fields say of each other. Imports no torch."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np

from searchkit.core.data_spec import brief
from searchkit.core.errors import BadInput
from searchkit.core.run_files import EvidenceFile
from searchkit.core.serialization import JSON
from searchkit.run import Run

FORMAT = 2
FILE = "evidence.json"


def read_evidence(run: Run) -> dict[str, JSON] | None:
    """evidence.json; None if there is none, or one of another format, which is then made again. Raises BadInput if a
    field is missing, of another type or out of range, or if fields contradict each other.
    """
    found = run.read_json(FILE)
    if found is None or found.get("format") not in (None, FORMAT) and isinstance(found["format"], int):
        return None
    found = run.read_json(FILE, EvidenceFile)
    ids, metric = [model["id"] for model in found["models"]], found["goal"]["metric"]
    whole = all(metric in model[side] for model in found["models"] for side in ("metrics", "val"))
    for what, wrong in (
        ("'models' lacks the one that is 'chosen'", found["chosen"] not in ids),
        ("'models' lacks the one that is the 'reference'", found["reference"] not in ids),
        ("'files' lacks a hash of one of the 'models'", not set(ids) <= set(found["files"])),
        (f"a model has no '{brief(metric)}', the metric of the goal", not whole),
        ("the rows of 'pictures' have not the size of their 'shape'", not _pictures_fit(found.get("pictures"))),
        ("the rows of 'errors.confusion' are not as long as there are rows", not _is_square(found["errors"])),
        ("'errors.edges' are not one more than the bars of the histogram", not _edges_fit(found["errors"])),
    ):
        if wrong:
            raise BadInput(f"In {run.named(FILE)}, {what}; delete the file and resume the run.")
    return dict(found)


def _pictures_fit(pictures: Mapping[str, JSON] | None) -> bool:
    if pictures is None:
        return True
    size = int(np.prod(pictures["shape"]))
    try:
        return all(len(base64.b64decode(row, validate=True)) == size for row in pictures["rows"].values())
    except ValueError:
        return False


def _is_square(errors: Mapping[str, JSON]) -> bool:
    table = errors.get("confusion", ())
    return all(len(row) == len(table) for row in table)


def _edges_fit(errors: Mapping[str, JSON]) -> bool:
    return "histogram" not in errors or len(errors["edges"]) == len(errors["histogram"]) + 1
