"""The recipes on forgetting: their data, their arms, and a run of each at a small size."""

import json
from dataclasses import replace

import bit_patterns
import immune_repertoire
import numpy as np
import pytest
import torch
import yaml
from common.arms import compare_arms, parse_seeds
from common.bit_bags import make_bags
from common.config import parse_arguments
from common.forgetting import attention_config, forgetting_function
from common.images import Images, load_images
from common.repertoires import AMINO_ACIDS, Repertoire, batch_of, encode, generate, read_folder

from hf_memoria import LwpfAttentionConfig
from hf_memoria.attentions.lwpf.forgetting import PFU, ForgettingReLU
from hf_memoria.backbones.spec import SPECS

pytestmark = pytest.mark.slow

RECIPES = {"bit_patterns": bit_patterns, "immune_repertoire": immune_repertoire}
if "vit" in SPECS:
    import image_classification

    RECIPES["image_classification"] = image_classification


def arguments(recipe, *flags):
    return parse_arguments(RECIPES[recipe].Arguments, RECIPES[recipe].CONFIGS, list(map(str, flags)))


SMALL = {
    "bit_patterns": ("--num_bags", 64, "--epochs", 2),
    "immune_repertoire": (
        "--repertoires",
        8,
        "--sequences",
        6,
        "--folds",
        2,
        "--epochs",
        2,
        "--kernels",
        4,
        "--witness_rate",
        0.5,
    ),
    "image_classification": (
        *("--train_images", 64, "--validation_images", 32, "--epochs", 1, "--evaluations", 2),
        *("--layers", 1, "--hidden_size", 16, "--heads", 2),
    ),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_compares_the_three_with_seeds(recipe, tmp_path, capsys):
    module = RECIPES[recipe]
    module.main(arguments(recipe, *SMALL[recipe], "--seeds", "0,1", "--output_dir", tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["summary"]) == ["softmax", "relu", "pfu"]
    curves = []
    for arm, measures in results["summary"].items():
        assert measures.keys() == module.MEASURES.keys()
        for name, found in measures.items():
            values = [run[name] for run in results["runs"][arm]]
            assert found["value"] == pytest.approx(np.mean(values))
            assert found["error"] == pytest.approx(np.std(values, ddof=1))
        curves.append(next(iter(results["runs"][arm][0]["curves"].values())))
    assert len(curves[0]) == 2
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "± standard deviation of a seed" in capsys.readouterr().out
    again = module.main(arguments(recipe, *SMALL[recipe], "--seeds", "1", "--output_dir", tmp_path / "again"))
    for arm, runs in again["runs"].items():
        for name in module.MEASURES:
            assert runs[0][name] == pytest.approx(results["runs"][arm][1][name])


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_config_can_be_read_and_holds_only_what_differs(recipe):
    folder = RECIPES[recipe].CONFIGS
    base = yaml.safe_load((folder / "base.yaml").read_text())
    assert arguments(recipe).attention == ["softmax", "relu", "pfu"]
    for variant in sorted(set(folder.glob("*.yaml")) - {folder / "base.yaml"}):
        arguments(recipe, "--config", variant)
        assert not {key for key, value in yaml.safe_load(variant.read_text()).items() if base.get(key) == value}


def test_arms_are_what_they_are_called():
    assert forgetting_function("softmax", "median", 0.0) is None
    assert isinstance(forgetting_function("relu", "median", 0.0), ForgettingReLU)
    unit = forgetting_function("pfu", "0.5", 0.1)
    assert isinstance(unit, PFU)
    assert (unit.mu, unit.sigma) == (0.5, 0.1)
    assert attention_config("softmax", "median", 0.0) is None
    assert attention_config("relu", "median", 0.0) == LwpfAttentionConfig()
    assert attention_config("pfu", "mean", 0.1) == LwpfAttentionConfig("pfu", mu="mean", sigma=0.1)
    assert parse_seeds(["0,1,5"]) == [0, 1, 5]


def test_one_seed_has_no_spread(tmp_path):
    args = arguments("bit_patterns")
    run = {"accuracy": 0.5, "curves": {"accuracy": [(1, 0.5)]}}
    done = compare_arms(
        {"relu": "ReLU"}, [3], lambda *_: run, {"accuracy": "accuracy"}, ("accuracy", "x", "y"), tmp_path, args
    )
    assert done["summary"]["relu"]["accuracy"] == {"value": 0.5, "error": None}


def codes(bits):
    return (bits.long() << torch.arange(bits.shape[-1])).sum(-1)


def test_bags_are_those_of_the_demonstration():
    bags = make_bags(2048, 16, 8, 8, (43, 44))
    # Found once with hflayers' own data set and its seeds.
    signals = torch.tensor([156, 2, 26, 17, 61, 251, 71, 87])
    first = [62, 179, 111, 167, 99, 6, 18, 103, 21, 217, 249, 231, 251, 1, 79, 162]
    assert codes(bags.bits[0]).tolist() == first
    assert bags.bits.sum() == 131423
    assert torch.equal(torch.isin(codes(bags.bits), signals).sum(-1), bags.labels.long())
    assert bags.labels.mean() == 0.5
    assert codes(bags.bits).min() > 0


@pytest.mark.parametrize(("bits", "signals"), [(2, 2), (3, 1), (4, 14)])
def test_bags_are_positive_where_a_signal_is(bits, signals):
    bags = make_bags(64, 5, signals, bits, (0, 1))
    used = codes(bags.bits[bags.labels.bool()])
    background = set(codes(bags.bits[~bags.labels.bool()]).flatten().tolist())
    assert 0 not in background
    assert all(sum(code not in background for code in bag) <= 1 for bag in used.tolist())
    assert len(set(range(1, 2**bits)) - background) >= signals


def test_a_quarter_of_the_bags_is_held_out_half_of_either_class():
    args = arguments("bit_patterns", "--num_bags", 64)
    training, held_out = bit_patterns.bags_of(3, args)
    assert (len(training), len(held_out)) == (48, 16)
    assert held_out.labels.tolist() == [1.0] * 8 + [0.0] * 8
    assert torch.equal(bit_patterns.bags_of(4, args)[1].bits, held_out.bits)
    fresh = [bit_patterns.bags_of(seed, replace(args, data_seed=None))[1].bits for seed in (3, 4)]
    assert not torch.equal(*fresh)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_layer_norms_are_a_setting(layer_norm):
    model = bit_patterns.build("relu", replace(arguments("bit_patterns"), layer_norm=layer_norm))
    assert any(isinstance(module, torch.nn.LayerNorm) for module in model.modules()) is layer_norm


def test_generated_repertoires_differ_by_the_motif():
    made = generate(repertoires=6, sequences=50, motif="LDRHG", witness_rate=0.2, seed=0)
    assert [one.label for one in made] == [0, 1] * 3
    for one in made:
        # Of ten witnesses, a quarter have a letter replaced.
        assert (sum("LDRHG" in sequence for sequence in one.sequences) >= 4) is (one.label == 1)
        assert all(10 <= len(sequence) <= 18 for sequence in one.sequences)
    assert generate(repertoires=6, sequences=50, motif="LDRHG", witness_rate=0.2, seed=0) == made


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sequences": 10}, "argument --witness_rate: must be such that of 10 sequences at least one .*; got 0.02"),
        ({"witness_rate": 1.5}, "argument --witness_rate: .*; got 1.5"),
        ({"motif": "LDRHGLDRHGL"}, "argument --motif: must be 1 to 10 letters out of ACDE.*; got 'LDRHGLDRHGL'"),
        ({"motif": "LDXHG"}, "argument --motif: .*; got 'LDXHG'"),
    ],
)
def test_repertoires_without_a_witness_are_refused(changes, words):
    settings = {"repertoires": 4, "sequences": 50, "motif": "LDRHG", "witness_rate": 0.02, "seed": 0} | changes
    with pytest.raises(ValueError, match=words):
        generate(**settings)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--seeds", "x"), "argument --seeds: must be one or more whole numbers, as 0,1,2; got 'x'"),
        (("--seeds", "0,-1"), "argument --seeds: must be one or more whole numbers"),
        (("--mu", "med"), "argument --mu: must be median, mean or a number; got 'med'"),
        (("--mu", "nan"), "argument --mu: must be"),
        (("--sigma", "-1"), "argument --sigma: must be 0 or above; got -1.0"),
        (("--attention", "relu", "gelu"), "argument --attention: must be among softmax, relu, pfu; got ['gelu']"),
        (("--batch_size", "0"), "argument --batch_size: must be above 0; got 0"),
        (("--learning_rate", "fast"), "argument --learning_rate/--learning-rate: invalid float value: 'fast'"),
    ],
)
def test_a_wrong_flag_is_named(recipe, flags, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        arguments(recipe, *flags)
    assert words in capsys.readouterr().err


def test_wrong_settings_of_one_recipe_are_named(capsys):
    for recipe, flag, value in (
        ("bit_patterns", "num_signals", 255),
        ("bit_patterns", "num_bags", 7),
        ("immune_repertoire", "sequences", 10),
        ("immune_repertoire", "folds", 1),
    ):
        with pytest.raises(SystemExit, match="2"):
            arguments(recipe, f"--{flag}", value)
        named = "witness_rate" if flag == "sequences" else flag
        assert f"argument --{named}: must be " in capsys.readouterr().err


def test_nothing_is_cut_and_padding_is_masked():
    long = "ACDEFGHIKLMNPQRSTVWY" * 3
    encoded = encode(Repertoire(["CAS", long], [1.0, 3.0], 1))
    assert encoded.shape == (2, 60, 23)
    assert "".join(AMINO_ACIDS[i] for i in encoded[1, :, :20].argmax(-1)) == long
    assert not encoded[0, 3:].any()
    assert encoded[0, :3, :20].sum(-1).tolist() == [1.0, 1.0, 1.0]
    assert encoded[1, 0, :20].sum().item() == pytest.approx(2.0)  # log2(1 + 3)
    assert encoded[0, :3, 20:].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    other = encode(Repertoire(["CASS"] * 5, [1.0] * 5, 0))
    batch, mask = batch_of([encoded, other], None, torch.Generator())
    assert batch.shape == (2, 5, 60, 23)
    assert mask.tolist() == [[True, True, False, False, False], [True] * 5]
    batch, mask = batch_of([encoded, other], 1, torch.Generator())
    assert mask.tolist() == [[True], [True]]


def write(folder, name, text):
    (folder / name).write_text(text.replace(" ", "\t"), encoding="utf-8")


def test_repertoires_are_read_from_a_folder(tmp_path, capsys):
    write(tmp_path, "metadata.tsv", "filename label\na.tsv 1\nb.tsv 0\n")
    write(tmp_path, "a.tsv", "junction_aa duplicate_count\nCASSF 4\n 2\nCAW 1\n")
    write(tmp_path, "b.tsv", "cdr3_aa v_call\nASS TRBV1\n")
    one, other = read_folder(tmp_path)
    assert one == Repertoire(["CASSF", "CAW"], [4.0, 1.0], 1)
    assert other == Repertoire(["ASS"], [1.0], 0)
    assert "a.tsv: 1 of 3 rows have no sequence" in capsys.readouterr().out
    for text, words in (
        ("junction_aa\nCA*F\n", r"junction_aa must hold amino acids; got \['\*'\] in sequence 1"),
        ("sequence\nACG\n", "must have a row and a column junction_aa or cdr3_aa"),
    ):
        write(tmp_path, "b.tsv", text)
        with pytest.raises(ValueError, match=words):
            read_folder(tmp_path)
    write(tmp_path, "metadata.tsv", "filename label\na.tsv yes\n")
    with pytest.raises(ValueError, match=r"label must be 0 or 1; got 'yes' for a\.tsv"):
        read_folder(tmp_path)
    write(tmp_path, "metadata.tsv", "file label\na.tsv 1\n")
    with pytest.raises(ValueError, match="without filename"):
        read_folder(tmp_path)


def test_digits_are_the_default_images():
    train, validation = load_images(None, None, None)
    assert train.pixels.shape[1:] == (1, 8, 8)
    assert (train.pixels.min(), train.pixels.max()) == (-1, 1)
    assert len(train) + len(validation) == 1797
    some = train.first(10)
    assert len(some) == 10
    assert torch.equal(train.first(10).pixels, some.pixels)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_come_from_parquet(mode, tmp_path):
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as Picture

    pictures = [Picture.new(mode, (6, 6), color=40 * i if mode == "L" else (40 * i, 0, 255)) for i in range(5)]
    features = Features({"image": Image(), "label": Value("int64")})
    rows = Dataset.from_dict({"image": pictures, "label": [0, 1, 0, 1, 1]}, features=features)
    rows.to_parquet(str(tmp_path / "images.parquet"))
    train, validation = load_images([str(tmp_path / "images.parquet")], None, None)
    assert isinstance(train, Images)
    assert train.pixels.shape == (4, 1 if mode == "L" else 3, 6, 6)
    assert train.pixels[0, 0, 0, 0].item() == pytest.approx(40 / 127.5 - 1)
    assert train.labels.tolist() == [1, 0, 1, 1]
    assert validation.labels.tolist() == [0]
    _, held_out = load_images([str(tmp_path / "images.parquet")], [str(tmp_path / "images.parquet")], None)
    assert len(held_out) == 5
