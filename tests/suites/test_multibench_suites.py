"""The paper's suites carry its tables 8 to 10, and their models have the sizes that follow."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from highmmt.configuration import HighMMTConfig
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.suites import Suite, available_suites, load_suite
from highmmt.suites.prepare import prepare_suite
from highmmt.train.recipes import build_config, encode_suite, with_retrieval

NAMES = ("small", "medium", "large", "retrieval")


def suite(name: str) -> Suite:
    return load_suite(f"multibench-{name}")


@pytest.fixture(scope="module")
def configs(twins: Path) -> dict[str, HighMMTConfig]:
    """Suite to the configuration that its twins lead to."""
    pytest.importorskip("h5py")
    found = {}
    for name in NAMES:
        loaded = load_suite(f"multibench-{name}", data_dir=twins)
        found[name] = build_config(loaded, loaded.build_processor())
    return found


def test_the_suites_of_the_paper_are_there_without_their_data() -> None:
    assert {f"multibench-{name}" for name in NAMES} < set(available_suites())
    for name in NAMES:
        assert all("data_dir" not in task.source for task in suite(name).tasks.values())


# Rows of tables 8, 9 and 10; the retrieval is the public code's, as table 12 has no hyperparameters.
MODEL = {
    "small": {"num_latents": 20, "heads": (1, 1, 8)},
    "medium": {"num_latents": 12, "heads": (1, 1, 8)},
    "large": {"num_latents": 20, "heads": (1, 4, 6)},
    "retrieval": {"num_latents": 20, "heads": (1, 4, 6)},
}
TRAINING = {
    "small": {"learning_rate": 5e-4, "weight_decay": 0.0},
    "medium": {"learning_rate": 1e-3, "weight_decay": 0.0},
    "large": {"learning_rate": 8e-4, "weight_decay": 1e-3},
    "retrieval": {"learning_rate": 3e-4, "weight_decay": 5e-4},
}
# Task: batch size, loss weight, evaluation weight.
TASKS = {
    "small": {"push": (18, 100.0, 100.0), "vision_touch": (64, 1.0, 1.0)},
    "medium": {"avmnist": (32, 0.8, 1.0), "enrico": (32, 1.0, 1.0), "push": (32, 1.1, 1.0)},
    "large": {
        "mimic": (20, 1.2, 1.0),
        "avmnist": (40, 0.9, 1.0),
        "mosei": (32, 1.1, 1.0),
        "urfunny": (32, 1.5, 1.0),
    },
    "retrieval": {"cifar_esc": (32, 1.0, 1.0), "avmnist": (40, 0.5, 1.0)},
}
# Task: input and output of its head.
HEADS = {
    "small": {"push": (768, 32), "vision_touch": (1280, 1)},  # table 8 prints 756, a slip: 12 pairs of 64
    "medium": {"avmnist": (128, 10), "enrico": (128, 20), "push": (768, 2)},
    "large": {"mimic": (128, 2), "avmnist": (128, 10), "mosei": (384, 2), "urfunny": (384, 2)},
    "retrieval": {"cifar_esc": (128, 2), "avmnist": (128, 10)},
}
# Task and modality, in the order of the paper: channels, axes, bands.
INPUTS = {
    "small": {
        "push": [(3, 1, 6), (7, 1, 6), (1, 3, 6), (7, 1, 6)],
        "vision_touch": [(3, 2, 6), (32, 1, 6), (8, 1, 6), (1, 2, 6), (4, 1, 6)],
    },
    "medium": {
        "avmnist": [(16, 2, 6), (256, 2, 6)],
        "enrico": [(3, 2, 6), (3, 2, 6)],
        "push": [(3, 1, 6), (7, 1, 6), (1, 3, 6), (7, 1, 6)],
    },
    "large": {
        "mimic": [(2, 1, 6), (2, 2, 6)],  # table 10 has 1 channel; the second here flags missing values
        "avmnist": [(16, 2, 6), (256, 2, 6)],
        "mosei": [(35, 1, 3), (74, 1, 3), (300, 1, 3)],
        "urfunny": [(371, 1, 3), (81, 1, 3), (300, 1, 3)],
    },
    "retrieval": {"cifar_esc": [(48, 2, 6), (256, 2, 6)], "avmnist": [(16, 2, 6), (256, 2, 6)]},
}


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_training_are_those_of_the_tables(name: str) -> None:
    loaded = suite(name)
    model = loaded.model
    heads = [f"num_{part}_heads" for part in ("cross_attention", "crossmodal_attention", "self_attention")]
    assert model["num_latents"] == MODEL[name]["num_latents"]
    assert tuple(model[key] for key in heads) == MODEL[name]["heads"]
    assert [model[key] for key in ("d_latents", "cross_attention_head_dim", "self_attention_head_dim")] == [64] * 3
    depth = ("num_unimodal_layers", "num_crossmodal_layers", "num_self_attends_per_layer")
    assert [model[key] for key in depth] == [1] * 3
    expected: dict[str, Any] = {**TRAINING[name], "optimizer": "adam", "max_grad_norm": None}
    assert {key: loaded.training[key] for key in expected} == expected


@pytest.mark.parametrize("name", NAMES)
def test_batches_and_weights_are_those_of_the_tables(name: str) -> None:
    tasks = suite(name).tasks
    assert {
        task: (spec.batch_size, spec.loss_weight, spec.evaluation_weight) for task, spec in tasks.items()
    } == TASKS[name]


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_those_of_the_tables(configs: dict[str, HighMMTConfig], name: str) -> None:
    config = configs[name]
    for task, expected in INPUTS[name].items():
        found = [config.modalities[modality] for modality in config.tasks[task].modalities]
        assert [(one.num_channels, one.num_axes, one.num_frequency_bands) for one in found] == expected
        assert all(one.max_frequency == 1 for one in found)


# The widest element: channels + axes x (2 bands + 1), and one place for each modality.
@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("small", 32 + 13 + 9),  # the public code declares 13 modalities, of which it uses 9, and has 58
        ("medium", 256 + 26 + 8),  # the public code feeds AV-MNIST pixel by pixel, unlike table 9, and has 37
        ("large", 371 + 7 + 9),
        ("retrieval", 256 + 26 + 3),
    ],
)
def test_elements_are_as_wide_as_the_tables_make_them(
    configs: dict[str, HighMMTConfig], name: str, width: int
) -> None:
    assert configs[name].d_all == width
    assert width == {"small": 54, "medium": 290, "large": 387, "retrieval": 285}[name]


def test_the_public_codes_widths_follow_from_what_it_declares(configs: dict[str, HighMMTConfig]) -> None:
    def width(channels: dict[str, tuple[int, int]]) -> int:
        modalities = {name: {"num_channels": c, "num_axes": a} for name, (c, a) in channels.items()}
        return HighMMTConfig(modalities=modalities, tasks={"one": {"modalities": list(modalities)}}).d_all

    small = {name: (one.num_channels, one.num_axes) for name, one in configs["small"].modalities.items()}
    assert width({**small, **{f"unused{number}": (1, 1) for number in range(4)}}) == 58
    per_step = {"pose": (1, 1), "sensor": (1, 1), "trajectory": (1, 2), "control": (1, 1)}
    by_pixel = {"image": (1, 2), "audio": (1, 1), "image_1": (3, 2), "image_2": (3, 2)}
    assert width({**by_pixel, **per_step}) == 37


@pytest.mark.parametrize("name", NAMES)
def test_heads_have_the_sizes_of_the_tables(configs: dict[str, HighMMTConfig], name: str) -> None:
    model = HighMMTModel(configs[name])
    found = {
        task: next(tuple(weight.shape) for weight in model.heads[task].parameters() if weight.dim() == 2)[::-1]
        for task in configs[name].tasks
    }
    assert found == HEADS[name]


def parameters(config: HighMMTConfig, latents: int, heads: tuple[int, int, int]) -> dict[str, int]:
    """Worked out from appendix B: norms, attention and gated feed-forward of width 64."""
    d, inner = 64, 64
    cross, crossmodal, own = heads
    feed_forward = 2 * d + (d + 1) * 8 * d + (4 * d + 1) * d

    def attention(count: int, context: int) -> int:
        return 2 * d + d * count * inner + context * 2 * count * inner + count * inner * d + d

    block = attention(own, d) + feed_forward
    encoder = latents * d + attention(cross, config.d_all) + 2 * config.d_all + feed_forward + block
    fusion = attention(crossmodal, d) + 2 * d + feed_forward + block
    return {"unimodal": encoder, "crossmodal": fusion}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_that_the_sizes_ask_for(configs: dict[str, HighMMTConfig], name: str) -> None:
    counts = HighMMTModel(configs[name]).num_parameters_by_component()
    expected = parameters(configs[name], MODEL[name]["num_latents"], MODEL[name]["heads"])  # type: ignore[arg-type]
    assert {part: counts[part] for part in expected} == expected
    assert counts["heads"] == sum(2 * width + (width + 1) * labels for width, labels in HEADS[name].values())
    total = {"small": 525_325, "medium": 532_964, "large": 527_382, "retrieval": 511_046}
    assert counts["total"] == total[name]


def test_the_large_suite_has_the_public_codes_parameters(configs: dict[str, HighMMTConfig]) -> None:
    counts = HighMMTModel(configs["large"]).num_parameters_by_component()
    assert counts["unimodal"] + counts["crossmodal"] == 522_246  # trunk of the public four-task script
    assert counts["heads"] == 5_136


def test_words_are_one_modality_of_two_tasks_with_one_scale(configs: dict[str, HighMMTConfig], twins: Path) -> None:
    large = configs["large"]
    assert [task for task, spec in large.tasks.items() if "text" in spec.modalities] == ["mosei", "urfunny"]
    assert len(large.modality_task_pairs()) == 10 and len(large.interactions()) == 8
    loaded = load_suite("multibench-large", data_dir=twins).select(["mosei"])
    encoded = encode_suite(loaded, loaded.build_processor())["mosei"]["test"]
    raw = loaded.load("mosei")["test"]
    assert encoded["text"][0] == [number for step in raw["text"][0] for number in step]


def test_a_run_of_a_named_suite_can_be_repeated_from_its_own_file(twins: Path, tmp_path: Path) -> None:
    loaded = load_suite("multibench-large", data_dir=twins)
    again = load_suite(loaded.save(tmp_path / "suite.yaml"))
    assert again == loaded and again.fingerprint == loaded.fingerprint
    assert again.tasks["mimic"].source["data_dir"] == str(twins)


def test_a_suite_can_be_had_with_the_quirks_of_the_public_code(twins: Path) -> None:
    plain = load_suite("multibench-large", data_dir=twins)
    faithful = plain.faithful_to_public_code()
    assert len(faithful.load("urfunny")["train"]) == 5 * len(plain.load("urfunny")["train"])
    assert faithful.load("mosei")["train"].with_format("numpy")[0]["vision"].shape == (50, 35)
    assert faithful.fingerprint != plain.fingerprint
    config = build_config(faithful, faithful.build_processor())
    assert config.d_all == 387 and config.modalities["table"].num_channels == 2
    with pytest.raises(ValueError, match="no task reads data with a quirk"):
        load_suite("starter").faithful_to_public_code()


@pytest.mark.parametrize("name", NAMES)
def test_models_read_the_public_codes_rows_as_well(configs: dict[str, HighMMTConfig], twins: Path, name: str) -> None:
    faithful = load_suite(f"multibench-{name}", data_dir=twins).faithful_to_public_code()
    processor = faithful.build_processor()
    assert build_config(faithful, processor).d_all == configs[name].d_all
    if name == "retrieval":  # overlapping windows
        assert processor.shape("cifar_esc", "audio").axes == (25, 25)
        assert processor.shape("avmnist", "audio").axes == (7, 7)


def test_retrieval_next_to_fusion_learns_from_matching_pairs_alone(twins: Path) -> None:
    both = with_retrieval(load_suite("multibench-retrieval", data_dir=twins))
    rows = both.load("cifar_esc-retrieval")["train"].with_format("numpy")
    assert 2 * len(rows) == len(both.load("cifar_esc")["train"])
    heard = rows["audio"][:][:, : 17 * 6].reshape(len(rows), 17, -1).mean(axis=2).argmax(axis=1)  # see the twins
    assert heard.tolist() == rows["concept"][:].tolist()
    assert both.tasks["cifar_esc-retrieval"].target == {"problem_type": "retrieval", "column": "concept"}
    assert both.tasks["cifar_esc"].source.get("pairs", True)
    encoded = both.select(["cifar_esc-retrieval"])
    labels = encode_suite(encoded, encoded.build_processor())["cifar_esc-retrieval"]["train"]["labels"][:]
    assert len(set(labels)) == 17 and sorted(labels) == sorted(heard.tolist())


# --- Which files are there -------------------------------------------------------------------------------------------


def test_prepare_finds_files_with_size_and_hash(twins: Path) -> None:
    found = {entry.pattern: entry for entry in prepare_suite(suite("large"), twins)}
    content = (twins / "mimic" / "im.pk").read_bytes()
    assert found["im.pk"].sha256 == hashlib.sha256(content).hexdigest()
    assert (found["im.pk"].count, found["im.pk"].size, found["im.pk"].task) == (1, len(content), "mimic")
    assert len(found) == 9 and all(entry.count == 1 for entry in found.values())


def test_prepare_takes_many_files_together(twins: Path, tmp_path: Path) -> None:
    (tmp_path / "enrico" / "screenshots").mkdir(parents=True)
    for name in ("b", "a"):
        (tmp_path / "enrico" / "screenshots" / f"{name}.jpg").write_bytes(name.encode())
    entries = prepare_suite(suite("medium").select(["enrico"]), tmp_path)
    screenshots, missing = entries[1], [entry.pattern for entry in entries if not entry.count]
    both = "\n".join(hashlib.sha256(name).hexdigest() for name in (b"a", b"b"))
    assert (screenshots.count, screenshots.size) == (2, 2)
    assert screenshots.sha256 == hashlib.sha256(both.encode()).hexdigest()
    assert missing == ["design_topics.csv", "wireframes/*.png"]
    assert entries[0].sha256 == "" and "luileito/enrico" in entries[0].source


def test_prepare_of_a_suite_with_files_of_its_own_needs_no_folder() -> None:
    assert len(prepare_suite(load_suite("starter"))) == 21
    with pytest.raises(ValueError, match=r"tasks\.mimic: reads files of yours; say where.*They are im\.pk"):
        prepare_suite(suite("large"))
    with pytest.raises(FileNotFoundError, match="The data folder .*nowhere does not exist"):
        prepare_suite(suite("large"), "nowhere")


@pytest.mark.parametrize(
    ("size", "text"), [(0, ""), (999, "999 B"), (1000, "1.0 kB"), (3_700_000_000, "3.7 GB"), (5 * 10**15, "5000.0 TB")]
)
def test_sizes_have_units(size: int, text: str) -> None:
    from highmmt.suites.prepare import FoundFiles

    assert FoundFiles("a", "b", int(size > 0), size, "", "").size_text == text


@pytest.fixture
def page(root: Path) -> str:
    return (root / "docs" / "multibench.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_the_page_says_what_the_suites_are(page: str, configs: dict[str, HighMMTConfig], name: str) -> None:
    line = next(line for line in page.splitlines() if line.startswith(f"| `multibench-{name}`"))
    counts = HighMMTModel(configs[name]).num_parameters_by_component()
    for value in (f"{counts['total']:,}", str(configs[name].d_all), *suite(name).tasks):
        assert value in line


def test_the_page_lists_every_file_and_where_it_is_looked_for(page: str) -> None:
    from highmmt.suites.multibench.files import FILES

    for builder, files in FILES.items():
        line = next(line for line in page.splitlines() if line.startswith(f"| `{builder}` |"))
        assert all(f"`{name}`" in line for name in (*files.folders, *files.patterns))
