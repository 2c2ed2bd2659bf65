"""The `clip` stage: WordNet, a sentence encoder, genuine CLIP vectors and pictures -> the small CLIP (training only)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.backbone import clip_backbone
from tina_cli.clip import Clip, sentences, text_condition
from tina_cli.errors import UsageError
from tina_cli.files import write_atomic
from tina_cli.lexicon import Lexicon
from tina_cli.run import Run, features_stage
from tina_cli.student import new_clip, start_embedding, train_text_tower, write_clip
from tina_cli.teacher import SentenceEncoder, concrete_nouns, fit_teacher, teach
from tina_cli.wordnet import read_wordnet
from tina_cli.zoo.concepts import collect, imagenet_concepts
from tina_cli.zoo.store import FIT, TUNE, feature_bank


def make_small_clip(run: Run) -> Path:
    """Make the small CLIP in the run's working folder, or find it there; return its folder.

    Raises `UsageError` without genuine CLIP vectors, `DataError` where WordNet or a needed package is missing.
    """
    folder, options = run.work / "clip", run.recipe.clip
    if (run.work / "clip.done").exists():
        return folder
    if run.vectors is None:
        raise UsageError("this recipe trains a CLIP's text tower", hint="name genuine CLIP text vectors with --vectors FILE")
    import open_clip

    lexicon = read_wordnet(run.wordnet)
    write_atomic(run.work / "lexicon.gz", lexicon.dump())
    imagenet = imagenet_concepts() if run.recipe.zoo.imagenet else []
    names = sorted({name for classes in run.data.values() for name in classes} | {c.name for c in imagenet})
    nouns = concrete_nouns(lexicon, names)

    encoder = SentenceEncoder()
    start = run.work / "teacher" / "start.safetensors"
    ridge, mean = fit_teacher(encoder, lexicon, run.vectors, options.teacher_gamma, options.teacher_noise)
    targets = teach(encoder, ridge, nouns, run.work / "teacher", lambda **f: run.report(stage="teacher", **f))
    torch.manual_seed(run.recipe.seed)
    model = new_clip(options, targets.shape[1])
    tokenizer = open_clip.SimpleTokenizer(context_length=options.context_length)
    with torch.no_grad():
        model.text.token_embedding.weight.copy_(start_embedding(encoder, ridge, tokenizer, options.width, start))
    train_text_tower(
        model, tokenizer, nouns, targets, mean, options, run.work / "student.safetensors",
        lambda **f: run.report(stage="text tower", **f),
    )  # fmt: skip

    write_clip(model, options, folder)  # the trunk as it is kept, in half precision, gives the features
    clip = Clip("student", model, tokenizer, run.device)
    with torch.no_grad():
        model.visual.head.proj.weight.copy_(fit_projection(run, clip, folder))
    write_clip(model, options, folder)
    write_atomic(run.work / "clip.done", b"")
    return folder


def fit_projection(run: Run, clip: Clip, folder: Path) -> Tensor:
    """Return the matrix [d, D] that carries features towards their class's text condition: ridge regression.

    Held-out classes and test pictures take no part; every class weighs the same.
    """
    options, zoo = run.recipe.clip, run.recipe.zoo
    lexicon = Lexicon.read(run.work / "lexicon.gz")
    lexicon.index()
    parts = features_stage(run, clip_backbone(folder, run.device))
    sets = {name: {c: len(paths) for c, paths in classes.items()} for name, classes in run.data.items()}
    first = imagenet_concepts() if zoo.imagenet else []
    concepts, places = collect(sets, lexicon, first, zoo.heldout_share, zoo.heldout_kinds, run.recipe.seed)
    bank = feature_bank(parts, places, run.recipe.features.test_share, run.recipe.features.tune_share, run.recipe.seed)
    cache = run.work / "teacher" / "projection.safetensors"
    if not cache.exists():
        means, texts = [], []
        for number, concept in enumerate(concepts):
            own = torch.cat([bank.rows_of(number, FIT), bank.rows_of(number, TUNE)])
            if concept.heldout or not len(own):
                continue
            sense = lexicon.sense_of(concept.name, concept.sense)
            texts.append(text_condition(clip, sentences(concept.name, sense, lexicon)))
            means.append(bank.features[own].float().mean(0))
        x, y = normalize(torch.stack(means), dim=-1).double(), torch.stack(texts).double()
        spread = x.square().sum() / x.shape[1]
        gram = x.T @ x + options.projection_noise * 0.01 * spread * torch.eye(x.shape[1], dtype=torch.float64)
        cache.parent.mkdir(exist_ok=True)
        write_atomic(cache, save({"projection": torch.linalg.solve(gram, x.T @ y).T.float().contiguous()}))
    return load_file(cache)["projection"]
