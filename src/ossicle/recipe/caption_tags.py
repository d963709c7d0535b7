"""Building a captioner from tags: tagger, language model of either family, and what captions without sound need."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ossicle import adapters, backbones, terminal
from ossicle.adapters import store
from ossicle.backbones import prompt, seq2seq, tags
from ossicle.backbones.text import CONFIG, LanguageModel, alike, language_model
from ossicle.contracts import Clip, Prediction
from ossicle.errors import AdapterError, CheckpointError, UsageError, WeightsError
from ossicle.metrics.caption.sbert import Sentences
from ossicle.recipe import backbone, config
from ossicle.recipe.caption_llm import ALIKE, RECIPE
from ossicle.recipe.config import Recipe
from ossicle.recipe.partition import Split
from ossicle.share.card import card
from ossicle.tasks import decode, embeddings, pseudo
from ossicle.tasks.caption_tags import NUMBERS, TagCaptioner, tagger_of
from ossicle.tasks.captions import check_captions, check_metrics
from ossicle.tasks.pseudo import Event, Pretence

VOCABULARY = "vocabulary.json"
NO_LORA = {"whole": "whole", "frozen-decoder": "frozen-decoder", "lora": "nothing"}


class TagsPlan:
    """How a recipe becomes a captioner from tags; see `plan.Plan`.

    Args:
        recipe: checked settings.
        vocabulary: of a small language model of its own, as JSON text; "" where another one is taken.
        pretences: taggers that are pretended, with the events of every caption.
        lora: folder of a trained LoRA, or None for a fresh one.
    """

    def __init__(
        self, recipe: Recipe, vocabulary: str = "", pretences: Sequence[tuple[Pretence, Mapping[str, Any]]] = (),
        lora: Path | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.vocabulary, self.pretences, self.lora = recipe, vocabulary, pretences, lora

    @classmethod
    def learn(cls, recipe: Recipe, parts: Split, begun: Path | None = None) -> "TagsPlan":
        """Sees that all clips have captions; learns what captions without sound name, and the vocabulary.

        A training that begins with another one's weights reads and writes by that one's vocabulary.
        """
        table, clips = recipe.tags, [*parts.train, *parts.val, *parts.test]
        check_captions(clips, table.language)
        decode.check(table.decoding)
        if parts.val or parts.test:
            check_metrics(table.metrics, table.best_by, len(parts.val) if recipe.train.keep == "best" else 0)
        vocabulary = "" if table.llm else _vocabulary(parts, table.small.vocabulary, begun)
        bare = [caption.strip() for clip in clips if clip.text_only for caption in clip.captions]
        if bare and (table.join or len(backbones.names_of(recipe.backbone.name)) > 1):
            raise UsageError(
                f"{len(bare)} captions have no sound, so no embeddings, which this recipe reads (backbone"
                f" {recipe.backbone.name}{f', task.join={table.join}' * bool(table.join)}); leave them out, or take a"
                " backbone that is one tagger"
            )
        return cls(recipe, vocabulary, _pretences(table, bare) if bare else ())

    @classmethod
    def saved(cls, recipe: Recipe, folder: Path) -> "TagsPlan":
        """With the vocabulary or the LoRA of the folder."""
        own = folder / VOCABULARY
        if not recipe.tags.llm and not own.is_file():
            raise CheckpointError(f"{folder} is incomplete: it has no {VOCABULARY}; train or fetch it again")
        vocabulary = "" if recipe.tags.llm else own.read_text(encoding="utf-8")
        return cls(recipe, vocabulary, lora=folder / store.LLM if (folder / store.LLM / CONFIG).is_file() else None)

    @classmethod
    def validates(cls, recipe: Recipe) -> bool:
        """Always."""
        return True

    def texts(self) -> dict[str, str]:
        """The vocabulary, where it is its own."""
        return {VOCABULARY: self.vocabulary} if self.vocabulary else {}

    def task(self, *, for_training: bool) -> TagCaptioner:
        """The task on its tagger and language model.

        Raises:
            UsageError: if the backbone is no tagger.
            WeightsError: if weights cannot be had.
            AdapterError: if a LoRA does not fit the language model.
        """
        table = self.recipe.tags
        encoder, others = self._encoders()
        language = self._language()
        decode.check_length(language, table.decoding)
        torch.manual_seed(self.recipe.train.seed)
        numbers = nn.Linear(NUMBERS, language.width)
        nn.init.normal_(numbers.weight, std=float(np.std(language.sample())))  # no louder than the words they stand by
        nn.init.zeros_(numbers.bias)
        if table.reads == "sequence" or table.join == "alone":
            numbers.requires_grad_(False)
        more = (
            embeddings.Embeddings(others, language.width, table.join, shortest_s=table.shortest_s) if others else None
        )
        causal = not isinstance(language, seq2seq.EncoderDecoder)
        asked = prompt.prompt(language.tokenizer, table.prompt, chat=table.prompt_form == "chat") if causal else None
        return TagCaptioner(
            encoder, language, numbers, prompt=asked, reads=table.reads, most=table.most, least=table.least,
            parity=table.parity, pretences=self.pretences, embeddings=more, loss_on_padding=table.loss_on_padding,
            shortest_s=table.shortest_s, decoding=table.decoding,
            metrics=table.metrics, best_by=table.best_by,
        )  # fmt: skip

    def _encoders(self) -> tuple[backbones.Encoders, list[backbones.Encoder]]:
        """The backbone, and those of its encoders that give embeddings."""
        recipe, table = self.recipe, self.recipe.tags
        name, instead = recipe.backbone.name, table.instead
        if instead and (len(backbones.names_of(name)) > 1 or table.join == "alone"):
            raise UsageError(f"task.instead={instead} hears instead of one tagger, but {name} gives embeddings too")
        try:
            encoder = backbone.adapted(recipe)
        except WeightsError as err:
            if not instead or instead == name:
                raise
            terminal.note(f"{instead} hears instead of {name}: {err}")
            other = config.BackboneTable(name=instead, source=recipe.backbone.source)
            self.recipe = recipe.model_copy(update={"backbone": other})
            return self._encoders()
        if adapters.trainable(encoder, "default"):
            raise UsageError(
                f"captions from tags are learnt from what frozen encoders hear, so adapter.spec={recipe.adapter.spec}"
                " would not train; leave it out"
            )
        tagger, parts = tagger_of(encoder), list(encoder.encoders)
        if tagger is None and table.join != "alone":
            raise UsageError(f"captions from tags need a tagger, such as mn04 or yamnet; {encoder.name} names nothing")
        others = [part for part in parts if part is not tagger]
        if table.join == "alone" and not others:
            others = parts
        embeddings.check(table.join, encoder.name, len(others))
        return encoder, others

    def _language(self) -> LanguageModel:
        table, seed = self.recipe.tags, self.recipe.train.seed
        if not table.llm:
            made = seq2seq.small(table.small, seq2seq.tokenizer_of(self.vocabulary), seed)
            if table.learns != "whole":
                raise UsageError(
                    f"task.learns={table.learns} wants a language model that is trained; give one by task.llm"
                )
            return made
        if not seq2seq.is_one(table.llm):
            return self._causal()
        fresh = seed if table.begins == "random" else None
        if fresh is not None and table.learns == "lora":
            raise UsageError("task.begins=random has nothing that a LoRA could correct; set task.learns=whole")
        language: LanguageModel = seq2seq.encoder_decoder(
            table.llm, learns=NO_LORA[table.learns], fresh=fresh  # type: ignore[arg-type]
        )  # fmt: skip
        return self._with_lora(language)

    def _causal(self) -> LanguageModel:
        table = self.recipe.tags
        wrong = {
            "task.loss_on_padding=true": table.loss_on_padding,
            "task.begins=random": table.begins == "random",
            f"task.learns={table.learns}": table.learns != "lora",
        }
        found = next((text for text, is_so in wrong.items() if is_so), None)
        if found:
            raise UsageError(
                f"of {table.llm}, a causal language model, only a LoRA trains; set task.learns=lora"
                if found.startswith("task.learns")
                else f"{found} is of an encoder-decoder, but {table.llm} is a causal language model; leave it out"
            )
        return self._with_lora(language_model(table.llm, precision=self.recipe.train.precision))

    def _with_lora(self, language: LanguageModel) -> LanguageModel:
        if self.lora is not None:
            language.load_lora(self.lora)
        elif self.recipe.tags.learns == "lora":
            language.add_lora(self.recipe.tags.lora)
        return language

    def begin(self, task: TagCaptioner, folder: Path | None) -> None:
        """The weights of a trained captioner from tags.

        Raises:
            UsageError: if the folder is no such captioner's, or reads in another way.
            AdapterError: if the weights do not fit.
        """
        if folder is None:
            return
        manifest = store.read_manifest(folder)
        if manifest.get("task") != task.kind:
            raise UsageError(f"{folder} holds a {manifest.get('task')} adapter; --init-from wants a {task.kind} one")
        other = config.read(folder / RECIPE).tags
        for key in ("reads", "join"):
            if getattr(other, key) != getattr(self.recipe.tags, key):
                raise UsageError(
                    f"{folder} was trained with task.{key}={getattr(other, key)}; give its recipe by --recipe"
                )
        self.check(task, manifest)
        store.restore(task.parts(), store.read_weights(folder))

    def check(self, task: TagCaptioner, manifest: dict[str, Any]) -> None:
        """See that the language model is the one that was trained, and the embeddings are of the same encoders.

        Raises:
            AdapterError: if not.
        """
        _check_embeddings(manifest.get("embeddings", {}), _signatures(task), task.encoder.name)
        known, here = manifest["language model"], task.language
        told = f"this captioner was made for the language model {known['name']}, not for {here.name}"
        if known["sizes"] != here.sizes():
            raise AdapterError(f"{told}: vocabulary, width and layers {known['sizes']} came, {here.sizes()} are here")
        if here.lent and alike(known["sample"], here.sample()) < ALIKE:
            raise AdapterError(f"{told}: it has other weights; give those it was trained on by task.llm")

    def caches(self, task: TagCaptioner) -> bool:
        """Tags are always kept; clips are cut for that."""
        return True

    def start(self, task: TagCaptioner, clips: Sequence[Clip], out: Path) -> None:
        """Nothing."""

    def trains(self, task: TagCaptioner) -> bool:
        """Always."""
        return True

    def kept(self) -> dict[str, Any]:
        """Nothing more."""
        return {}

    def facts(self, task: TagCaptioner) -> dict[str, Any]:
        """The language model, and what tells the encoders of embeddings apart from others."""
        language, heard = task.language, _signatures(task)
        return {
            **({"embeddings": heard} if heard else {}),
            "language model": {
                "name": language.name, "digest": language.digest, "sizes": language.sizes(),
                "sample": language.sample() if language.lent else [], "learns": self.recipe.tags.learns,
            }
        }  # fmt: skip

    def sizes(self, task: TagCaptioner) -> dict[str, int]:
        """Of the map of numbers and of the language model."""
        trained = sum(value.numel() for value in task.language.saved().values())
        maps = [p for part in (task.numbers, task.embeddings) if part is not None for p in part.parameters()]
        return {
            "mapper": sum(p.numel() for p in maps if p.requires_grad),
            "llm_trained": trained,
            "language_model": task.language.base_parameters(),
        }

    def judged(
        self, task: TagCaptioner, clips: Sequence[Clip], rows: Sequence[Prediction], out: Path
    ) -> list[dict[str, Any]]:
        """The caption beside its references, and what was heard."""
        return [
            {"references": list(c.captions), "caption": r.caption, "score": r.score, "tags": r.tags, "error": r.error}
            for c, r in zip(clips, rows, strict=True)
        ]

    def card(self, name: str, manifest: dict[str, Any]) -> str:
        """The model card."""
        return card(name, manifest, *self.told(name, manifest))

    def told(self, name: str, manifest: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
        """What the card says of it: what it does, how it is used, how it reads."""
        table = self.recipe.tags
        writer = manifest["language model"]["name"]
        does = f"captions sound from what {self.recipe.backbone.name} names in it, with {writer}"
        read = f"the {table.most} surest tags with their times" if table.reads == "list" else "one tag a row of scores"
        if table.join == "alone":
            does, read = f"captions sound as {self.recipe.backbone.name} hears it, with {writer}", "embeddings, no tags"
        elif len(backbones.names_of(self.recipe.backbone.name)) > 1:
            does = does.replace(" names in it", " names and hears in it")
            read += f", and embeddings ({table.join or 'add'})"
        return does, f"caption {name} sounds/ --out captions.csv", {"Reads": read}


def _signatures(task: TagCaptioner) -> dict[str, list[float]]:
    """Of each encoder that gives embeddings, by its name."""
    embedders = [] if task.embeddings is None else task.embeddings.embedders
    return {one.encoder.name: backbone.signature(one.encoder) for one in embedders}


def _check_embeddings(known: Mapping[str, list[float]], here: Mapping[str, list[float]], name: str) -> None:
    """A tagger may be another one, as tags are text; embeddings are not."""
    if list(known) != list(here):
        wanted, came = (" and ".join(names) or "no encoder" for names in (known, here))
        raise AdapterError(
            f"this captioner reads embeddings of {wanted}, but with the backbone {name} those of {came} come; only the"
            " tagger in front may be another one"
        )
    for encoder, spreads in known.items():
        room = backbone.ROUNDING.get(encoder, backbone.USUAL_ROUNDING)
        if len(spreads) != len(here[encoder]) or not np.allclose(spreads, here[encoder], rtol=room, atol=0):
            raise AdapterError(f"this captioner was trained on other weights of {encoder} than those here")


def _vocabulary(parts: Split, size: int, begun: Path | None) -> str:
    """Byte pairs of the captions and of what taggers name; or those of the folder that has the weights."""
    if begun is not None and (begun / VOCABULARY).is_file():
        return (begun / VOCABULARY).read_text(encoding="utf-8")
    said = [caption for clip in parts.train for caption in clip.captions]
    names = [name.lower() for kind in ("audioset", "yamnet") for name in tags.names(kind)]
    return seq2seq.byte_pairs([*said, *names], size)


def _pretences(table: config.TagsTable, captions: Sequence[str]) -> list[tuple[Pretence, dict[str, list[Event]]]]:
    """Every tagger that is pretended, with the events of every caption."""
    if not table.pretend:
        told = f"there are {len(captions)} captions without sound, but task.pretend names no tagger"
        raise UsageError(f"{told}; give some of {', '.join(pseudo.known())}")
    known = {name: pseudo.load(name) for name in table.pretend}
    measured = {name: confusions for name, confusions in known.items() if confusions is not None}
    if len(measured) < len(known):
        strange = ", ".join(name for name in known if name not in measured)
        raise UsageError(f"task.pretend={strange} is not measured; give some of {', '.join(pseudo.known())}")
    clauses = pseudo.Clauses(captions, Sentences(table.sentences))
    return [(Pretence(one), clauses.events(one.names)) for one in measured.values()]
