"""Words and digits: linear probe against LoRA, Houlsby and look-aside adapters of about 0.1 M, whisper-tiny.en.

python benchmarks/quality_keywords.py --data speech-commands:PATH
python benchmarks/quality_keywords.py --data fsdd:PATH
"""

import argparse
from typing import Any

import rows

METHODS = {
    "linear probe": "probe()",
    "lora": "lora(rank=8,targets=qkvo)+norm()",
    "houlsby": "bottleneck(sites=both,rank=16,norms=false)+norm()",
    "look-aside, time": "lookaside(attn=time,mlp=time,rank=5)+norm()",
}


def settings(method: str, source: str, args: argparse.Namespace) -> dict[str, Any]:
    """The tables of one method's recipe."""
    frozen = method == "linear probe"
    return {
        "data": {"source": source, "train": ["train"], "test": ["test"], "hold_out": 0.0},
        "adapter": {"spec": METHODS[method]},
        "task": {
            **rows.TASK, "dropout": 0.1, "cache_versions": 0 if frozen else 3,
            "augment": {} if frozen else {"shift_s": 0.1, "gain_db": 6.0},
        },
        "train": {
            **rows.TRAIN,
            "epochs": 30 if frozen else args.epochs, "batch": 32, "lr": 1e-3,
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    source = args.data.partition(":")[0]
    jobs = {(method, seed): settings(method, source, args) for seed in args.seeds for method in METHODS}
    rows.collect(f"quality_keywords_{source.replace('-', '_')}", jobs, args.data, {"epochs": args.epochs})


if __name__ == "__main__":
    main()
