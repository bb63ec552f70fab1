"""Immune repertoires: sets of amino acid sequences with how often each was seen, and a label each.

Read from a folder, or generated. A folder holds `metadata.tsv` with the columns `filename` and `label` (0 or 1), and
those files, tab-separated as the AIRR rearrangement standard has them: `junction_aa` or `cdr3_aa` is the sequence,
`duplicate_count`, where it is there, how often it was seen.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .config import WrongSettingError

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
SEQUENCE_COLUMNS = ("junction_aa", "cdr3_aa")
POSITIONS = 3
"""Features that say where in its sequence an amino acid stands: begin, middle, end."""

LENGTHS = (10, 18)
"""Amino acids of generated sequences: the fewest and the most."""


@dataclass(frozen=True)
class Repertoire:
    """Sequences, their counts and the label of one individual."""

    sequences: list[str]
    counts: list[float]
    label: int


def read_folder(folder: Path) -> list[Repertoire]:
    """Read all repertoires that the folder's metadata name.

    Sequences without an amino acid are left out, as AIRR files have them for rearrangements that are not productive;
    how many is printed. None is cut.

    Raises:
        ValueError: if a column is missing, a label is not 0 or 1, or a sequence has a letter that is no amino acid.
    """
    metadata = _rows(folder / "metadata.tsv", ("filename", "label"))
    return [_read_repertoire(folder / row["filename"], row["label"]) for row in metadata]


def _read_repertoire(path: Path, label: str) -> Repertoire:
    if label not in ("0", "1"):
        raise ValueError(f"label must be 0 or 1; got {label!r} for {path.name}.")
    rows = _rows(path)
    column = next((name for name in SEQUENCE_COLUMNS if rows and name in rows[0]), None)
    if column is None:
        raise ValueError(f"{path} must have a row and a column {' or '.join(SEQUENCE_COLUMNS)}.")
    found = [(row[column], float(row.get("duplicate_count") or 1)) for row in rows if row[column]]
    if len(found) < len(rows):
        print(f"{path.name}: {len(rows) - len(found)} of {len(rows)} rows have no sequence")
    for line, (sequence, _) in enumerate(found, start=1):
        strange = set(sequence) - set(AMINO_ACIDS)
        if strange:
            raise ValueError(f"{column} must hold amino acids; got {sorted(strange)} in sequence {line} of {path}.")
    return Repertoire([sequence for sequence, _ in found], [count for _, count in found], int(label))


def _rows(path: Path, needed: tuple[str, ...] = ()) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    missing = [name for name in needed if not rows or name not in rows[0]]
    if missing:
        raise ValueError(f"{path} must have rows and the columns {', '.join(needed)}; without {', '.join(missing)}.")
    return rows


def generate(
    *,
    repertoires: int,
    sequences: int,
    motif: str,
    witness_rate: float,
    seed: int,
    lengths: tuple[int, int] = LENGTHS,
) -> list[Repertoire]:
    """Make repertoires of random sequences; every other one has the motif in a share `witness_rate` of them.

    A motif stands anywhere in its sequence; in every fourth a random amino acid replaces one of its letters.

    Raises:
        ValueError: if a positive repertoire would have no sequence with the motif, or the motif does not fit into one.
    """
    check_witnesses(sequences, motif, witness_rate, lengths[0])
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, low: int = 0) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    def sequence(with_motif: bool) -> str:
        letters = [AMINO_ACIDS[i] for i in torch.randint(20, (draw(lengths[1] + 1, lengths[0]),), generator=generator)]
        if with_motif:
            implanted = list(motif)
            if draw(4) == 0:
                implanted[draw(len(motif))] = AMINO_ACIDS[draw(20)]
            start = draw(len(letters) - len(motif) + 1)
            letters[start : start + len(motif)] = implanted
        return "".join(letters)

    made = []
    for index in range(repertoires):
        label = index % 2
        witnesses = round(sequences * witness_rate) if label else 0
        made.append(Repertoire([sequence(i < witnesses) for i in range(sequences)], [1.0] * sequences, label))
    return made


def check_witnesses(sequences: int, motif: str, witness_rate: float, shortest: int = LENGTHS[0]) -> None:
    """Check that what is asked of `generate` can be told apart.

    Raises:
        WrongSettingError: naming the setting.
    """
    if not motif or set(motif) - set(AMINO_ACIDS) or len(motif) > shortest:
        raise WrongSettingError("motif", f"1 to {shortest} letters out of {AMINO_ACIDS}", motif)
    if not 1 <= round(sequences * witness_rate) <= sequences:
        least = f"such that of {sequences} sequences at least one and at most all have the motif"
        raise WrongSettingError("witness_rate", least, witness_rate)


def encode(repertoire: Repertoire) -> Tensor:
    """Return sequences as `[N, length, 23]`: one-hot amino acids and positions, times the log of the count.

    Shorter sequences are padded with zeros to the longest one; none is cut.
    """
    longest = max(map(len, repertoire.sequences))
    features = torch.zeros(len(repertoire.sequences), longest, len(AMINO_ACIDS) + POSITIONS)
    index = {letter: i for i, letter in enumerate(AMINO_ACIDS)}
    for row, (sequence, count) in enumerate(zip(repertoire.sequences, repertoire.counts, strict=True)):
        ids = torch.tensor([index[letter] for letter in sequence])
        place = torch.linspace(-1, 1, len(sequence)) if len(sequence) > 1 else torch.zeros(1)
        features[row, torch.arange(len(sequence)), ids] = 1
        features[row, : len(sequence), len(AMINO_ACIDS) :] = torch.stack(
            [(-place).clamp(min=0), 1 - place.abs(), place.clamp(min=0)], dim=-1
        )
        features[row] *= torch.log1p(torch.tensor(count)) / torch.log(torch.tensor(2.0))
    return features


def batch_of(encoded: list[Tensor], sampled: int | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return `[B, N, length, 23]` and bool `[B, N]`, true where a sequence is; `sampled` of each at random, or all."""
    if sampled is not None:
        encoded = [one[torch.randperm(len(one), generator=generator)[:sampled]] for one in encoded]
    most, longest = max(map(len, encoded)), max(one.shape[1] for one in encoded)
    batch = torch.zeros(len(encoded), most, longest, encoded[0].shape[2])
    mask = torch.zeros(len(encoded), most, dtype=torch.bool)
    for row, one in enumerate(encoded):
        batch[row, : one.shape[0], : one.shape[1]] = one
        mask[row, : one.shape[0]] = True
    return batch, mask
