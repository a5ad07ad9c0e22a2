"""How many parameters parameter groups have, as copies and as adapters.

Prints the table of docs/growing.md: the starter suite with the groups of docs/starter, and the paper's large setting
(table 10) with as many groups as the public code's maps have.

    python benchmarks/group_parameters.py [--ranks 2 4 8]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from large_setting import large_setting

from highmmt.configuration import HighMMTConfig, ParameterGroups
from highmmt.heterogeneity import random_parameter_groups
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.suites import load_suite
from highmmt.train import build_config

STARTER_GROUPS = Path(__file__).parents[1] / "docs" / "starter" / "parameter_groups.json"


def settings() -> dict[str, tuple[HighMMTConfig, ParameterGroups]]:
    """The configs without groups, and their groups; a count depends on how many groups there are alone."""
    suite = load_suite("starter")
    starter = build_config(suite, suite.build_processor())
    large = large_setting().config
    return {
        "starter": (starter, ParameterGroups.from_json_file(STARTER_GROUPS)),
        "large": (large, random_parameter_groups(large.modality_task_pairs(), large.interactions(), 4, 5)),
    }


def main() -> None:
    """Print one row for each setting and way of grouping."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8])
    ranks = parser.parse_args().ranks
    print("| setting | groups | unimodal | crossmodal | heads and embeddings | total |")
    print("|---|---|---|---|---|---|")
    for name, (config, groups) in settings().items():
        count = f"{groups.num_unimodal_groups} + {groups.num_crossmodal_groups}"
        grouped = {**config.to_dict(), "parameter_groups": groups.to_dict()}
        rows = {"share all": config, f"{count} copies": HighMMTConfig.from_dict(grouped)}
        for rank in ranks:
            rows[f"{count} adapters, rank {rank}"] = HighMMTConfig.from_dict({**grouped, "group_adapter_rank": rank})
        for label, row in rows.items():
            with torch.device("meta"):
                model = HighMMTModel(row)
            counts = model.num_parameters_by_component()
            rest = counts["heads"] + counts["embeddings"]
            print(
                f"| {name} | {label} | {counts['unimodal']:,} | {counts['crossmodal']:,} | {rest:,} | "
                f"{counts['total']:,} |"
            )


if __name__ == "__main__":
    main()
