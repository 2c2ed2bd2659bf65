"""KINDS: concepts above those with pictures. A dog is any of its breeds: it has their pictures, and a row of its own."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace

import torch
from torch import Tensor

from tina_cli.codec import Spread
from tina_cli.config import ZooStage
from tina_cli.lexicon import Lexicon
from tina_cli.zoo.concepts import Concept
from tina_cli.zoo.finetune import finetune_part
from tina_cli.zoo.store import FIT, FeatureBank
from tina_cli.zoo.tasks import TaskSource, draw_tasks

ROUNDS = 2  # of fitting: better than one
TASKS, CLASSES, PICTURES, STEPS, PULL = 300, 8, 16, 60, 0.3  # of a round


def find_kinds(
    concepts: Sequence[Concept], alive: Tensor, bank: FeatureBank, lexicon: Lexicon, known: Set[str], least: int
) -> dict[Concept, tuple[int, ...]]:
    """Return the kinds of concepts: known words, themselves no concepts, above `least` or more living ones with pictures."""
    taken = {concept.sense for concept in concepts}
    below: dict[str, list[int]] = {}
    for number, concept in enumerate(concepts):
        for above in lexicon.ancestors(concept.sense) if concept.sense and alive[number] else ():
            if above in known and above not in taken:
                below.setdefault(above, []).append(number)
    found = {}
    for sense, members in sorted(below.items()):
        shown = sum(len(bank.rows_of(number, FIT)) > 0 for number in members)
        if shown >= least and (meant := lexicon.get(sense)):
            found[Concept(meant.lemmas[0], sense)] = tuple(members)
    return found


def fit_kinds(rows: Tensor, source: TaskSource, bank: FeatureBank, mean: Tensor, spread: Spread, options: ZooStage) -> Tensor:
    """Return rows [N, D] of unit spread with those of the kinds set: the mean of their members', fitted on their pictures.

    A kind's row is the mean of its rows in tasks of kinds that were fine-tuned, in which it begins as it was before.
    """
    rows = rows.clone()
    for kind, members in bank.members.items():
        rows[kind] = spread.standardise(rows[list(members)].mean(0))
    among = replace(source, usable=source.kinds, sets=())
    how = replace(options, pictures=PICTURES, steps=STEPS, pull=PULL)
    for number in range(ROUNDS):
        tasks = draw_tasks(among, TASKS, CLASSES // 2, CLASSES, "kinds", number)
        heads = finetune_part((how, bank, mean, rows), tasks, number)
        sums, counts = torch.zeros_like(rows), torch.zeros(len(rows), 1)
        for place, task in enumerate(tasks):
            sums[list(task)] += heads[f"{place:06d}"].float()
            counts[list(task)] += 1
        rows = torch.where(counts > 0, spread.standardise(sums / counts.clamp_min(1)), rows)
    return rows
