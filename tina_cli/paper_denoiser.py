"""PAPER'S DENOISER: the network of the paper's own experiments, for comparison and for its checkpoints.

A sequence of fixed length: the p-Model's parameters in chunks that do not cross layers, one token per class, one for the
time. Every position has its own linear map in and out and a learned position, so that the order and number of classes are
part of what it learns. Written from the paper (Tina, section 3) and G.pt (Peebles et al. 2022, section 3), with the tensors'
names of its authors' checkpoints mapped in `import_checkpoint`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tina_cli.errors import DataError

CHUNK = 576
TIMESTEPS = 1000
HEADS = 16


def chunks_of(sizes: Sequence[int], most: int = CHUNK) -> list[int]:
    """Return the lengths of the chunks of layers of such sizes: at most `most` weights, none across two layers."""
    return [min(most, size - start) for size in sizes for start in range(0, size, most)]


class PaperBlock(nn.Module):
    """A pre-norm transformer block without a mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens [B, L, W]."""
        h = self.norm_1(x)
        q, k, v = (part(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        x = x + self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_2(x))


class PaperDenoiser(nn.Module):
    """Noisy parameters [B, P], timesteps [B] and class vectors [B, K, d] -> clean parameters [B, P]."""

    frequencies: Tensor

    def __init__(
        self,
        chunks: Sequence[int],
        classes: int,
        condition: int = 512,
        width: int = 512,
        layers: int = 12,
        heads: int = HEADS,
        frequencies: int = 128,
        max_log2: float = 14.0,
    ) -> None:
        super().__init__()
        self.chunks, self.classes = list(chunks), classes
        self.shape = {
            "chunks": self.chunks, "classes": classes, "condition": condition, "width": width, "layers": layers,
            "heads": heads, "frequencies": frequencies, "max_log2": max_log2,
        }  # fmt: skip
        inputs = [*chunks, *[condition] * classes, 2 * frequencies + 1]
        self.maps_in = nn.ModuleList(nn.Linear(size, width, bias=False) for size in inputs)
        self.maps_out = nn.ModuleList(nn.Linear(width, size, bias=False) for size in chunks)
        self.position = nn.Parameter(torch.zeros(len(inputs), width))
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(PaperBlock(width, heads) for _ in range(layers))
        self.register_buffer("frequencies", 2 ** torch.linspace(0, max_log2, frequencies))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Return the clean parameters; fewer classes than the network has are padded with zeros (the paper's way)."""
        missing = self.classes - condition.shape[1]
        told = torch.nn.functional.pad(condition, (0, 0, 0, missing)).unbind(1)
        t = timestep[:, None].float()
        angles = t * self.frequencies
        parts = [*x.split(self.chunks, dim=1), *told, torch.cat([angles.sin(), angles.cos(), t], dim=1)]
        tokens = torch.stack([embed(part) for embed, part in zip(self.maps_in, parts, strict=True)], dim=1)  # (B, L, W)
        tokens = self.norm_in(tokens) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm_out(tokens)
        return torch.cat([out(tokens[:, i]) for i, out in enumerate(self.maps_out)], dim=1)


NAMES = (  # the authors' names, in G.pt's code, and ours
    (r"decoder\.pos_emb", "position"),
    (r"decoder\.ln_in\.(\w+)", r"norm_in.\1"),
    (r"decoder\.ln_f\.(\w+)", r"norm_out.\1"),
    (r"decoder\.input_parameter_projections\.(\d+)\.0\.weight", r"maps_in.\1.weight"),
    (r"decoder\.output_parameter_projections\.(\d+)\.0\.weight", r"maps_out.\1.weight"),
    (r"decoder\.blocks\.(\d+)\.ln(\d)\.(\w+)", r"blocks.\1.norm_\2.\3"),
    (r"decoder\.blocks\.(\d+)\.attn\.(key|query|value)\.(\w+)", r"blocks.\1.\2.\3"),
    (r"decoder\.blocks\.(\d+)\.attn\.proj\.(\w+)", r"blocks.\1.out.\2"),
    (r"decoder\.blocks\.(\d+)\.mlp\.(\d)\.(\w+)", r"blocks.\1.mlp.\2.\3"),
    (r"scalar_embedder\.frequencies", "frequencies"),
)


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an authors' state by our names; the CLIP that they carry along is left out.

    Raises `DataError` for a tensor that has no place.
    """
    out = {}
    for name, value in state.items():
        plain = name.removeprefix("module.")
        if plain.startswith("decoder.clip_model."):
            continue
        for theirs, ours in NAMES:
            if re.fullmatch(theirs, plain):
                out[re.sub(theirs, ours, plain)] = value.float()
                break
        else:
            raise DataError(f"the checkpoint has a tensor {name!r} that the paper's network has not")
    return out


def paper_denoiser(state: Mapping[str, Tensor], heads: int = HEADS) -> PaperDenoiser:
    """Build the paper's network from a state in the authors' names; shapes tell its size. Raises `DataError`."""
    ours = rename(state)
    try:
        ours["position"] = ours["position"].reshape(-1, ours["position"].shape[-1])
        width = ours["position"].shape[1]
        inputs = [ours[f"maps_in.{i}.weight"].shape[1] for i in range(len(ours["position"]))]
        outputs = sum(name.startswith("maps_out.") for name in ours)
        layers = len({name.split(".")[1] for name in ours if name.startswith("blocks.")})
        chunks = [ours[f"maps_out.{i}.weight"].shape[0] for i in range(outputs)]
        conditions = inputs[outputs:-1]
        if width % heads or inputs[:outputs] != chunks or not conditions or len(set(conditions)) != 1:
            raise DataError("the checkpoint's shapes are not those of the paper's network")
        network = PaperDenoiser(chunks, len(conditions), conditions[0], width, layers, heads, (inputs[-1] - 1) // 2)
        ours.setdefault("frequencies", network.frequencies)
        network.load_state_dict(ours)
    except (KeyError, RuntimeError) as error:
        raise DataError(f"the checkpoint is not one of the paper's network: {error}") from error
    return network.eval()
