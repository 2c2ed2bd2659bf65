"""CONDITIONS: class names, descriptions and pictures -> one unit vector per class, through open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.backbone import Backbone, clip_weights, tower_backbone
from tina_cli.device import prepare_torchvision, quiet_logging
from tina_cli.errors import GeneratorError
from tina_cli.lexicon import Lexicon, Sense, split_remark

# How a class is put into words; the usual prompt templates first, then what the lexicon adds. The student text tower has
# learned the same forms.
NAME_TEMPLATES = ("{name}", "a photo of a {name}.")
SENSE_TEMPLATES = ("{name}, {gloss}.", "a photo of a {name}, a kind of {kind}.")


@dataclass(frozen=True)
class Clip:
    """An open_clip model with its tokenizer; images must be preprocessed as its backbone says."""

    name: str
    model: Any  # open_clip types its models loosely
    tokenizer: Any
    device: torch.device

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Return the unit vectors of texts, [n, d], one at a time so that they do not depend on their company."""
        rows = [self.model.encode_text(self.tokenizer([text]).to(self.device)).float() for text in texts]  # n x (1, d)
        return normalize(torch.cat(rows), dim=-1).cpu()

    @property
    def dim(self) -> int:
        """Return the width d of the condition space."""
        return int(self.encode_text(["a"]).shape[1])


def load_clip(name: str, device: torch.device) -> Clip:
    """Load a CLIP by any name open_clip accepts: `ViT-B-32:openai`, `local-dir:PATH`, `hf-hub:OWNER/NAME`.

    Raises `GeneratorError` for an unknown name, or where its weights are neither here nor to be had.
    """
    prepare_torchvision()
    import open_clip

    schema, _, rest = name.partition(":")
    hint = "weights are fetched from the network unless they are in the cache; local-dir:PATH needs none"
    try:
        with quiet_logging():
            if schema in ("local-dir", "hf-hub"):
                if schema == "local-dir":
                    clip_weights(Path(rest))
                model = open_clip.create_model(name, device=device)
                tokenizer = open_clip.get_tokenizer(name)
            else:
                check_known(schema, rest)
                model = open_clip.create_model(schema, pretrained=rest, device=device)
                tokenizer = open_clip.get_tokenizer(schema)
    except GeneratorError:
        raise
    except Exception as error:  # open_clip, the Hub client and torch raise many kinds; all mean "no such model here"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise GeneratorError(f"cannot load the CLIP {name}: {reason}", hint=hint) from error
    return Clip(name, model.eval(), tokenizer, device)


def check_known(model: str, tag: str) -> None:
    """Raise `GeneratorError` unless open_clip knows the model, and weights of that tag for it."""
    import open_clip

    if model not in open_clip.list_models():
        raise GeneratorError(f"open_clip knows no model {model!r}", hint="for example ViT-B-32:openai")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise GeneratorError(f"the model {model} has no weights {tag!r}", hint=f"known: {', '.join(tags) or 'none'}")


def sentences(name: str, sense: Sense | None, lexicon: Lexicon) -> list[str]:
    """Return the sentences whose vectors are averaged into the condition of a class."""
    base = split_remark(name)[0]
    out = [template.format(name=base) for template in NAME_TEMPLATES]
    if sense:
        about, kind = SENSE_TEMPLATES
        out += [about.format(name=base, gloss=sense.gloss)] if sense.gloss else []
        out += [kind.format(name=base, kind=lexicon.kind(sense) or "thing")]
    return out


def text_condition(clip: Clip, texts: Sequence[str]) -> Tensor:
    """Return the condition that some sentences about one class make: the unit mean of their vectors, [d]."""
    return normalize(clip.encode_text(texts).mean(0), dim=-1)


def named_backbone(name: str, device: torch.device) -> Backbone:
    """Return the image tower of a CLIP known by its open_clip name as a backbone; raises `GeneratorError`."""
    return tower_backbone(f"open_clip:{name.partition(':')[0]}", load_clip(name, device).model.visual, device)
