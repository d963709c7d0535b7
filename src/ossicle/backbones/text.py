"""Language models that are spoken to in embeddings: frozen, with peft's LoRA on them."""

import inspect
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors
import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor, nn

from ossicle.backbones import network, weights
from ossicle.devices import Precision, resolve
from ossicle.errors import AdapterError, CheckpointError, UsageError, WeightsError
from ossicle.files import write_atomic

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
REPO = re.compile(r"[\w.-]+/[\w.-]+")
SAMPLED = 256
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class Lora:
    """Low-rank corrections of a language model's linear maps (Hu et al. 2021), as peft makes them.

    Args:
        rank: of each correction.
        alpha: the correction is scaled by alpha / rank.
        dropout: before it, in training.
        targets: names of the linear maps; captioning with LoRA takes query and key.
    """

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    targets: tuple[str, ...] = ("q_proj", "k_proj")


def alike(one: Sequence[float], other: Sequence[float]) -> float:
    """Cosine of two samples of weights: 1 for the same, above 0.9 for a quantised copy, about 0 for another model."""
    return float(nn.functional.cosine_similarity(torch.tensor(one), torch.tensor(other), dim=0))


@dataclass(frozen=True)
class Given:
    """What a language model reads before it writes.

    Args:
        embedded: (batch, places, width).
        mask: (batch, places) bool where it is real; None where all is. Of a causal model padding comes first, so that
            what it writes follows at once.
    """

    embedded: Tensor
    mask: Tensor | None = None

    @property
    def real(self) -> Tensor:
        """(batch, places) bool."""
        shape, device = self.embedded.shape[:2], self.embedded.device
        return torch.ones(shape, dtype=torch.bool, device=device) if self.mask is None else self.mask

    def rows(self, chosen: slice) -> "Given":
        """Some of the rows."""
        return Given(self.embedded[chosen], None if self.mask is None else self.mask[chosen])

    def each(self, times: int) -> "Given":
        """Every row that many times, one after another."""
        mask = None if self.mask is None else self.mask.repeat_interleave(times, dim=0)
        return Given(self.embedded.repeat_interleave(times, dim=0), mask)


class LanguageModel(nn.Module):
    """A causal language model with its tokenizer. It is frozen; only a LoRA on it trains.

    Args:
        model: of transformers.
        tokenizer: its own.
        name: as it is known to `ossicle models`, on the hub, or by its folder.
        digest: SHA-256 of its weights.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, digest: str = "") -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.name, self.digest = tokenizer, name, digest
        self.wrapped: list[Any] = []  # peft's model around `causal`, kept out of the module tree
        head = model.get_output_embeddings()
        if head is None:
            raise WeightsError(f"{name} has no output embeddings, so it cannot write; give a causal language model")
        head.register_forward_pre_hook(lambda module, given: (given[0].contiguous(),))  # a slice takes twice as long
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    def train(self, mode: bool = True) -> "LanguageModel":
        """Only the LoRA's dropout ever trains; the frozen model keeps its own off."""
        super().train(False)
        for path, module in self.named_modules():
            if "lora_dropout" in path:
                module.train(mode)
        self.training = mode
        return self

    @property
    def lent(self) -> bool:
        """Whether its own weights are those of others, so that only a LoRA on it is saved, in peft's format."""
        return True

    def sizes(self) -> list[int]:
        """Vocabulary, width, layers."""
        table = self.model.get_input_embeddings().weight
        return [*map(int, table.shape), int(self.model.config.get_text_config().num_hidden_layers)]

    def sample(self) -> list[float]:
        """Embedding values at fixed places: with `alike`, tells models of one size apart in whatever precision."""
        flat = self.model.get_input_embeddings().weight.detach().flatten()
        places = torch.linspace(0, len(flat) - 1, SAMPLED, dtype=torch.float64).long()
        return [round(float(value), 5) for value in flat[places.to(flat.device)]]

    def base_parameters(self) -> int:
        """Of the frozen model."""
        return int(self.model.num_parameters()) - sum(value.numel() for value in self.saved().values())

    @property
    def width(self) -> int:
        """Of its embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    def embed(self, ids: Tensor) -> Tensor:
        """(…) token ids to (…, width)."""
        table = self.model.get_input_embeddings()
        rows: Tensor = table(ids.to(table.weight.device))
        return rows

    def logits(self, embedded: Tensor, mask: Tensor, keep: int) -> Tensor:
        """Scores of the next token after each of the last `keep` places.

        Args:
            embedded: (batch, places, width).
            mask: (batch, places) bool or int, 0 where padded.
            keep: places counted from the end; the others never reach the vocabulary.

        Returns:
            (batch, keep, vocabulary).
        """
        asked: dict[str, Any] = {"logits_to_keep": keep} if self._keeps else {}
        if not mask[:, 0].all():  # positions are counted from the first real place, as in `generate`
            asked["position_ids"] = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
        out = self.model(inputs_embeds=embedded, attention_mask=mask.long(), use_cache=False, **asked)
        found: Tensor = out.logits[:, -keep:]
        return found

    @property
    def longest(self) -> int | None:
        """Places that it can take, what is read and what is written together; None is any number."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return None if found is None else int(found)

    @property
    def reads(self) -> int | None:
        """Tokens that it can read, whatever it writes; None is any number."""
        return None

    @property
    def writes(self) -> int | None:
        """Tokens that it can write, whatever it reads, the end token among them; None is any number."""
        return None

    def generate(self, given: Given, settings: Any) -> Any:
        """What transformers' `generate` gives of what is read."""
        return self.model.generate(
            inputs_embeds=given.embedded, attention_mask=given.real.long(), generation_config=settings
        )  # fmt: skip

    def score(self, given: Given, ids: Tensor) -> Tensor:
        """(batch, tokens) float32 log-probability of each caption token; of what stands at -100 it means nothing.

        Args:
            given: what is read.
            ids: (batch, tokens) caption and end token, -100 after them.
        """
        known = ids.clamp(min=0)
        embedded = torch.cat([given.embedded, self.embed(known).to(given.embedded.dtype)], dim=1)
        logits = self.logits(embedded, torch.cat([given.real, ids != -100], dim=1), ids.shape[1] + 1)[:, :-1]
        return logits.float().log_softmax(dim=-1).gather(2, known[..., None])[..., 0]

    def add_lora(self, lora: Lora) -> None:
        """Put a fresh LoRA on it: A drawn from torch's generator, B zero, so that it starts silent.

        Raises:
            AdapterError: if a target is not in this model.
        """
        import peft
        from transformers.pytorch_utils import Conv1D

        config = peft.LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets),
            bias="none", task_type="CAUSAL_LM",
        )  # fmt: skip
        try:
            self._wrap(config)
        except ValueError as error:
            maps = (nn.Linear, Conv1D)
            linear = {path.rpartition(".")[2] for path, m in self.model.named_modules() if isinstance(m, maps)}
            raise AdapterError(
                f"LoRA targets {', '.join(lora.targets)} do not fit {self.name} ({line(error)}); "
                f"it has {', '.join(sorted(linear))}"
            ) from None

    def load_lora(self, folder: Path, *, trainable: bool = False) -> None:
        """Put a saved LoRA on it, of whatever rank and targets it has.

        Raises:
            AdapterError: if it was made for another language model.
            CheckpointError: if the folder is broken.
        """
        import peft

        state = read_lora(folder)
        try:
            config = peft.LoraConfig.from_pretrained(str(folder))
            config.inference_mode = not trainable
            self._wrap(config)
        except (ValueError, TypeError, OSError) as error:
            raise AdapterError(f"the LoRA in {folder} does not fit {self.name}: {line(error)}") from None
        self.restore(state)
        if not trainable:
            self.requires_grad_(False)

    def _wrap(self, config: Any) -> None:
        import peft

        config.base_model_name_or_path = None  # known by our own name below
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # peft asks transformers by a name that will go, and says how GPT-2 is laid out
            self.wrapped = [peft.get_peft_model(self.model, config)]
        config.base_model_name_or_path = self.name
        self.eval()

    def saved(self) -> dict[str, Tensor]:
        """The LoRA under peft's names; nothing if there is none."""
        import peft

        if not self.wrapped:
            return {}
        state: dict[str, Tensor] = peft.get_peft_model_state_dict(self.wrapped[0], save_embedding_layers=False)
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Fill the LoRA from what `saved` gave.

        Raises:
            AdapterError: if names or shapes differ.
        """
        import peft

        own = self.saved()
        shapes, came = ({k: tuple(v.shape) for k, v in d.items()} for d in (own, state))
        wrong = [k for k in shapes.keys() | came.keys() if shapes.get(k) != came.get(k)]
        if wrong:
            first = sorted(wrong)[0]
            raise AdapterError(
                f"the LoRA was made for another language model than {self.name}, or another rank: {len(wrong)} tensors "
                f"differ, such as {first}: shape {came.get(first)} came, {shapes.get(first)} is wanted"
            )
        if own:
            peft.set_peft_model_state_dict(self.wrapped[0], state)

    def save(self, folder: Path) -> None:
        """Write the LoRA in peft's format; nothing if there is none.

        Raises:
            CheckpointError: if it cannot be written; earlier files stay.
        """
        if not self.wrapped:
            return
        tensors = {key: value.detach().cpu().contiguous() for key, value in self.saved().items()}
        write_lora(folder, self.wrapped[0].peft_config["default"], tensors)


def read_lora(folder: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA in peft's format.

    Raises:
        CheckpointError: if they are absent or broken.
    """
    try:
        return safetensors.torch.load_file(folder / WEIGHTS)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} cannot be read ({error}); train or fetch it again") from None


def write_lora(folder: Path, config: Any, tensors: dict[str, Tensor]) -> None:
    """Write a LoRA in peft's format: `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        CheckpointError: if they cannot be written.
    """
    known = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    text = json.dumps(known | {"inference_mode": True}, indent=2, default=str) + "\n"
    write_atomic(folder / WEIGHTS, lambda part: safetensors.torch.save_file(tensors, part, {"format": "pt"}))
    write_atomic(folder / CONFIG, lambda part: part.write_text(text, encoding="utf-8"))


def language_model(name: str, *, bits: int = 0, precision: Precision = "auto") -> LanguageModel:
    """Load a language model.

    Args:
        name: a language model of `ossicle models`, a folder in transformers' format, or a repository on the hub.
        bits: 4 or 8 loads it quantised, which needs a GPU and bitsandbytes; 0 does not.
        precision: of the frozen weights; bfloat16 is taken on a GPU only.

    Raises:
        UnknownNameError: for a name that is none of these.
        UsageError: if it cannot be quantised here.
        WeightsError: if it cannot be had or is no causal language model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.disable_progress_bar()
    options: dict[str, Any] = {"quantization_config": _quantised(bits), "device_map": {"": 0}} if bits else {}
    half = torch.cuda.is_available() and resolve(precision) == "bfloat16"
    dtype = torch.bfloat16 if half else torch.float32
    folder = folder_of(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{name} is no causal language model that transformers can load: {line(error)}") from None
    shown = name if name in weights.SOURCES or (REPO.fullmatch(name) and not Path(name).exists()) else folder.name
    commit = folder.name if shown == name and name not in weights.SOURCES else ""  # hashing 16 GB takes a minute
    return LanguageModel(model, tokenizer, shown, commit or weights.digest(folder))


def folder_of(name: str) -> Path:
    """The folder of a language model by its name in `ossicle models`, on the hub, or its own."""
    if name in weights.SOURCES or Path(name).expanduser().exists() or not REPO.fullmatch(name):
        return weights.fetch(name)
    from huggingface_hub import snapshot_download

    try:
        local = not network.hub_reachable()
        told: dict[str, Any] = {"ignore_patterns": ["consolidated*"], "local_files_only": local}
        folder = Path(snapshot_download(name, allow_patterns=HUB_FILES, **told))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*HUB_FILES, "pytorch_model*.bin"], **told))
        return folder
    except Exception as error:  # each version of the hub library raises its own
        raise WeightsError(f"there is no folder {name}, and the hub did not give it: {line(error)}") from None


def _quantised(bits: int) -> Any:
    """Settings of a 4- or 8-bit base (Dettmers et al. 2023, QLoRA)."""
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if bits not in (4, 8):
        raise UsageError(f"a base of {bits} bits was asked for; give 4, 8, or 0 for none")
    if not torch.cuda.is_available() or find_spec("bitsandbytes") is None:
        raise UsageError(f"a {bits}-bit base needs a CUDA GPU and `pip install bitsandbytes`; set task.llm_bits=0")
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def line(error: Exception) -> str:
    """What another library says went wrong, in one line."""
    return " ".join(str(error).split())[:300]
