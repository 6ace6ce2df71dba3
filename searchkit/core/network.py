"""Optional abilities of a network besides `forward`; the engine asks for protocols, never for families."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class HasMaskedHead(Protocol):
    """A network that supports masked-token pre-training."""

    def restorer(self) -> nn.Module:
        """Return a module that predicts hidden tokens.

        It shares the network's weights and adds a head, which is discarded after pre-training.

        Returns:
            A module that takes a mask, (B, L) bool, True for hidden tokens, and the network's inputs, and gives logits
            of shape (hidden tokens, vocabulary), row by row.
        """


@runtime_checkable
class HasBootstrapValue(Protocol):
    """A network of action values that defines the value of the next state for its own learning target.

    Without this protocol the target is the largest value of the target network (Q-learning).
    """

    def bootstrap(self, own_BA: Tensor, target_BA: Tensor, action_B: Tensor) -> Tensor:
        """Return the value of the next state, (B,).

        Args:
            own_BA: Action values of the next state by the network itself.
            target_BA: The same by its older copy, the target network.
            action_B: The action taken in the next state, int64.
        """


@runtime_checkable
class HasAuxLoss(Protocol):
    """A network with a loss term of its own, such as the KL divergence of a VAE."""

    def aux_loss(self) -> Tensor:
        """Return the term, a scalar, for the last forward pass in training mode; called once per pass."""


@runtime_checkable
class Variational(Protocol):
    """A network with a stochastic output, such as a VAE; in eval mode `forward` uses the mean."""

    def draw(self, *inputs: Tensor) -> tuple[Tensor, Tensor] | None:
        """Sample an output.

        Returns:
            The sampled output, and the KL divergence to the prior for each example, (B,) in nats; None if this network
            does not sample.
        """


@runtime_checkable
class HasKVCache(Protocol):
    """A network that can continue from earlier steps, such as a decoder with cached keys and values.

    A loop outside the exported graph then feeds one step at a time. The second axis of the first input counts the
    steps. The exported file takes `past`, (B, P, memory), the cache of P ≥ 0 earlier steps, and gives `memory`, (B, L,
    memory), the cache of its own steps. With an empty past it computes what `forward` does.
    """

    @property
    def memory(self) -> int:
        """Numbers that the cache holds per step."""

    def resume(self, *inputs_and_past: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the outputs for steps that follow those in the cache.

        Args:
            inputs_and_past: The inputs of `forward`, then the cache (B, P, memory).

        Returns:
            The outputs of these steps, and their cache, (B, L, memory).
        """


@runtime_checkable
class HasBranches(Protocol):
    """A block that adds what its branches compute to its input, one branch after the other.

    Without its branches such a block passes its input on, so a trained network can be made deeper with them.
    """

    def branches(self) -> tuple[nn.Module, ...]:
        """Return the branches; the last layer of each that has weights is what is added, or scales it."""
