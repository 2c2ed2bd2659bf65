"""The `clip` stage: WordNet, a sentence encoder, genuine CLIP vectors and pictures -> the small CLIP (training only)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tina_cli.backbone import clip_backbone
from tina_cli.clip import Clip, sentences, text_condition
from tina_cli.descriptions import Descriptions
from tina_cli.errors import DataError, UsageError
from tina_cli.files import digest, write_atomic
from tina_cli.lexicon import Lexicon, normalise
from tina_cli.run import Run, data_concepts, features_stage
from tina_cli.senses import sense_of
from tina_cli.student import learn_points, new_clip, start_embedding, train_text_tower, write_clip
from tina_cli.teacher import Noun, SentenceEncoder, concrete_nouns, genuine_nouns, teach
from tina_cli.wordnet import read_wordnet
from tina_cli.words import FILE as WORDS
from tina_cli.words import Words, write_words
from tina_cli.zoo.concepts import Concept, imagenet_concepts, kinds_of
from tina_cli.zoo.finetune import fit_projection
from tina_cli.zoo.store import feature_bank


def make_small_clip(run: Run) -> Path:
    """Make the small CLIP in the run's working folder, or find it there; return its folder.

    Raises `UsageError` without genuine CLIP vectors or descriptions, `DataError` where WordNet or a package is missing.
    """
    folder, options = run.work / "clip", run.recipe.clip
    if (run.work / "clip.done").exists():
        return folder
    if run.vectors is None or run.descriptions is None:
        raise UsageError(
            "this recipe trains a CLIP's text tower",
            hint="name genuine CLIP text vectors with --vectors FILE, and descriptions with --descriptions FILE",
        )
    descriptions = Descriptions.read(run.descriptions)
    lexicon = descriptions.extended(read_wordnet(run.wordnet))
    write_atomic(run.work / "lexicon.gz", lexicon.dump())
    lexicon.index()
    concepts, places = data_concepts(run.data, run.recipe, lexicon, imagenet_concepts() if run.recipe.zoo.imagenet else ())
    may_learn = learnable(concepts, run.recipe.zoo.heldout_kinds, lexicon)
    nouns = list(filter(may_learn, concrete_nouns(lexicon, sorted({c.name for c in concepts}), descriptions)))
    genuine, vectors = genuine_nouns(run.vectors, lexicon, descriptions)
    vectors = vectors[torch.tensor(list(map(may_learn, genuine)))]
    genuine = list(filter(may_learn, genuine))

    encoder = SentenceEncoder(run.encoder)

    def encode(texts: Sequence[str]) -> Tensor:
        return encoder.encode_in_parts(texts, run.work / "teacher", lambda **f: run.report(stage="teacher", **f))

    targets, teacher = teach(nouns, genuine, vectors, encode, options.teacher_gamma, options.teacher_noise, lexicon)
    points = learn_points(targets, vectors.mean(0))
    table = {Concept(n.name, n.sense or None).key: p for n, p in zip(nouns, points, strict=True) if n.description}
    if not table:
        raise DataError(f"{run.descriptions} describes nothing that may be learned")
    write_words(run.work / WORDS, table, vectors.mean(0))

    torch.manual_seed(run.recipe.seed)
    model = new_clip(options, targets.shape[1])
    import open_clip

    tokenizer = open_clip.SimpleTokenizer(context_length=options.context_length)
    with torch.no_grad():
        model.text.token_embedding.weight.copy_(start_embedding(teacher, tokenizer, options.width))
    spread = float((points - vectors.mean(0)).square().sum(-1).mean())
    checkpoint = run.work / f"student-{digest([len(nouns), float(points.sum())])}.safetensors"
    train_text_tower(
        model, tokenizer, nouns, points, spread, lexicon, options, checkpoint, lambda **f: run.report(stage="text tower", **f)
    )

    write_clip(model, options, folder)  # the trunk as it is kept, in half precision, gives the features
    clip = Clip("student", model, tokenizer, torch.device("cpu"))
    with torch.no_grad():
        model.visual.head.proj.weight.copy_(projection_of(run, clip, folder, lexicon, concepts, places))
    write_clip(model, options, folder)
    write_atomic(run.work / "clip.done", b"")
    return folder


def learnable(concepts: Sequence[Concept], kinds: Sequence[str], lexicon: Lexicon) -> Callable[[Noun], bool]:
    """Return a test for nouns: neither called like a held-out class nor of a held-out kind, in any of their senses."""
    heldout = [concept for concept in concepts if concept.heldout]
    far = kinds_of(kinds, lexicon)
    of_far = {normalise(lemma) for sense in lexicon if far & lexicon.ancestors(sense.id) for lemma in sense.lemmas}
    names = {normalise(concept.name) for concept in heldout} | of_far
    names |= {normalise(lemma) for c in heldout if c.sense and (found := lexicon.get(c.sense)) for lemma in found.lemmas}

    def test(noun: Noun) -> bool:
        called = {normalise(noun.name), normalise(noun.head)}
        last = {name.rpartition(" ")[2] for name in called}
        return not (called & names or last & of_far or (noun.sense and far & lexicon.ancestors(noun.sense)))

    return test


def projection_of(
    run: Run, clip: Clip, folder: Path, lexicon: Lexicon, concepts: Sequence[Concept], places: dict[str, list[int]]
) -> Tensor:
    """Return the matrix [d, D] from features to text conditions; held-out classes take no part."""
    parts = features_stage(run, clip_backbone(folder, run.device))
    options, words = run.recipe.features, Words(run.work / WORDS)
    bank = feature_bank(parts, places, options.test_share, options.tune_share, run.recipe.seed)
    conditions = {}
    for number, concept in enumerate(concepts):
        if not concept.heldout and (bank.concept == number).any():
            texts = sentences(concept.name, sense_of(lexicon, concept.name, concept.sense), lexicon)
            conditions[number] = words.get_or(concept.key, partial(text_condition, clip, texts))
    return fit_projection(bank, conditions, run.recipe.clip.projection_noise)
