"""KNOWLEDGE: what a run starts from: concepts, rows and words that are known before its own pictures are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.backbone import BackboneSpec, clip_weights
from tina_cli.clip import load_clip, sentences, text_condition
from tina_cli.codec import Spread
from tina_cli.files import sha256
from tina_cli.generator import open_generator
from tina_cli.lexicon import Lexicon
from tina_cli.run import Run
from tina_cli.senses import sense_of
from tina_cli.weights import INFO, embedded_weights
from tina_cli.words import FILE as WORDS
from tina_cli.words import Words
from tina_cli.zoo.concepts import Concept, imagenet_concepts
from tina_cli.zoo.store import sharded


def known_words(run: Run) -> Words:
    """Return the table of known words that belongs to a run's CLIP; an empty one for a CLIP of another origin."""
    return Words(None if run.clip else (run.work if run.recipe.clip.steps else embedded_weights()) / WORDS)


@dataclass(frozen=True)
class Known:
    """What is known before the run's own pictures: concepts and their rows, and where it is a generator's, its scales too."""

    concepts: Sequence[Concept]
    rows: Tensor
    conditions: Tensor | None = None
    noise: Tensor | None = None
    feature_mean: Tensor | None = None
    spread: Spread | None = None


def known_before(run: Run, spec: BackboneSpec) -> Known:
    """Return the trunk's own classifier, where the recipe asks for it, or else what the embedded generator knows."""
    if run.recipe.zoo.imagenet:
        from tina_cli.student import imagenet_weights

        weight = imagenet_weights()["classifier.weight"]
        return Known(imagenet_concepts(), normalize(weight - weight.mean(0), dim=-1))
    own_words = run.clip is not None or run.recipe.clip.steps > 0  # another text space than the embedded generator's
    if run.backbone == "clip" and not own_words and (embedded_weights() / INFO).exists():
        embedded = open_generator(embedded_weights(), run.device)
        if embedded.spec.sha256 == spec.sha256:
            concepts = [Concept(c.name, c.sense, trunk_row=i) for i, c in enumerate(embedded.concepts)]
            prior = embedded.prior
            return Known(concepts, embedded.generic_rows(), prior.inputs(), prior.noise, embedded.feature_mean, embedded.spread)
    return Known([], torch.zeros(0, spec.dim))


def concept_conditions(
    run: Run, concepts: Sequence[Concept], lexicon: Lexicon, clip_folder: Path | None, given: Tensor | None
) -> Tensor:
    """Return the text conditions of concepts, [N, d]; those of concepts known before are `given`."""
    first = 0 if given is None else len(given)
    texts = [sentences(c.name, sense_of(lexicon, c.name, c.sense), lexicon) for c in concepts[first:]]
    words = known_words(run)

    def make() -> dict[str, Tensor]:
        clip = load_clip(f"local-dir:{clip_folder}" if clip_folder else str(run.clip), run.device)
        rows = []
        for number, (concept, text) in enumerate(zip(concepts[first:], texts, strict=True), 1):
            rows.append(words.get_or(concept.key, partial(text_condition, clip, text)))
            if number % 100 == 0 or number == len(texts):
                run.report(stage="conditions", event="step", step=number, of=len(texts))
        return {"conditions": torch.stack(rows)}

    which = [
        sha256(clip_weights(clip_folder)) if clip_folder else run.clip,
        sha256(words.path) if words.path and len(words) else None,
    ]
    made = sharded(run.work, "conditions", [texts, *which], make)["conditions"] if texts else torch.zeros(0, 0)
    return made if given is None else torch.cat([given, made]) if texts else given
