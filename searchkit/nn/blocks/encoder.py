"""The Transformer block of the families that attend: pre-norm self-attention and a feed-forward net.

Vaswani et al. 2017, arXiv:1706.03762; norms before the branches as in Xiong et al. 2020, arXiv:2002.04745.
"""

from __future__ import annotations

from torch import Tensor, nn

from searchkit.core.errors import Infeasible
from searchkit.nn.attention import Attention
from searchkit.nn.blocks.layers import activation


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)): (B, L, D). Linear weights start by Xavier, biases at 0.

    ffn: the feed-forward net's width over `width`. distances: as `Attention` takes them. Raises Infeasible where the
    heads do not share the width out.
    """

    def __init__(
        self, width: int, *, heads: int, ffn: int, nonlinearity: str, dropout: float, distances: str = ""
    ) -> None:
        super().__init__()
        if width % heads:
            raise Infeasible(f"a width of {width} cannot be shared out to {heads} heads")
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
        """keep_BL: bool, False at steps that nothing may attend to, or None."""
        x_BLD = x_BLD + self.dropout(self.attention(self.norm_attention(x_BLD), keep_BL))
        out: Tensor = x_BLD + self.dropout(self.ffn(self.norm_ffn(x_BLD)))
        return out
