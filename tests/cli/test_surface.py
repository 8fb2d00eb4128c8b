"""The command line's surface: commands and options are a promise, so a change of them must be a decision."""

import os
import subprocess
import sys

import pytest
import typer.main

from autoseg3d.cli import app, show

OPTIONS = {
    "check": {"raw", "--report", "--exclude", "--geometry", "--workers"},
    "cache": {"run", "--clean", "--all"},
    "plan": {
        "raw", "--run", "--planner", "--memory", "--minutes", "--hours", "--device", "--exclude", "--overwrite", "--set", "--what-if",
        "--geometry", "--groups", "--workers", "--fingerprint", "--dataset", "--print-json",
    },
    "train": {
        "run", "--fold", "--configuration", "--epochs", "--iterations", "--minutes", "--hours", "--device", "--precision", "--workers",
        "--seed", "--augmentation", "--save-every", "--resume", "--restart", "--until-converged", "--from", "--freeze", "--learning-rate",
        "--validation-probabilities", "--tensorboard", "--threads",
    },
    "predict": {
        "scans", "--model", "--out", "--configuration", "--folds", "--mirror", "--step", "--precision", "--device",
        "--backend", "--crop",
        "--save-probabilities", "--geometry",
        "--fast", "--best", "--seconds-per-case", "--uncertainty", "--postprocess", "--max-memory", "--timeout",
    },
    "evaluate": {"predictions", "reference", "--out", "--dataset", "--tolerance", "--workers"},
    "select": {"run", "--configurations", "--workers"},
    "compare": {"a", "b", "--reference", "--out", "--names", "--dataset", "--tolerance", "--workers"},
    "report": {"folder", "--out", "--scans", "--viewer", "--workers"},
    "package": {"run", "--out", "--licence"},
    "info": {"model"},
    "import-nnunet": {"source", "--out", "--checkpoint"},
    "export": {"model", "--out", "--format", "--configuration", "--fold"},
    "demo": {"folder", "--minutes"},
    "doctor": {"folder", "--device"},
    "verify": {"records", "--scans", "--model", "--predict"},
}  # fmt: skip


def _commands() -> dict[str, object]:
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_commands_and_options_are_the_promised_ones() -> None:
    found = {}
    for name, command in _commands().items():
        parameters = (p for p in command.params if p.name != "help")  # type: ignore[attr-defined]
        found[name] = {p.opts[0] if p.opts[0].startswith("-") else p.name for p in parameters}
    assert found == OPTIONS


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    done = subprocess.run([sys.executable, "-m", "autoseg3d", name, "--help"], capture_output=True, text=True, check=True)
    assert f"autoseg3d {name}" in done.stdout
    assert "Example" in done.stdout
    for command in [_commands()[name]]:
        for parameter in command.params:  # type: ignore[attr-defined]
            assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"


def test_help_draws_in_nothing_heavy() -> None:
    code = (
        "import sys; from autoseg3d.cli import app; import typer.main; typer.main.get_command(app);"
        "heavy = {'torch', 'SimpleITK', 'scipy', 'matplotlib', 'nibabel', 'numpy', 'pydantic'} & set(sys.modules); print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_wrong_command_line_exits_with_two() -> None:
    for arguments in (["train"], ["plan", "--memory", "lots"], ["predict", "x"], ["nonsense"]):
        done = subprocess.run([sys.executable, "-m", "autoseg3d", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 2, arguments
        assert done.stderr


def test_the_version_is_told() -> None:
    done = subprocess.run([sys.executable, "-m", "autoseg3d", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("autoseg3d 0.")


def test_brackets_in_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    show.table("[bold]", ("label [mm]",), [("[red]tumour[/]",)])
    show.finding("warning", "case [1] is unlike the others", style="yellow")
    show.output.print("Written to [out]")
    said = capsys.readouterr().out
    for text in ("[bold]", "label [mm]", "[red]tumour[/]", "warning case [1] is unlike", "Written to [out]"):
        assert text in said


@pytest.mark.parametrize(
    ("own", "wanted"),
    [({}, ("PASSIVE", "10000")), ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)), ({"GOMP_SPINCOUNT": "7"}, ("PASSIVE", "7"))],
)
def test_waiting_threads_spin_briefly_unless_the_user_says_otherwise(own: dict[str, str], wanted: tuple[str, str | None]) -> None:
    code = "from autoseg3d.cli import main, os\ntry: main(['--version'])\nexcept SystemExit: pass\n"
    code += "print([os.environ.get(n) for n in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')])"
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")} | own
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert str(list(wanted)) in done.stdout
