"""Notes of `dovetail fit` for a network of four layers, with numbers that are easy to check."""

from __future__ import annotations

from typing import Any

TUCKER = {"format": "tucker", "version": 1, "values": "f32"}
RATIOS = {(16, 16): 0.4, (32, 16): 0.5, (16, 32): 0.6, (32, 32): 0.8, (64, 32): 1.25}
"""D1 and D2 → over dense."""


def tucker(rank_in: int, rank_out: int) -> dict[str, Any]:
    return TUCKER | {"rank_in": rank_in, "rank_out": rank_out}


def decision(name: str, dense: float, chosen: float, **more: Any) -> dict[str, Any]:
    plain = {"shape": "64→32 3x3 8x8", "spec": None, "reason": "", "best": None, "damage": 0.0}
    return {"name": name, "dense": dense, "chosen": chosen, **plain, **more}


def notes(**more: Any) -> dict[str, Any]:
    """One layer in a format, one whose best candidate is too slow, one that need not change, one without candidates."""
    candidates = [
        {"spec": tucker(d1, d2), "ratio": ratio, "low": 0.9 * ratio, "high": 1.2 * ratio}
        for (d1, d2), ratio in RATIOS.items()
    ]
    slow = [
        {"spec": {"format": "block_sparse", "density": density}, "ratio": ratio, "low": ratio, "high": ratio}
        for density, ratio in ((0.5, 1.1), (0.25, 0.95))
    ]
    plan = {
        "decisions": [
            decision("stem", 1e-5, 1e-5, reason="first layer"),
            decision("one", 1e-4, 5e-5, spec=tucker(32, 16), best=4e-5),
            decision("two", 1e-4, 1e-4, best=4e-5, reason="not needed: dense is within the budget"),
            decision("three", 4e-5, 4e-5, best=3.8e-5, reason="nothing gains 10%: the best takes 95%"),
        ],
        "priced": [
            {"shape": "3→64", "weight": [64, 3, 3, 3], "layers": ["stem"], "dense": 1e-5, "candidates": []},
            {"shape": "x", "weight": [32, 64, 3, 3], "layers": ["two", "one"], "dense": 1e-4, "candidates": candidates},
            {"shape": "y", "weight": [32, 32, 3, 3], "layers": ["three"], "dense": 4e-5, "candidates": slow},
        ],
        "predicted": {"latency": 2.2e-4},
        "dense": {"latency": 2.7e-4},
        "fixed": {"latency": 2e-5},
        "limits": {"latency": 2.4e-4},
        "damage": 0.1,
        "rule": "knapsack",
        "margin": 0.1,
        "survey": {
            "machine": {"cpu": "A Processor", "cores": 2, "isa": ["avx2"]},
            "threads": 2,
            "dense_ms": 0.27,
            "rival": "openvino-int8",
            "rival_ms": 0.3,
            "rest_ms": 0.02,
        },
    }
    asked = {
        "recipe": {
            "network": {"name": "net", "options": {"classes": 10}},
            "data": {"name": "digits"},
            "method": {"name": "tucker"},
        },
        "budget": "latency=0.8x",
        "accuracy_drop": 1.0,
        "values": "int8",
        "rule": "knapsack",
        "margin": None,
    }
    achieved = {
        "dense_accuracy": 94.0,
        "accuracy": 92.5,
        "bytes": 1000,
        "layers": {"stem": 1.05e-5, "one": 7e-5, "two": 1.02e-4, "three": 3.72e-5},
        "latency": 2.3e-4,
        "rival": "openvino-int8",
        "rival_seconds": 3.2e-4,
        "bounds": {"latency": 2.56e-4},
        "kept": {"accuracy": False, "latency": True},
    }
    return {"asked": asked, "plan": plan, "achieved": achieved, **more}
