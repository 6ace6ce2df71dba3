"""Environments by name: gymnasium's, with discrete actions, as numbers in and numbers out.

All randomness inside an environment follows from the seed of its episode, so an episode is known by its seed and its
actions: another process can replay it and go on. Towers et al. 2024, arXiv:2407.17032.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from searchkit.core.errors import BadInput, NotInstalled

MOST_STEPS = 1000
"""Of an episode whose environment sets no limit: an agent that walks in a circle comes to an end."""

MOST_ACTIONS = 4096
"""A network has an output for each."""


@dataclass(frozen=True)
class EnvSpec:
    """Facts about an environment that need no play.

    Attributes:
        id: Its name in gymnasium.
        features: Length of an observation vector.
        n_states: Number of states if an observation is a whole number instead; else 0.
        n_actions: Number of actions.
        first_action: The number of the first action.
        max_steps: Steps after which an episode is cut off.
        threshold: Mean return at which its authors call it solved.
    """

    id: str
    features: int
    n_states: int
    n_actions: int
    first_action: int
    max_steps: int
    threshold: float | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation."""
        return () if self.n_states else (self.features,)

    @property
    def dtype(self) -> str:
        """Type of an observation."""
        return "int64" if self.n_states else "float32"


class Environment:
    """One environment, played one episode at a time.

    Raises:
        BadInput: The name is unknown, or its actions are not discrete.
    """

    def __init__(self, id: str) -> None:
        self._env = _make(id)
        self.about = _look(id, self._env)
        self._n_steps = 0

    def reset(self, seed: int) -> np.ndarray:
        """Begin the episode of this seed; return its first observation."""
        observation, _ = self._env.reset(seed=seed)
        self._n_steps = 0
        return self._encode(observation)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool]:
        """Take an action, counted from 0.

        Returns:
            The next observation, the reward, whether the episode ended, and whether the step limit cut it off. A
            cut-off is no end that an agent could know of.
        """
        observation, reward, terminated, truncated, _ = self._env.step(action + self.about.first_action)
        self._n_steps += 1
        cut_off = not terminated and (truncated or self._n_steps >= self.about.max_steps)
        return self._encode(observation), float(reward), bool(terminated), bool(cut_off)

    def _encode(self, observation: Any) -> np.ndarray:
        if self.about.n_states:
            return np.asarray(int(observation) - int(self._env.observation_space.start), np.int64)
        if isinstance(observation, np.ndarray):
            return observation.astype(np.float32).reshape(-1)
        from gymnasium.spaces import flatten

        return np.asarray(flatten(self._env.observation_space, observation), np.float32)


def _make(id: str) -> Any:
    try:
        import gymnasium
    except ModuleNotFoundError as error:
        raise NotInstalled(
            f"The environment '{id}' is played in gymnasium, which is not installed; pip install 'searchkit[control]'."
        ) from error
    try:
        # gymnasium's checker inspects the first reset and step of every copy; it is for authors of environments.
        return gymnasium.make(id, disable_env_checker=True)
    except gymnasium.error.DependencyNotInstalled as error:
        # Caught before gymnasium's Error, of which it is a subclass.
        raise NotInstalled(f"The environment '{id}' needs a package that is not installed: {_told(error)}.") from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        # ModuleNotFoundError: for an id such as "module:Env-v0" gymnasium imports the module first.
        raise BadInput(
            f"gymnasium has no environment '{id}': {_told(error)}; name one that it has with its version, such as "
            "CartPole-v1."
        ) from error


def _told(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(". ") if str(error) else type(error).__name__


def _look(id: str, env: Any) -> EnvSpec:
    from gymnasium.spaces import Discrete, flatdim

    actions, states = env.action_space, env.observation_space
    if not isinstance(actions, Discrete):
        raise BadInput(
            f"The environment '{id}' takes actions from {actions}, and an agent of action values needs a few single "
            "ones to choose from; take an environment with discrete actions, such as CartPole-v1."
        )
    if actions.n > MOST_ACTIONS:
        raise BadInput(
            f"The environment '{id}' has {actions.n:,} actions, and a network has an output for each; take one with at "
            f"most {MOST_ACTIONS:,}."
        )
    if not states.is_np_flattenable:
        raise BadInput(
            f"The environment '{id}' shows {states}, which differs in size from step to step; take one whose "
            "observation is a vector, a picture or one of a number of states."
        )
    discrete = isinstance(states, Discrete)
    return EnvSpec(
        id=id,
        features=int(flatdim(states)),
        n_states=int(states.n) if discrete else 0,
        n_actions=int(actions.n),
        first_action=int(actions.start),
        max_steps=int(env.spec.max_episode_steps or MOST_STEPS),
        threshold=None if env.spec.reward_threshold is None else float(env.spec.reward_threshold),
    )


# ── Playing ──────────────────────────────────────────────────────────────────────────────────────────────────────────

Choose = Callable[[np.ndarray], np.ndarray]
"""Observations (n, …) to actions (n,)."""


def play(environments: Sequence[Environment], seeds: Sequence[int], choose: Choose) -> tuple[np.ndarray, np.ndarray]:
    """Play one episode for each seed, each in its own environment, all at once.

    Args:
        environments: One for each seed.
        seeds: Seeds of the episodes.
        choose: Chooses the actions of all episodes that still go on.

    Returns:
        (n,) float64 returns, the sums of rewards, and (n,) steps.
    """
    returns, steps = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    seen = [env.reset(seed) for env, seed in zip(environments, seeds, strict=True)]
    going = list(range(len(seeds)))
    while going:
        actions = choose(np.stack([seen[i] for i in going]))
        still = []
        for i, action in zip(going, actions.tolist(), strict=True):
            seen[i], reward, terminated, cut_off = environments[i].step(action)
            returns[i] += reward
            steps[i] += 1
            if not (terminated or cut_off):
                still.append(i)
        going = still
    return returns, steps


@dataclass(frozen=True)
class Episode:
    """One episode as it was played.

    Attributes:
        observations: (T + 1, …).
        actions: (T,) int64.
        rewards: (T,) float32.
        terminated: Whether it ended by itself.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool

    def values(self, discount: float) -> np.ndarray:
        """Discounted sum of the rewards from each step on, (T,) float32."""
        found = np.zeros(len(self.rewards))
        later = 0.0
        for step in reversed(range(len(self.rewards))):
            later = float(self.rewards[step]) + discount * later
            found[step] = later
        return found.astype(np.float32)


class ExplorationPolicy:
    """Explore with random linear policies.

    For each episode it draws a policy that is linear in the observation, and a rate of random actions. It sees far more
    than random actions do, which fail at once: some of its policies balance a pole (Mania et al. 2018,
    arXiv:1803.07055, found good ones by such draws alone).
    """

    def __init__(self, environment: Environment, seed: int) -> None:
        self.environment = environment
        self.about = environment.about
        first = np.concatenate([self._at_random(seed + k) for k in range(20)])
        plain = self.about.n_states > 0  # states are told apart, not measured
        self.center = np.zeros(1) if plain else first.mean(0)
        self.spread = np.ones(1) if plain else first.std(0) + 1e-6

    def _at_random(self, seed: int) -> np.ndarray:
        """Observations of the first steps of an episode of random actions."""
        generator = np.random.default_rng(seed)
        seen = [self.environment.reset(seed)]
        ended = False
        while not ended and len(seen) < 50:
            observation, _, terminated, cut_off = self.environment.step(int(generator.integers(self.about.n_actions)))
            seen.append(observation)
            ended = terminated or cut_off
        return np.stack(seen)

    def episode(self, seed: int) -> Episode:
        """Play the episode of this seed; its policy follows from the seed too."""
        generator = np.random.default_rng(seed)
        weights = generator.normal(size=(self.about.n_actions, self.about.n_states or self.about.features))
        bias, chance = generator.normal(size=self.about.n_actions), float(generator.random())
        seen, actions, rewards = [self.environment.reset(seed)], [], []
        terminated = cut_off = False
        while not (terminated or cut_off):
            if generator.random() < chance:
                action = int(generator.integers(self.about.n_actions))
            elif self.about.n_states:
                action = int(weights[:, int(seen[-1])].argmax())
            else:
                action = int((weights @ ((seen[-1] - self.center) / self.spread) + bias).argmax())
            observation, reward, terminated, cut_off = self.environment.step(action)
            seen.append(observation)
            actions.append(action)
            rewards.append(reward)
        return Episode(np.stack(seen), np.array(actions, np.int64), np.array(rewards, np.float32), terminated)
