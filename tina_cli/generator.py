"""GENERATOR DIRECTORY: all that turns a prompt into a model, with a hash of every file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from safetensors.torch import load_file
from torch import Tensor

from tina_cli.backbone import (
    LOCAL,
    TRUNK_PREFIX,
    Backbone,
    BackboneSpec,
    clip_backbone,
    clip_projection,
    clip_tensors,
    clip_weights,
    with_weights,
)
from tina_cli.calibration import Calibration
from tina_cli.clip import Clip, load_clip, named_backbone, sentences
from tina_cli.codec import Spread
from tina_cli.conditions import Conditions
from tina_cli.denoiser import Denoiser
from tina_cli.errors import GeneratorError, UsageError
from tina_cli.files import canonical_json, sha256
from tina_cli.lexicon import Lexicon, Sense
from tina_cli.prior import TextAnchors
from tina_cli.ridge import KernelRidge
from tina_cli.sampling import Sampling
from tina_cli.senses import choose_senses
from tina_cli.weights import INFO, TRUNK, check_files, read_generator_info
from tina_cli.words import FILE as WORDS
from tina_cli.words import Words
from tina_cli.zoo.concepts import Concept

FARTHEST = 0.02  # share of the known classes
SHAPE = ("row_dim", "condition_dim", "width", "layers", "heads")


@dataclass(frozen=True)
class Generator:
    """An opened generator directory; its parts are read when they are first needed."""

    folder: Path
    info: dict[str, Any]
    device: torch.device
    clip_name: str | None = None
    cache: bool = True

    @cached_property
    def spec(self) -> BackboneSpec:
        """Return the backbone that its heads are for."""
        return BackboneSpec.from_json(self.info["backbone"])

    @cached_property
    def lexicon(self) -> Lexicon:
        """Return the table of senses."""
        return Lexicon.read(self.folder / "lexicon.gz")

    @cached_property
    def clip(self) -> Clip:
        """Return the CLIP that conditions come from; raises `GeneratorError` where its width does not fit."""
        name = self.clip_name or self.info["clip"].get("name")
        clip = load_clip(name or f"local-dir:{self.folder / 'clip'}", self.device)
        if clip.dim != self.info["denoiser"]["condition_dim"]:
            raise GeneratorError(
                f"the CLIP {clip.name} has vectors of {clip.dim} numbers, this generator needs "
                f"{self.info['denoiser']['condition_dim']}",
                hint="a generator trained on one CLIP's text space works with CLIPs of that space, such as ViT-B-32:openai",
            )
        return clip

    @cached_property
    def conditions(self) -> Conditions:
        """Return the text conditions of its CLIP."""
        name = self.clip_name or self.info["clip"].get("name")
        source: Any = name
        if name is None:
            source = {path: digest for path, digest in self.info["files"].items() if path.startswith("clip/")}
        elif name.startswith("local-dir:"):
            folder = Path(name.removeprefix("local-dir:"))
            source = [sha256(clip_weights(folder)), sha256(folder / "open_clip_config.json")]
        elif name.startswith("hf-hub:"):
            source = None  # a repository's weights may change
        told = None if source is None else canonical_json([source, self.device.type, self.info["denoiser"]["condition_dim"]])
        return Conditions(lambda: self.clip, told, user_cache_path("tina") / "conditions" if self.cache else None)

    def condition_of(self, name: str, sense: Sense | None) -> Tensor:
        """Return the text condition [d] of a name in a sense."""
        words = Words(None) if self.clip_name else self.words
        key = Concept(name, sense.id if sense else None).key
        return words.get_or(key, lambda: self.conditions.of(sentences(name, sense, self.lexicon)))

    def knows(self, name: str) -> bool:
        """Say whether a name that is in no lexicon is nevertheless known: as a concept, held out or not, or as a word."""
        key = Concept(name, None).key
        return key in self.places or any(key == concept.key for concept in self.heldout) or self.words.get(key) is not None

    @cached_property
    def words(self) -> Words:
        """Return the table of words whose conditions need no text tower."""
        return Words(self._listed(WORDS))

    def _listed(self, name: str) -> Path | None:
        """Return the path of a file that not every generator has; None where its description, which has the hash, has none."""
        return self.folder / name if name in self.info["files"] else None

    @cached_property
    def backbone(self) -> Backbone:
        """Return the image trunk; raises `GeneratorError` where it is not the one that heads are made for."""
        name = self.info["clip"].get("name")
        if trunk := self._listed(TRUNK):
            return with_weights(self.spec, load_file(trunk), self.device, str(trunk))
        found = named_backbone(name, self.device) if name else clip_backbone(self.folder / "clip", self.device)
        if found.spec.sha256 != self.spec.sha256:
            raise GeneratorError(f"the image tower of {name or self.folder} is not the one this generator was trained on")
        return found

    def backbone_state(self) -> dict[str, Tensor]:
        """Return the trunk's tensors as they are kept, for a model file that is to need nothing else.

        Raises `UsageError` for a trunk that only its folder can rebuild.
        """
        if trunk := self._listed(TRUNK):
            return load_file(trunk)
        if self.spec.arch.startswith(LOCAL):
            raise UsageError("this generator's image tower cannot be bundled", hint="leave out --bundle")
        if self.info["clip"].get("name"):
            return dict(self.backbone.module.state_dict())
        return clip_tensors(self.folder / "clip", TRUNK_PREFIX)

    @cached_property
    def projection(self) -> Tensor | None:
        """Return the matrix [d, D] that carries features into the condition space; None where they are in it already."""
        if "projection" in self._known:
            return self._known["projection"].float()
        return None if self.info["clip"].get("name") else clip_projection(self.folder / "clip")

    @cached_property
    def _known(self) -> dict[str, Tensor]:
        return load_file(self.folder / "known.safetensors")

    @cached_property
    def feature_mean(self) -> Tensor:
        """Return the mean unit feature [D] that rows are scored around."""
        return self._known["feature_mean"]

    @cached_property
    def prior(self) -> KernelRidge:
        """Return the regression from text conditions to rows."""
        mean, keys, dual = (self._known[f"prior.{name}"].float() for name in ("mean", "keys", "dual"))
        told, noise = self.info["prior"], self._known.get("prior.noise")
        noise = torch.full((len(keys),), float(told["noise"])) if noise is None else noise  # older ones have one for all
        return KernelRidge(mean, keys, dual, told["gamma"], noise, told.get("own", 0.0))

    @cached_property
    def spread(self) -> Spread:
        """Return how scores spread, the scale of rows."""
        return Spread(self._known["spread.basis"].float(), float(self._known["spread.floor"]))

    @cached_property
    def text_anchors(self) -> TextAnchors:
        """Return the rows that words alone would give."""
        return TextAnchors(self.prior, self.spread)

    @cached_property
    def known_senses(self) -> frozenset[str]:
        """Return the senses that help to choose among a name's: those of the concepts and of their hypernyms."""
        return frozenset(self.info["known_senses"])

    def choose_senses(self, names: Sequence[str]) -> list[Sense | None]:
        """Return the sense of each name beside the others: known ones first, then those that a word's vector is known of."""
        return choose_senses(self.lexicon, names, self.known_senses, described=self.words.keys)

    @cached_property
    def places(self) -> dict[str, int]:
        """Return the place of each known concept by its key."""
        return {concept.key: i for i, concept in enumerate(self.concepts)}

    def generic_rows(self, places: Sequence[int] | None = None) -> Tensor:
        """Return the generic model's rows [N, D], or those of some places, in the order of `concepts`.

        They are the regression's targets, which its stored solution gives back.
        """
        ridge = self.prior
        chosen = torch.arange(len(ridge.keys)) if places is None else torch.tensor(list(places))
        rows = ridge.kernel_of_keys(chosen) @ ridge.dual.double() + (ridge.noise[:, None] * ridge.dual)[chosen].double()
        return rows.float()

    @cached_property
    def far(self) -> float:
        """Return the novelty above which words are far from all that is known: few known classes are as new to the others."""
        likeness = self.prior.keys @ self.prior.keys.T
        return float((1 - likeness.fill_diagonal_(-1.0).amax(-1)).quantile(1 - FARTHEST))

    def nearest(self, words: Tensor, count: int = 3) -> list[str]:
        """Return the names of the known concepts most like a text condition [d], the likest first."""
        likeness = self.prior.kernel(words[None])[0]
        return [self.concepts[place].name for place in likeness.topk(min(count, len(likeness))).indices.tolist()]

    @cached_property
    def concepts(self) -> list[Concept]:
        """Return the known concepts, in the order of the prior's keys."""
        return [Concept(name, sense) for name, sense in self.info["concepts"]]

    @cached_property
    def heldout(self) -> list[Concept]:
        """Return the concepts kept out of every stage."""
        return [Concept(name, sense, tier) for name, sense, tier in self.info["heldout"]]

    @cached_property
    def sampling(self) -> Sampling:
        """Return how its models are sampled unless something else is asked for."""
        return Sampling(**self.info["sampling"])

    @cached_property
    def calibration(self) -> Calibration:
        """Return temperature, threshold and the coefficients of the expected accuracy."""
        values = self.info["calibration"]
        found = values["temperature"]  # older generators have one for all models
        temperature = (math.log(found),) if isinstance(found, float) else tuple(found)
        return Calibration(temperature, values["threshold"], tuple(values["accuracy"]))

    @cached_property
    def denoiser(self) -> Denoiser:
        """Return the network, ready to sample."""
        network = Denoiser(**{key: self.info["denoiser"][key] for key in SHAPE})
        state = {name: value.float() for name, value in load_file(self.folder / "denoiser.safetensors").items()}
        network.load_state_dict(state)
        return network.eval().to(self.device)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Return what a model file says of its generator: name and hash."""
        return {"name": self.info["name"], "sha256": sha256(self.folder / INFO)}


def open_generator(folder: Path, device: torch.device, clip_name: str | None = None, cache: bool = True) -> Generator:
    """Open a generator directory and check every file's hash; raises `GeneratorError`."""
    if not (folder / INFO).is_file():
        raise GeneratorError(f"{folder} is no generator: it has no {INFO}", hint="make one with `tina train`")
    info = read_generator_info(folder)
    if "kind" in info:
        raise GeneratorError(f"{folder} is an imported checkpoint", hint="sample it with tina_cli.paper_generator")
    check_files(folder, info)
    return Generator(folder, info, device, clip_name, cache)
