"""The Transformer block of the families: pre-norm self-attention and a feed-forward network.

Vaswani et al. 2017, arXiv:1706.03762; norms before the branches as in Xiong et al. 2020, arXiv:2002.04745.
"""

from __future__ import annotations

from torch import Tensor, nn

from searchkit.core.errors import Infeasible
from searchkit.nn.attention import Attention
from searchkit.nn.blocks.layers import activation


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)): (B, L, D) -> (B, L, D).

    Linear weights are initialized by Xavier, biases to 0.

    Args:
        width: Width D, a multiple of `heads`.
        heads: Number of attention heads.
        ffn: Width of the feed-forward network as a multiple of `width`.
        nonlinearity: Activation of the feed-forward network, a name that `activation` takes.
        dropout: Dropout of the attention weights and of both branches.
        distances: Kind of relative-position term, see `searchkit.nn.attention.Attention`.

    Raises:
        Infeasible: If the width cannot be split into the heads.
    """

    def __init__(
        self, width: int, *, heads: int, ffn: int, nonlinearity: str, dropout: float, distances: str = ""
    ) -> None:
        super().__init__()
        if width % heads:
            raise Infeasible(f"a width of {width} cannot be split into {heads} heads")
        # Not nn.TransformerEncoder, of which torch-pruning 1.6 shrinks only the feed-forward networks and embeddings.
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads=heads, dropout=dropout, distances=distances)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, ffn * width), activation(nonlinearity), nn.Linear(ffn * width, width))
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x_BLD: Tensor, keep_BL: Tensor | None) -> Tensor:
        """Run the block.

        Args:
            x_BLD: Steps.
            keep_BL: Bool, False for steps that nothing may attend to; or None.
        """
        x_BLD = x_BLD + self.dropout(self.attention(self.norm_attention(x_BLD), keep_BL))
        out: Tensor = x_BLD + self.dropout(self.ffn(self.norm_ffn(x_BLD)))
        return out

    def branches(self) -> tuple[nn.Module, ...]:
        """Return attention and feed-forward network; see `searchkit.core.network.HasBranches`."""
        return (self.attention, self.ffn)
