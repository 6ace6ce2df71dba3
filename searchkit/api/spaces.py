"""The families of networks, the packaged tasks, and a network of a family by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchkit.core import catalogue
from searchkit.core.errors import BadInput
from searchkit.core.space import Space

if TYPE_CHECKING:
    from torch import nn

    from searchkit.core.data_spec import DataSpec

MODALITIES = {1: "tabular", 2: "series", 3: "image", 4: "voxels"}
"""What an input of so many axes is, without the axis of the examples."""


def list_spaces(pattern: str = "*") -> list[str]:
    """List the architecture families.

    Args:
        pattern: a shell pattern that the names must match, such as "cnn*".

    Returns:
        The names, sorted. `search` and `create_model` take each of them.
    """
    return [name for name in catalogue.files(catalogue.FAMILIES) if fnmatchcase(name, pattern)]


def list_tasks() -> dict[str, str]:
    """List the packaged tasks.

    Returns:
        A description of one line by name. `search(task=...)` takes each name.
    """
    from searchkit.tasks.registry import names

    return names()


def load_space(space: str | Path | Space) -> Space:
    """Load a family by its name, or from a file of your own.

    Args:
        space: a name (see `list_spaces`), the path of a `.py` file that ends in `SPACE = Space(...)`, or a `Space`.

    Returns:
        The family. Loading runs its file's code.

    Raises:
        BadInput: no family has this name, or the file cannot be loaded.
    """
    from searchkit.core.space_file import load_space as load

    return space if isinstance(space, Space) else load(catalogue.find(catalogue.FAMILIES, str(space)))


def name_of(space: str | Path | Space) -> str:
    """The name of a family as a run keeps it: its own, or the path of its file.

    Raises:
        BadInput: the family has no file, so that no worker process and no resumed run could load it.
    """
    if not isinstance(space, Space):
        path = catalogue.find(catalogue.FAMILIES, str(space))
    else:
        file = inspect.getsourcefile(space.sample)
        if file is None or not Path(file).is_file():
            raise BadInput(f"The family '{space.name}' has no file; save it as a .py file that ends in SPACE.")
        path = Path(file).resolve()
    return path.stem if path.parent == catalogue.FAMILIES else str(path)


def searched(space: str | Path | Space | Sequence[str | Path | Space]) -> tuple[str, Callable[[str], Space]]:
    """The families that `search` is given, as its configuration names them, and what loads each of them.

    Args:
        space: a family, a text as the command line's `--space` takes it, or several families.

    Raises:
        BadInput: a family is unknown or has no file, or none is given.
    """
    if isinstance(space, str):
        return space, load_space
    several: Sequence[str | Path | Space] = [space] if isinstance(space, (Path, Space)) else list(space)
    if not several:
        raise BadInput(f"space={space!r} names no family; give a name, several, or 'all'.")
    values = {name_of(one): one for one in several}
    if len(values) < len(several):
        raise BadInput(f"A space is named twice in space={[name_of(one) for one in several]}; name each family once.")
    return ",".join(values), lambda name: load_space(values.get(name, name))


def create_model(
    space: str | Path | Space,
    *,
    input_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    num_targets: int | None = None,
    point: str | None = None,
    seed: int = 0,
    **arch: Any,
) -> nn.Module:
    """Create one untrained network of a family.

    Args:
        space: a family (see `load_space`).
        input_shape: the shape of one example: (features,), (C, L) for a series, (C, H, W) for an image, (C, D, H, W)
            for voxels. None takes the family's default task for the input and the output.
        num_classes: the number of classes to tell apart.
        num_targets: the number of values to predict, in place of num_classes.
        point: the name of a published network that the family has, such as "resnet-20". None takes the middle of each
            range that the family samples from.
        seed: of the initial weights.
        **arch: fields of the architecture to set, such as `widths=(16, 32)`.

    Returns:
        The network in training mode. It takes (B, *input_shape) float32 and gives logits or values.

    Raises:
        BadInput: a name or a field is unknown, the family is not for such data, or no such network can exist.
    """
    from dataclasses import fields, replace

    from searchkit.core.errors import Infeasible
    from searchkit.core.random_state import seeded

    family = load_space(space)
    spec = _spec(family, input_shape, num_classes, num_targets)
    if (reason := family.accepts(spec)) is not None:
        raise BadInput(f"The space '{family.name}' is not for such data: {reason}.")
    if point is not None and point not in family.points:
        known = ", ".join(family.points) or "none"
        raise BadInput(f"The space '{family.name}' has no point '{point}'; its points are {known}.")
    known_fields = [field.name for field in fields(family.arch)]
    unknown = sorted(set(arch) - set(known_fields))
    if unknown:
        raise BadInput(f"An architecture of '{family.name}' has no '{unknown[0]}'; it has {', '.join(known_fields)}.")
    chosen = replace(_middle(family, spec) if point is None else family.points[point], **arch)
    try:
        with seeded(seed):
            return family.build(chosen, spec)
    except Infeasible as error:
        raise BadInput(f"The space '{family.name}' cannot build this network: {error}.") from error


def _middle(family: Space, spec: DataSpec) -> Any:
    """The architecture in the middle of each range that the family samples from."""
    from searchkit.search.candidates import draw
    from searchkit.search.choices import at

    candidate = draw(family, spec, at(0.5), epochs=family.budget.epochs, way="middle")
    if candidate.arch is None:
        raise BadInput(f"The space '{family.name}' has no network in its middle for such data; name a point.")
    return candidate.arch


def _spec(
    family: Space, input_shape: Sequence[int] | None, num_classes: int | None, num_targets: int | None
) -> DataSpec:
    from searchkit.core.data_spec import DataSpec, TensorSpec

    if input_shape is None:
        if num_classes is not None or num_targets is not None:
            raise BadInput("The number of outputs goes with the shape of an input; give input_shape too.")
        from searchkit.tasks import registry

        return registry.load({"task": family.task}).spec
    if (num_classes is None) == (num_targets is None):
        raise BadInput("A network predicts classes or values; give num_classes or num_targets, one of them.")
    shape = tuple(int(size) for size in input_shape)
    if len(shape) not in MODALITIES or min(shape) < 1 or (num_classes or num_targets or 0) < 1:
        raise BadInput(f"An input of shape {shape} is unknown; it is (features,), (C, L), (C, H, W) or (C, D, H, W).")
    # a problem of two classes has one logit, as a task has it
    output = TensorSpec("values", (num_targets,))
    if num_classes is not None:
        output = TensorSpec("logits", (1 if num_classes == 2 else num_classes,))
    modality = MODALITIES[len(shape)]
    return DataSpec(modality, (TensorSpec(modality, shape),), (output,), n_classes=num_classes or 0)
