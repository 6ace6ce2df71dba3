"""The variational half of the family `autoencoder`: what a search finds where every code is drawn.

A family by its path: `searchkit search --space reports/vae.py`.
"""

from dataclasses import replace

from searchkit.types import DataSpec, Trial
from spaces import autoencoder


def sample(trial: Trial, spec: DataSpec) -> autoencoder.Arch:
    return replace(autoencoder.sample(trial, spec), variational=True)


SPACE = replace(autoencoder.SPACE, name="vae", sample=sample)
