"""CONDITIONS: class names, descriptions and pictures -> one unit vector per class, through open_clip."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.device import prepare_torchvision
from tina_cli.errors import GeneratorError
from tina_cli.lexicon import Lexicon, Sense

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
    logging.getLogger().setLevel(logging.ERROR)
    import open_clip

    schema, _, rest = name.partition(":")
    hint = "weights are fetched from the network unless they are in the cache; local-dir:PATH needs none"
    try:
        if schema in ("local-dir", "hf-hub"):
            if schema == "local-dir" and not list(Path(rest).glob("*.safetensors")):
                raise FileNotFoundError(f"no weights in {rest}")
            model = open_clip.create_model(name, device=device, require_pretrained=False)
            tokenizer = open_clip.get_tokenizer(name)
        else:
            if schema not in open_clip.list_models():
                raise GeneratorError(f"open_clip knows no model {schema!r}", hint="for example ViT-B-32:openai")
            if rest not in open_clip.list_pretrained_tags_by_model(schema):
                known = ", ".join(open_clip.list_pretrained_tags_by_model(schema)) or "none"
                raise GeneratorError(f"the model {schema} has no weights {rest!r}", hint=f"known: {known}")
            model = open_clip.create_model(schema, pretrained=rest, device=device)
            tokenizer = open_clip.get_tokenizer(schema)
    except GeneratorError:
        raise
    except Exception as error:  # open_clip, the Hub client and torch raise many kinds; all mean "no such model here"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise GeneratorError(f"cannot load the CLIP {name}: {reason}", hint=hint) from error
    return Clip(name, model.eval(), tokenizer, device)


def sentences(name: str, sense: Sense | None, lexicon: Lexicon) -> list[str]:
    """Return the sentences whose vectors are averaged into the condition of a class."""
    templates = NAME_TEMPLATES + (SENSE_TEMPLATES if sense else ())
    words = {"name": name, "gloss": sense.gloss, "kind": lexicon.kind(sense) or "thing"} if sense else {"name": name}
    return [template.format(**words) for template in templates]


def text_condition(clip: Clip, texts: Sequence[str]) -> Tensor:
    """Return the condition that some sentences about one class make: the unit mean of their vectors, [d]."""
    return normalize(clip.encode_text(texts).mean(0), dim=-1)
