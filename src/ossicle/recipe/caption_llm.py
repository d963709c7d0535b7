"""Building a captioner: language model, LoRA, mapper, cached tokens, and training in stages."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ossicle import adapters, devices
from ossicle.adapters import store
from ossicle.backbones.layers import Standardize
from ossicle.backbones.text import CONFIG, alike, language_model
from ossicle.contracts import Clip, Prediction
from ossicle.errors import AdapterError, UsageError
from ossicle.recipe import backbone, config
from ossicle.recipe.config import Recipe
from ossicle.recipe.partition import Split
from ossicle.share.card import card
from ossicle.tasks import decode
from ossicle.tasks.caption_llm import Captioner
from ossicle.tasks.captions import check_captions, check_metrics
from ossicle.tasks.listen import SoundAugment
from ossicle.tasks.mapper import Mapper
from ossicle.tasks.naming import Naming, spoken
from ossicle.training.evaluate import bound, cut
from ossicle.training.loop import fit

RECIPE = "recipe.toml"
WAVE_CACHE = 2 * 1024**3
NAMING_LR = 1e-3
# How a language model is given what is heard; a LoRA fits one way only.
READ = (
    *("prompt", "prompt_form", "layers", "squeeze", "activation", "mapper_norm", "soft_words"),
    *("pooling", "soft_tokens"),
)
# What an encoder is given and how it looks at it.
HEARD = ("stride", "frontend", "frames", "statistics", "positions")
STANDARD_CLIPS, STANDARD_TOKENS = 256, 128
# Copies of one language model in different precisions are more alike than this, different models less.
ALIKE = 0.9


def differing(one: Recipe, other: Recipe) -> list[str]:
    """What two captioners' mappers or prompts differ in that their tensors do not tell."""
    heard = [f"backbone.{key}" for key in HEARD if getattr(one.backbone, key) != getattr(other.backbone, key)]
    return heard + [key for key in READ if getattr(one.caption, key) != getattr(other.caption, key)]


class CaptionPlan:
    """How a recipe becomes a captioner; see `plan.Plan`.

    Args:
        recipe: checked settings.
        lora: folder of a trained LoRA, or None for a fresh one.
    """

    def __init__(self, recipe: Recipe, lora: Path | None = None) -> None:
        self.recipe, self.lora = recipe, lora

    @classmethod
    def learn(cls, recipe: Recipe, parts: Split, begun: Path | None = None) -> "CaptionPlan":
        """Sees that all clips have captions, and that they can be written and scored."""
        check_captions([*parts.train, *parts.val, *parts.test], recipe.caption.language)
        decode.check(recipe.caption.decoding)
        if parts.val or parts.test:
            clips = len(parts.val) if recipe.train.keep == "best" else 0
            check_metrics(recipe.caption.metrics, recipe.caption.best_by, clips)
        return cls(recipe)

    @classmethod
    def saved(cls, recipe: Recipe, folder: Path) -> "CaptionPlan":
        """With the LoRA of the folder, of whatever rank it is."""
        return cls(recipe, folder / store.LLM if (folder / store.LLM / CONFIG).is_file() else None)

    @classmethod
    def validates(cls, recipe: Recipe) -> bool:
        """Always."""
        return True

    def texts(self) -> dict[str, str]:
        """Nothing more than the recipe."""
        return {}

    def task(self, *, for_training: bool) -> Captioner:
        """The task on its backbone and language model, with fresh adapter, mapper and LoRA.

        Raises:
            UnknownNameError: for an unknown backbone, adapter or language model.
            WeightsError: if weights cannot be had.
            AdapterError: if the LoRA does not fit the language model.
        """
        recipe, task = self.recipe, self.recipe.caption
        encoder = backbone.adapted(recipe)
        language = language_model(task.llm, bits=task.llm_bits, precision=recipe.train.precision)
        torch.manual_seed(recipe.train.seed)
        inputs, *others = (e.dim * max(1, len(task.layers)) for e in encoder.encoders)
        mapper = Mapper(
            inputs, language.width, hidden=task.hidden, activation=task.activation,
            pooling=task.pooling, tokens=task.soft_tokens, norm=task.mapper_norm,
            dropout=task.mapper_dropout, others=others,
        )  # fmt: skip
        if self.lora is not None:
            language.load_lora(self.lora)
        elif task.lora.targets:
            language.add_lora(task.lora)
        if task.stage == "lora-only":
            encoder.requires_grad_(False)
            mapper.requires_grad_(False)
        return Captioner(
            encoder, language, mapper,
            layers=task.layers, squeeze=task.squeeze, prompt=task.prompt, chat=task.prompt_form == "chat",
            decoding=task.decoding, metrics=task.metrics, best_by=task.best_by, augment=task.augment,
            window_s=task.window_s, shortest_s=task.shortest_s, cache_bytes=WAVE_CACHE if for_training else 0,
        )  # fmt: skip

    def begin(self, task: Captioner, folder: Path | None) -> None:
        """The adapter and mapper of a trained captioner; its LoRA too, unless a new one is to be trained.

        Raises:
            UsageError: if a LoRA alone is to be trained with no folder to begin with, or the folder is no captioner's.
            AdapterError: if the weights do not fit.
        """
        alone = self.recipe.caption.stage == "lora-only"
        if folder is None:
            if alone:
                raise UsageError("--stage lora-only trains over a mapper that is there; give its folder by --init-from")
            return
        manifest = store.read_manifest(folder)
        if manifest.get("task") != task.kind:
            raise UsageError(f"{folder} holds a {manifest.get('task')} adapter; --init-from wants a {task.kind} one")
        self.check(task, manifest)
        if other := differing(self.recipe, config.read(folder / RECIPE)):
            raise UsageError(f"{folder} was trained with another {', '.join(other)}; give its recipe by --recipe")
        tensors = store.read_weights(folder)
        wanted = ("backbone", "mapper") if alone else tuple(task.parts())
        store.restore({name: part for name, part in task.parts().items() if name in wanted}, tensors)

    def check(self, task: Captioner, manifest: dict[str, Any]) -> None:
        """See that the language model is the one the LoRA was trained on.

        Raises:
            AdapterError: if not.
        """
        known, here = manifest["language model"], task.language
        told = f"this adapter was made for the language model {known['name']}, not for {here.name}"
        if known["sizes"] != here.sizes():
            raise AdapterError(f"{told}: vocabulary, width and layers {known['sizes']} came, {here.sizes()} are here")
        if alike(known["sample"], here.sample()) < ALIKE:
            raise AdapterError(f"{told}: it has other weights; give those it was trained on by task.llm")

    def caches(self, task: Captioner) -> bool:
        """The encoder's tokens on disk where neither it nor the sound changes in training."""
        table = self.recipe.caption
        if table.cache and table.augment == SoundAugment():
            for ear in task.listener.ears:
                own = adapters.trainable(ear.encoder, "default").values()
                ear.store = None if any(p.requires_grad for p in own) else ear.feature_store()
        return any(ear.store is not None for ear in task.listener.ears)

    def start(self, task: Captioner, clips: Sequence[Clip], out: Path) -> None:
        """Standardise the mapper; let it alone learn to name the captions' words, where the recipe asks for it."""
        epochs = self.recipe.caption.name_first
        if not any(p.requires_grad for p in task.mapper.parameters()):
            return
        window_s = self.recipe.caption.window_s
        clips = [w for c in bound(clips, window_s) for w in cut(c, window_s)]
        if isinstance(task.mapper.norm, Standardize):
            heard = _heard(task, clips[:: max(1, len(clips) // STANDARD_CLIPS)])
            for norm, rows in zip(task.mapper.norms, heard, strict=True):
                norm.fit(rows)  # type: ignore[operator]
        if self.recipe.caption.soft_words:
            task.mapper.aim(task.language.embed(torch.tensor(sorted(spoken(task, clips)))))
        if not epochs:
            return
        settings = replace(self.recipe.train, epochs=epochs, lr=NAMING_LR, head_lr=0.0, accumulate=1, keep="last")
        naming = Naming(task, clips)
        if not naming.index:  # every word is in too few captions or in too many
            return
        with tempfile.TemporaryDirectory(dir=out) as scratch:
            fit(naming, clips, [], settings, Path(scratch), window_s=window_s, quiet=True)
        task.mapper.requires_grad_(True)

    def trains(self, task: Captioner) -> bool:
        """Always."""
        return True

    def kept(self) -> dict[str, Any]:
        """Nothing more."""
        return {}

    def facts(self, task: Captioner) -> dict[str, Any]:
        """The language model and its LoRA."""
        language = task.language
        return {
            "language model": {
                "name": language.name, "digest": language.digest,
                "sizes": language.sizes(), "sample": language.sample(),
                "lora": {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self.recipe.caption.lora).items()},
            }
        }  # fmt: skip

    def sizes(self, task: Captioner) -> dict[str, int]:
        """Of mapper and LoRA."""
        return {
            "mapper": sum(p.numel() for p in task.mapper.parameters()),
            "llm_lora": sum(v.numel() for v in task.language.saved().values()),
            "language_model": task.language.base_parameters(),
        }

    def judged(
        self, task: Captioner, clips: Sequence[Clip], rows: Sequence[Prediction], out: Path
    ) -> list[dict[str, Any]]:
        """The caption beside its references."""
        return [
            {"references": list(c.captions), "caption": r.caption, "score": r.score, "error": r.error}
            for c, r in zip(clips, rows, strict=True)
        ]

    def card(self, name: str, manifest: dict[str, Any]) -> str:
        """The model card with the prompt."""
        return card(name, manifest, *self.told(name, manifest))

    def told(self, name: str, manifest: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
        """What the card says of a captioner: what it does, how it is used, its prompt."""
        task = self.recipe.caption
        does = f"captions sound with {manifest['language model']['name']}"
        asked = f"`{task.prompt}`, {task.prompt_form}; {task.pooling} pooling to {task.soft_tokens} soft token(s)"
        return does, f"caption {name} sounds/ --out captions.csv", {"Prompt": asked}


@torch.no_grad()
def _heard(task: Captioner, clips: Sequence[Clip]) -> list[Tensor]:
    """(rows, width) some of the real tokens of clips, as the mapper gets them, of each encoder."""
    rows: list[list[Tensor]] = [[] for _ in task.listener.ears]
    for first in range(0, len(clips), 16):
        batch = task.collate(clips[first : first + 16], None).to(devices.device())
        for found, (tokens, mask) in zip(rows, task.listener.sequences(batch), strict=True):
            real = tokens.flatten(0, 1) if mask is None else tokens[mask]
            found.append(real[:: max(1, len(real) // (16 * STANDARD_TOKENS))].cpu())
    return [torch.cat(found) for found in rows]
