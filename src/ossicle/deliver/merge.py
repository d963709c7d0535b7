"""Several captioners' LoRAs to one: by concatenation, which adds their corrections, or another way that peft has."""

import math
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ossicle.adapters import store
from ossicle.backbones.text import alike, read_lora, write_lora
from ossicle.errors import AdapterError, CheckpointError, UnknownNameError, UsageError
from ossicle.recipe.caption_llm import ALIKE, RECIPE, CaptionPlan, differing
from ossicle.recipe.config import read as read_recipe
from ossicle.share import zoo

WAYS = ("cat", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune", "svd")
DENSE = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
# A concatenation that differs from the sum of its parts by more than this share of it is wrong.
EXACT = 1e-5


def merge(
    folders: Sequence[str],
    out: Path,
    *,
    how: str = "cat",
    weights: Sequence[float] | None = None,
    density: float = 0.5,
) -> dict[str, Any]:
    """Merge the LoRAs of captioners that share everything else; the result is a folder like theirs.

    With "cat" the rank is the sum of the ranks and the correction is exactly the sum of weight · alpha / rank · B A
    (captioning with merged LoRAs, section 2.3). That is measured here, layer by layer, before anything is written.

    Args:
        folders: two or more captioner folders, trained with `--stage lora-only --init-from` one of them.
        out: the folder to make.
        how: one of `WAYS`; all but cat and svd need equal ranks.
        weights: one for each folder; None is their mean, 1 / number.
        density: share of values kept by the ways in `DENSE`.

    Returns:
        `rank`, `weights`, and `difference`: the largest difference of the merged correction from the weighted sum of
        corrections, as a share of the sum's largest value.

    Raises:
        UsageError: for fewer than two folders, a wrong number of weights, or an `out` that is there.
        AdapterError: if the folders do not share language model, mapper and encoder adapter, or ranks differ.
        CheckpointError: if a folder is broken.
    """
    shares = _shares(folders, how, weights, density)
    if out.exists():
        raise UsageError(f"--out {out} is there already; give another")
    found = [zoo.find(folder) for folder in folders]
    manifests = [store.read_manifest(folder) for folder in found]
    _check_alike(found, manifests)
    states = [read_lora(folder / store.LLM) for folder in found]
    configs = [_config(folder) for folder in found]
    _check_ranks(found, configs, how)
    merged, config = _merged(states, configs, shares, how, density)
    difference = _difference(merged, config, states, configs, shares)
    if how == "cat" and difference > EXACT:
        raise CheckpointError(
            f"the merged correction differs from the sum by {difference:.1e} of it; nothing was written"
        )
    told = {"how": how, "weights": shares, "rank": int(config.r), "difference": difference}
    _write(out, found, manifests, merged, config, told)
    return told


def _shares(folders: Sequence[str], how: str, weights: Sequence[float] | None, density: float) -> list[float]:
    if len(folders) < 2:
        raise UsageError(f"{len(folders)} folder was given; merging wants two or more")
    if how not in WAYS:
        raise UnknownNameError("way of merging", how, WAYS)
    if not 0 < density <= 1:
        raise UsageError(f"--density {density} is not a share; give more than 0 and at most 1")
    shares = [1 / len(folders)] * len(folders) if weights is None else list(weights)
    if len(shares) != len(folders) or not all(map(math.isfinite, shares)):
        raise UsageError(f"{len(shares)} weights for {len(folders)} folders: {shares}; give one number for each")
    return shares


def _check_alike(found: Sequence[Path], manifests: Sequence[dict[str, Any]]) -> None:
    """See that only the LoRAs differ."""
    first = manifests[0]
    rest = [_rest(folder) for folder in found]
    recipes = [read_recipe(folder / RECIPE) for folder in found]
    for folder, manifest, tensors, recipe in zip(found, manifests, rest, recipes, strict=True):
        if manifest.get("task") != "caption-llm":
            told = f"{folder} holds a {manifest.get('task')} adapter"
            raise AdapterError(f"{told}; only those of `ossicle train caption-llm` are merged")
        models = [m["language model"] for m in (first, manifest)]
        if models[0]["sizes"] != models[1]["sizes"] or alike(models[0]["sample"], models[1]["sample"]) < ALIKE:
            raise AdapterError(
                f"{folder} was made for the language model {models[1]['name']}, {found[0]} for {models[0]['name']}; "
                "LoRAs merge on one model only"
            )
        if other := differing(recipe, recipes[0]):
            raise AdapterError(f"{folder} was trained with another {', '.join(other)} than {found[0]}; give alike ones")
        same = tensors.keys() == rest[0].keys() and all(torch.equal(tensors[k], rest[0][k]) for k in tensors)
        if not same or manifest["backbone"]["digest"] != first["backbone"]["digest"]:
            raise AdapterError(
                f"{folder} has another mapper or encoder than {found[0]}; train each further LoRA with "
                "--stage lora-only --init-from the first"
            )


def _rest(folder: Path) -> dict[str, Tensor]:
    """Everything that was trained besides the LoRA."""
    return {k: v for k, v in store.read_weights(folder).items() if not k.startswith(f"{store.LLM}/")}


def _check_ranks(found: Sequence[Path], configs: Sequence[Any], how: str) -> None:
    targets = [set(lora.target_modules) for lora in configs]
    for folder, lora, own in zip(found, configs, targets, strict=True):
        if own != targets[0]:
            raise AdapterError(
                f"{folder} has LoRA on {sorted(own)}, {found[0]} on {sorted(targets[0])}; they do not merge"
            )
        if how not in ("cat", "svd") and lora.r != configs[0].r:
            raise AdapterError(
                f"{folder} has rank {lora.r}, {found[0]} rank {configs[0].r}; '{how}' wants equal ranks, use cat"
            )


def _config(folder: Path) -> Any:
    import peft

    try:
        config = peft.LoraConfig.from_pretrained(str(folder / store.LLM))
    except (ValueError, TypeError, OSError) as error:
        raise CheckpointError(f"{folder / store.LLM} is no LoRA: {' '.join(str(error).split())}") from None
    config.task_type = None  # the skeleton below is no causal language model
    return config


def _skeleton(state: dict[str, Tensor]) -> nn.Module:
    """Linear maps where the LoRA sits, all of one zero, so that the language model itself need not be loaded."""
    root = nn.Module()
    for path in sorted({_path(key) for key in state}):
        *parents, last = path.split(".")
        place = root
        for name in parents:
            if not hasattr(place, name):
                place.add_module(name, nn.Module())
            place = place.get_submodule(name)
        a, b = (state[f"base_model.model.{path}.lora_{x}.weight"] for x in "AB")
        linear = nn.Linear(1, 1, bias=False)
        linear.in_features, linear.out_features = a.shape[1], b.shape[0]
        linear.weight = nn.Parameter(torch.zeros(1, 1).expand(b.shape[0], a.shape[1]), requires_grad=False)
        place.add_module(last, linear)
    return root


def _path(key: str) -> str:
    return key.removeprefix("base_model.model.").rpartition(".lora_")[0]


def _merged(
    states: Sequence[dict[str, Tensor]], configs: Sequence[Any], shares: list[float], how: str, density: float
) -> tuple[dict[str, Tensor], Any]:
    import peft

    torch.manual_seed(0)  # dare drops values at random
    names = [f"lora{i}" for i in range(len(states))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says that the skeleton is no model of transformers
        model = peft.get_peft_model(_skeleton(states[0]), configs[0], adapter_name=names[0])
        for name, config in zip(names[1:], configs[1:], strict=True):
            model.add_adapter(name, config)
        for name, state in zip(names, states, strict=True):
            peft.set_peft_model_state_dict(model, {k: v.float() for k, v in state.items()}, adapter_name=name)
        options: dict[str, Any] = {"density": density} if how in DENSE else {}
        model.base_model.add_weighted_adapter(names, shares, "merged", combination_type=how, **options)
        merged = peft.get_peft_model_state_dict(model, adapter_name="merged", save_embedding_layers=False)
    config = model.peft_config["merged"]
    config.task_type, config.lora_dropout = "CAUSAL_LM", 0.0
    return {k: v.detach().contiguous() for k, v in merged.items()}, config


def _difference(
    merged: dict[str, Tensor],
    config: Any,
    states: Sequence[dict[str, Tensor]],
    configs: Sequence[Any],
    shares: Sequence[float],
) -> float:
    """The largest difference from the weighted sum of corrections, as a share of the sum's largest value."""
    worst = largest = 0.0
    for key in (k for k in merged if ".lora_A." in k):
        told = _correction(merged, key, config)
        wanted = sum(w * _correction(s, key, c) for w, s, c in zip(shares, states, configs, strict=True))
        worst = max(worst, float((told - wanted).abs().max()))
        largest = max(largest, float(torch.as_tensor(wanted).abs().max()))
    return worst / largest if largest else worst


def _correction(state: dict[str, Tensor], key: str, config: Any) -> Tensor:
    """B A · alpha / rank in float64."""
    a, b = state[key].double(), state[key.replace(".lora_A.", ".lora_B.")].double()
    return float(config.lora_alpha) / int(config.r) * b @ a


def _write(
    out: Path,
    found: Sequence[Path],
    manifests: Sequence[dict[str, Any]],
    merged: dict[str, Tensor],
    lora: Any,
    told: dict[str, Any],
) -> None:
    """The first folder with the merged LoRA; scores of the parts are not those of the whole."""
    first, manifest = found[0], dict(manifests[0])
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        for name in (RECIPE, store.WEIGHTS):
            shutil.copy(first / name, part / name)
        lora.base_model_name_or_path = manifest["language model"]["name"]
        write_lora(part / store.LLM, lora, merged)
        language = manifest["language model"]
        sizes = {"rank": int(lora.r), "alpha": float(lora.lora_alpha), "dropout": 0.0}
        manifest |= {"language model": language | {"lora": language["lora"] | sizes}}
        manifest |= {"scores": {}, "merged": {**told, "from": [folder.resolve().name for folder in found]}}
        manifest["parameters"] = manifest["parameters"] | {"llm_lora": sum(v.numel() for v in merged.values())}
        store.save_manifest(part, manifest)
        plan = CaptionPlan.saved(read_recipe(part / RECIPE), part)
        (part / "README.md").write_text(plan.card(out.resolve().name, manifest), encoding="utf-8")
        part.rename(out)
    except OSError as error:
        raise CheckpointError(f"cannot write {out}: {error}; free some space or choose another folder") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
