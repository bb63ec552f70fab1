from dataclasses import dataclass, field
from pathlib import Path

import pytest
from common.config import WrongSettingError, check_positive, parse_arguments


@dataclass(kw_only=True)
class Arguments:
    steps: int = field(metadata={"help": "How many."})
    rate: float = field(metadata={"help": "How fast."})
    seeds: list[str]
    out: Path
    files: list[str] | None = field(default=None, metadata={"help": "Which."})
    cap: int | None = None

    def __post_init__(self):
        check_positive(self, "steps", "cap")
        if self.seeds == ["odd"]:
            raise WrongSettingError("seeds", "even", self.seeds)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "base.yaml").write_text("steps: 1\nrate: 0.5\nseeds: 0\nout: here\ncap: 7\n")
    (folder / "variant.yaml").write_text("steps: 2\nfiles: [a, b]\n")
    return folder


def test_base_is_read_without_a_config(folder):
    assert parse_arguments(Arguments, folder, []) == Arguments(steps=1, rate=0.5, seeds=["0"], out=Path("here"), cap=7)


def test_a_variant_overrides_base_and_a_flag_overrides_both(folder):
    variant = ["--config", str(folder / "variant.yaml")]
    found = parse_arguments(Arguments, folder, variant)
    assert (found.steps, found.rate, found.files) == (2, 0.5, ["a", "b"])
    for flags in ([*variant, "--steps", "3", "--files", "c"], ["--steps=3", "--files", "c", *variant]):
        found = parse_arguments(Arguments, folder, flags)
        assert (found.steps, found.rate, found.files) == (3, 0.5, ["c"])


def test_base_beside_the_variant_wins_over_the_recipes(folder, tmp_path):
    (tmp_path / "mine.yaml").write_text("rate: 2\n")
    found = parse_arguments(Arguments, folder, ["--config", str(tmp_path / "mine.yaml")])
    assert (found.steps, found.rate) == (1, 2.0)
    (tmp_path / "base.yaml").write_text("steps: 9\nseeds: [4, 5]\nout: there\n")
    found = parse_arguments(Arguments, folder, ["--config", str(tmp_path / "mine.yaml")])
    assert found == Arguments(steps=9, rate=2.0, seeds=["4", "5"], out=Path("there"))


def test_null_takes_a_setting_back_to_its_default(folder):
    (folder / "variant.yaml").write_text("cap: null\n")
    assert parse_arguments(Arguments, folder, ["--config", str(folder / "variant.yaml")]).cap is None


def test_an_unknown_key_is_named_with_its_file(folder):
    (folder / "variant.yaml").write_text("stepz: 2\n")
    with pytest.raises(ValueError, match=r"variant\.yaml must only hold settings .* got \['stepz'\]"):
        parse_arguments(Arguments, folder, ["--config", str(folder / "variant.yaml")])


def test_what_the_yaml_holds_is_checked_as_flags_are(folder, capsys):
    (folder / "variant.yaml").write_text("steps: many\n")
    with pytest.raises(SystemExit):
        parse_arguments(Arguments, folder, ["--config", str(folder / "variant.yaml")])
    assert "--steps: invalid int value: 'many'" in capsys.readouterr().err
    (folder / "variant.yaml").write_text("just words\n")
    with pytest.raises(ValueError, match="must hold `key: value` lines; got str"):
        parse_arguments(Arguments, folder, ["--config", str(folder / "variant.yaml")])


def test_help_shows_the_values_that_hold_without_a_flag(folder, capsys):
    for flags, steps in ((["--help"], 1), (["--config", str(folder / "variant.yaml"), "--help"], 2)):
        with pytest.raises(SystemExit, match="0"):
            parse_arguments(Arguments, folder, flags)
        shown = " ".join(capsys.readouterr().out.split())
        assert f"How many. (default: {steps})" in shown
        assert f"Which. (default: {'a b' if steps == 2 else None})" in shown
        assert "How fast. (default: 0.5)" in shown
        assert "[--steps STEPS]" in shown


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", "0"], "error: argument --steps: must be above 0; got 0"),
        (["--cap", "-1"], "error: argument --cap: must be above 0; got -1"),
        (["--seeds", "odd"], "error: argument --seeds: must be even; got ['odd']"),
        (["--stepz", "2"], "['--stepz', '2']"),
    ],
)
def test_a_value_that_cannot_be_ends_as_argparse_does(folder, flags, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(Arguments, folder, flags)
    assert words in capsys.readouterr().err


def test_a_value_of_the_yaml_that_cannot_be_is_named_too(folder, capsys):
    (folder / "variant.yaml").write_text("cap: 0\n")
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(Arguments, folder, ["--config", str(folder / "variant.yaml")])
    assert "argument --cap: must be above 0; got 0" in capsys.readouterr().err


@dataclass(kw_only=True)
class WithResults:
    output_dir: Path


def test_results_go_where_the_configs_name_says_unless_told_otherwise(tmp_path):
    folder = tmp_path / "configs" / "mine"
    folder.mkdir(parents=True)
    (folder / "base.yaml").write_text("{}\n")
    (folder / "big.yaml").write_text("{}\n")
    for flags, expected in (
        ([], tmp_path / "results" / "mine" / "base"),
        (["--config", str(folder / "big.yaml")], tmp_path / "results" / "mine" / "big"),
        (["--output_dir", "here"], Path("here")),
    ):
        assert parse_arguments(WithResults, folder, flags).output_dir == expected
    (folder / "big.yaml").write_text("output_dir: there\n")
    found = parse_arguments(WithResults, folder, ["--config", str(folder / "big.yaml")])
    assert found.output_dir == Path("there")
