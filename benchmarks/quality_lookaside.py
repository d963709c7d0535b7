"""The Look-Aside Adapter and its controls on a frozen image model, dinov2-small, at equal parameter counts.

    python benchmarks/quality_lookaside.py --data esc50:PATH

Few-shot ESC-50 as in quality_presets.py: 8 clips a class from folds 1 to 3, tested on fold 4. Adapters sit in the upper
four blocks; the blocks below are done once for each of two versions of a clip. About 0.11 M parameters each.
"""

import argparse
from typing import Any

import rows

BLOCKS = "blocks=top:4"
# 2 · 384 · rank · taps, for two sub-layers of four blocks: rank 18 with 1 tap each, 6 with 3, 2 with 9
METHODS = {
    "linear probe": "probe()",
    "parallel bottleneck": f"bottleneck(sites=both,rank=18,norms=false,{BLOCKS})",
    "look-aside 1x1": f"lookaside(attn=point,mlp=point,rank=18,{BLOCKS})",
    "look-aside 3x3": f"lookaside(attn=both,mlp=both,rank=2,{BLOCKS})",
    "look-aside attn time, mlp freq": f"lookaside(attn=time,mlp=freq,rank=6,{BLOCKS})",
    "look-aside attn freq, mlp time": f"lookaside(attn=freq,mlp=time,rank=6,{BLOCKS})",
    "look-aside time": f"lookaside(attn=time,mlp=time,rank=6,{BLOCKS})",
    "look-aside freq": f"lookaside(attn=freq,mlp=freq,rank=6,{BLOCKS})",
}


def settings(method: str, args: argparse.Namespace) -> dict[str, Any]:
    """The tables of one method's recipe."""
    frozen = method == "linear probe"
    return {
        "data": {"source": "esc50", "train": ["1", "2", "3"], "test": ["4"], "hold_out": 0.0, "per_class": 8},
        "backbone": {"name": "dinov2-small"},
        "adapter": {"spec": METHODS[method]},
        "task": {
            "layers": [10, 12], **rows.TASK, "dropout": 0.3,
            "cache_versions": 0 if frozen else 2, "augment": {} if frozen else {"shift_s": 1.0, "gain_db": 6.0},
        },
        "train": {
            **rows.TRAIN,
            "epochs": 30 if frozen else args.epochs, "batch": 8, "lr": 1e-3,
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    jobs = {(method, seed): settings(method, args) for seed in args.seeds for method in METHODS}
    how = {"backbone": "dinov2-small", "clips_per_class": 8, "epochs": args.epochs}
    rows.collect("quality_lookaside", jobs, args.data, how)


if __name__ == "__main__":
    main()
