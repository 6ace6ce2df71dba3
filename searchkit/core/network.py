"""What a network may offer beside `forward`; the engine asks by protocol, never by family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class HasMaskedHead(Protocol):
    """A network that can learn to tell what was hidden of its inputs."""

    def restorer(self) -> nn.Module:
        """A module over the network's own weights, and others that end with the pre-training: (B, L) bool, where tokens
        are hidden, and the network's inputs -> (n hidden, vocabulary) logits, row by row.
        """


@runtime_checkable
class HasBootstrapValue(Protocol):
    """A network of action values that says by itself what the state after an action is worth, which its own values are
    learnt from. Without it the largest of the target's values is.
    """

    def bootstrap(self, own_BA: Tensor, target_BA: Tensor, action_B: Tensor) -> Tensor:
        """(B,) from the values of the state after: the network's own and those of its older copy, the target; and the
        action, int64, that was taken there.
        """


@runtime_checkable
class HasAuxLoss(Protocol):
    """A network with a loss term of its own (a VAE's KL): read once after each forward pass in training mode."""

    def aux_loss(self) -> Tensor: ...


@runtime_checkable
class Variational(Protocol):
    """A network whose answer may be drawn, a VAE's from its code; in eval mode `forward` answers from the mean."""

    def draw(self, *inputs: Tensor) -> tuple[Tensor, Tensor] | None:
        """A drawn answer, and of each example the divergence of what it was drawn from to its prior, (B,) nats. None
        where this network draws nothing.
        """


@runtime_checkable
class HasKVCache(Protocol):
    """A network that goes on where an earlier call stopped (a decoder with its keys and values), so that a loop outside
    the exported graph gives it one step at a time. Its first input has the steps on its second axis.

    The exported file then takes `past`, (B, P, memory), the memories of the P ≥ 0 steps before, and gives `memory`,
    (B, L, memory), those of its own steps: with no past it computes what `forward` does.
    """

    @property
    def memory(self) -> int:
        """Numbers that a step leaves behind."""

    def resume(self, *inputs_and_past: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives for these steps after those of the past, and their memory."""
