"""The benchmarks run at tiny sizes and count what they say they count. No test looks at a time."""

from __future__ import annotations

import importlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

pytest.importorskip("rich")

from highmmt.configuration import HighMMTConfig  # noqa: E402
from highmmt.modeling_highmmt import HighMMTModel  # noqa: E402
from highmmt.training import Outcome  # noqa: E402


@pytest.fixture(autouse=True)
def benchmark_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Benchmarks import each other as scripts of one folder do; threads are set back."""
    monkeypatch.syspath_prepend(root / "benchmarks")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(name: str, tmp_path: Path, *options: str) -> dict[str, Any]:
    output = tmp_path / "results.json"
    common = ["--smoke", "--repeats", "2", "--threads", "1", "--output", str(output)]
    importlib.import_module(name).main([*common, *options])
    return json.loads(output.read_text(encoding="utf-8"))


def load_naive(root: Path) -> ModuleType:
    path = root / "tests" / "modeling" / "naive.py"
    spec = importlib.util.spec_from_file_location("naive", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_avmnist_times_steps_and_whole_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("avmnist")
    outcome = Outcome({"avmnist": ("accuracy", 0.5)})
    monkeypatch.setattr("avmnist.train_recipe", lambda suite, folder, options: outcome)
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.parquet").touch()
    results = run("avmnist", tmp_path, "--data", str(tmp_path), "--seeds", "2")
    assert len(results["step"]["seconds"]["ours"]) == 2 and min(results["step"]["seconds"]["ours"]) > 0
    assert [(entry["seed"], entry["accuracy"]) for entry in results["runs"]] == [(0, 0.5), (1, 0.5)]


@pytest.fixture(params=[True, False], ids=["with bf16", "without bf16"])
def precisions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precisions of a processor that multiplies bf16, or of one that does not."""
    slow = frozenset() if request.param else frozenset({torch.bfloat16})
    monkeypatch.setattr("highmmt.modeling_highmmt.inputs._SLOW_ON_CPU", slow)
    return ["fp32", "bf16"] if request.param else ["fp32"]


def test_throughput_gives_time_operations_and_memory_of_every_contender(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], precisions: list[str]
) -> None:
    results = run("throughput", tmp_path)
    assert list(results["gemm_peak"]) == precisions
    assert results["environment"]["threads"] == 1
    contenders = {"whole model": ["ours"], "encoders": ["ours", "PerceiverModel"]}
    for title, names in contenders.items():
        for kind in ("train", "infer"):
            measured = results[title][kind]
            assert list(measured) == [f"{name} {precision}" for name in names for precision in precisions]
            for values in measured.values():
                assert len(values["seconds"]) == 2
                assert values["peak_bytes"] > 0
                assert values["samples_per_second"] > 0
                assert 0 < values["share_of_gemm_peak"]
            assert measured["ours fp32"]["times_as_long_as_ours"]["fp32"]["median"] == 1.0
        # A backward pass has two products for each of the forward pass.
        trained, inferred = (results[title][kind]["ours fp32"]["operations"] for kind in ("train", "infer"))
        assert 2.5 * inferred < trained <= 3.05 * inferred
    assert results["whole model"]["infer"]["ours fp32"]["operations"] < results["operations_as_written"]
    for shares in results["time_by_kind"].values():
        assert sum(shares.values()) == pytest.approx(1)
        assert min(shares["matrix products"], shares["layer norm"], shares["Adam"]) > 0
    printed = capsys.readouterr()
    assert "whole model: one training step" in printed.out
    assert ("PerceiverModel bf16" in printed.out) == ("bf16" in precisions)
    assert ("no bf16 arithmetic" in printed.err) == ("bf16" not in precisions)


def test_throughput_says_what_is_wrong_with_a_folder_that_is_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--original .*private_test_scripts.*checkout of"):
        run("throughput", tmp_path, "--original", str(tmp_path))


def test_cost_has_a_point_for_each_size_and_a_ratio_for_each_grouping(tmp_path: Path, precisions: list[str]) -> None:
    picture = tmp_path / "cost.png"
    results = run("cost", tmp_path, "--picture", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    curves = results["curves"]
    assert [point["x"] for point in curves["sequence length"]["points"]] == [4, 8, 16]
    assert [point["x"] for point in curves["ordered pairs"]["points"]] == [6, 12, 30]
    fixed, growing = curves["tasks, samples in all fixed"], curves["tasks, samples per task fixed"]
    assert [point["num_samples"] for point in fixed["points"]] == [8, 8, 8]
    assert [point["num_samples"] for point in growing["points"]] == [2, 4, 8]
    assert results["groups"]["fp32"]["share all"]["times_as_long_as_share_all"]["median"] == 1.0
    assert list(results["groups"]) == precisions
    for groups in results["groups"].values():
        assert list(groups) == ["share all", "3 + 3 groups", "10 + 8 groups"]
        sizes = [values["parameters"] for values in groups.values()]
        assert sizes == sorted(sizes)


def test_operations_grow_in_a_straight_line_with_elements_and_with_pairs(tmp_path: Path) -> None:
    cost, measuring = (importlib.import_module(name) for name in ("cost", "measuring"))

    def operations(*sizes: int) -> float:
        return measuring.count_operations(cost.Run(cost.similar_tasks(*sizes)).infer)

    short, middle, long = (operations(1, 1, elements, 2) for elements in (10, 20, 30))
    assert long - middle == middle - short > 0
    # Six sequences each time: as three tasks of two modalities, two of three, one of six.
    few, some, many = (operations(tasks, 6 // tasks, 20, 2) for tasks in (3, 2, 1))
    assert few < some < many
    per_pair = (some - few) / (2 * 6 - 3 * 2)
    assert (many - some) / (30 - 12) == pytest.approx(per_pair, rel=0.15)


def test_throughput_gives_the_public_code_the_same_weights(tmp_path: Path) -> None:
    folder = os.environ.get("HIGHMMT_ORIGINAL")
    if not folder:
        pytest.skip("HIGHMMT_ORIGINAL names no checkout of the public code")
    with warnings.catch_warnings():
        results = run("throughput", tmp_path, "--original", folder)
    assert results["largest_difference_to_public"] < 1e-5
    assert results["whole model"]["infer"]["public fp32"]["operations"] == pytest.approx(
        results["operations_as_written"], rel=1e-3
    )


@pytest.mark.parametrize(
    "name",
    [
        *("zero columns", "folded input attention", "folded latent attention", "shared first query"),
        *("one batch per unimodal group", "one batch per crossmodal group", "keys once per modality"),
        *("last latent only", "value and gate apart", "cached codes"),
    ],
)
def test_the_plain_form_of_each_saving_gives_the_same_numbers(name: str) -> None:
    savings, setting = importlib.import_module("savings"), importlib.import_module("large_setting")
    assert savings.check_equal(name, savings.SAVINGS[name], setting.large_setting(batch_divisor=20)) < 1e-3


@pytest.mark.slow
def test_each_saving_is_taken_out_and_the_numbers_stay(tmp_path: Path, precisions: list[str]) -> None:
    results = run("savings", tmp_path)
    savings = importlib.import_module("savings").SAVINGS
    assert list(results["savings"]) == list(savings)
    for name, values in results["savings"].items():
        assert 0 <= values["largest_relative_difference"] < 1e-3, name
        for kind in (*(f"training {precision}" for precision in precisions), "inference fp32"):
            assert len(values[kind]["seconds"]) == 2
    without = {name: values["operations"] / results["operations"] for name, values in results["savings"].items()}
    fewer = ["zero columns", "folded input attention", "folded latent attention", "shared first query"]
    for name in [*fewer, "keys once per modality", "last latent only"]:
        assert without[name] > 1.01, name
    for name in ("feed-forward in blocks", "value and gate apart", "cached codes"):
        assert without[name] == 1.0, name


def test_a_plain_form_with_other_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    savings, setting = importlib.import_module("savings"), importlib.import_module("large_setting")
    small = setting.large_setting(batch_divisor=20)
    right = savings.all_latents

    def wrong(*args: Any, **kwargs: Any) -> torch.Tensor:
        return 1.01 * right(*args, **kwargs)

    changed = savings.Saving("", ((savings.LatentTransformer, "forward", wrong),))
    with pytest.raises(SystemExit, match="last latent: without this saving .* differs by"):
        savings.check_equal("last latent", changed, small)
    never_called = savings.Saving("", ((savings.LatentTransformer, "extra_repr", wrong),))
    with pytest.raises(SystemExit, match="does not call what this benchmark replaces"):
        savings.check_equal("last latent", never_called, small)


def test_operations_as_written_are_those_of_the_plain_equations(root: Path) -> None:
    large, measuring = (importlib.import_module(name) for name in ("large_setting", "measuring"))
    modalities = {"image": {"num_channels": 3, "num_axes": 2}, "sound": {"num_channels": 5}}
    tasks = {"two": {"modalities": ["image", "sound"], "num_labels": 3}, "one": {"modalities": ["sound"]}}
    config = HighMMTConfig(
        modalities=modalities,
        tasks=tasks,
        num_latents=4,
        d_latents=12,
        num_crossmodal_attention_heads=3,
        num_self_attention_heads=2,
        cross_attention_head_dim=5,
        self_attention_head_dim=7,
        num_unimodal_layers=2,
        num_self_attends_per_layer=2,
        head_norm="layer_norm",
    )
    shapes = {"two": {"image": (3, 4), "sound": (6,)}, "one": {"sound": (6,)}}
    setting = large.draw(config, shapes, {"two": 1, "one": 1})
    model, naive = HighMMTModel(config), load_naive(root)

    @torch.no_grad()
    def plain() -> None:
        for task, values in setting.inputs.items():
            naive.logits(model, task, {name: value[0] for name, value in values.items()})

    assert measuring.count_operations(plain) == large.arithmetic_as_written(config, setting.inputs)


def test_peak_memory_is_what_was_alive_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring = importlib.import_module("measuring")

    def work() -> None:
        first = torch.zeros(1000, 1000)
        second = first + 1
        del first
        third = second + 1  # noqa: F841 - its memory is what counts

    assert measuring.peak_memory(work) == pytest.approx(8e6, rel=0.01)


def test_interleaving_times_every_contender_in_every_round() -> None:
    measuring, calls = importlib.import_module("measuring"), []
    seconds = measuring.interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, "", warm_up=1)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    assert "".join(calls) == "abbaabba"


def test_a_ratio_is_that_of_the_medians_with_the_spread_within_rounds() -> None:
    spread = importlib.import_module("measuring").ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    assert spread.median == 2.0
    assert (spread.lower, spread.upper) == (2.0, 2.5)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_processing_compares_every_kind_with_a_plain_loop_that_gives_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run("processing", tmp_path, "--workers", "1", "--kinds", "image", "table", "text")
    assert list(results["kinds"]) == ["image", "table", "text"]
    for kind, values in results["kinds"].items():
        assert set(values["seconds"]) == {"plain", "first", "first, one process", "later"}
        assert min(values["samples_per_second"].values()) > 0
        assert set(results["second_run"][kind]) == {"first", "second"}
    assert "Raw rows to batches, 1 workers" in capsys.readouterr().out


def test_every_kind_is_in_the_benchmark_of_processing() -> None:
    from highmmt.processing import SERIALIZERS

    assert set(importlib.import_module("processing").OPTIONS) == set(SERIALIZERS)


@pytest.mark.parametrize("kind", ["video", "audio", "spectrum", "time_series", "set", "graph", "word_vectors"])
def test_ours_and_the_plain_loop_agree(kind: str) -> None:
    benchmark = importlib.import_module("processing")
    rows = [benchmark.sample(kind, np.random.default_rng(seed)) for seed in range(6)]
    data = Dataset.from_dict({"sample": rows, "label": [0, 1] * 3})
    processor = benchmark.new_processor(kind)
    processor.fit("one", data)
    plain = benchmark.plain_epoch(benchmark.PlainRows(data, kind, processor), 0)
    ours = benchmark.our_epoch(processor, kind, processor.encode("one", data))
    torch.testing.assert_close(ours[0], plain[0], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_memory_gives_the_peak_of_every_process_at_both_sizes(tmp_path: Path) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells the peak of a process")
    results = run("memory", tmp_path)
    assert {name: len(found) for name, found in results["cases"].items()} == {
        f"{what}, {factor}x": 2 for what in ("0 workers", "2 workers", "evaluation") for factor in (1, 10)
    }
    assert results["arrow_bytes"]["10"] > 9 * results["arrow_bytes"]["1"]
    assert list(results["growth"]) == [
        "0 workers, main process",
        "2 workers, main process",
        "2 workers, worker process",
        "evaluation, main process",
    ]
    for found in results["growth"].values():
        assert found["growth"] == found["peaks"][1] / found["peaks"][0]
        assert min(found["peaks"]) > 50e6


@pytest.mark.slow
def test_scaling_gives_the_throughput_of_one_and_two_processes(tmp_path: Path) -> None:
    results = run("scaling", tmp_path, "--steps", "1")
    assert list(results["throughput"]) == ["shared 1", "shared 2", "own 1", "own 2"]
    for name, found in results["throughput"].items():
        assert len(results["step_seconds"][name]) == 2
        assert found["samples_per_second"]["median"] > 0
        assert name.endswith("2") or found["factor"]["median"] == 1
