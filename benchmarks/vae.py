"""The variational half of the family `autoencoder`: what a search finds where every code is drawn.

A family by its path: `searchkit search --space benchmarks/vae.py`.
"""

from dataclasses import replace

from searchkit.core.data_spec import DataSpec
from searchkit.core.space import Trial
from spaces import autoencoder


def sample(trial: Trial, spec: DataSpec) -> autoencoder.Arch:
    return replace(autoencoder.sample(trial, spec), variational=True)


SPACE = replace(autoencoder.SPACE, name="vae", sample=sample)
