import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kernelscope.cli import main
from kernelscope.commands import NAMES, doctor
from kernelscope.errors import DataError

ROOT = Path(__file__).parents[1]


def python(*words, **options):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, cwd=ROOT, **options)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from kernelscope.cli import main; code = main(['--help']);"
        "print(code, {'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    done = python("-c", code)
    assert done.stdout.splitlines()[-1] == "0 set()"
    assert all(name in done.stdout for name in NAMES)


def test_the_package_runs_uninstalled():
    done = python("-m", "kernelscope", "--version", env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (0, "kernelscope 0.1.0\n")


def test_no_command_shows_the_help(capsys):
    assert main([]) == 0
    assert "COMMAND" in capsys.readouterr().out


def test_a_misspelt_command_is_answered_with_the_nearest(capsys):
    assert main(["docter"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "There is no command 'docter'. Did you mean 'doctor'?" in said.err


def test_a_misspelt_option_is_answered_with_the_nearest(capsys):
    assert main(["doctor", "--jsno"]) == 2
    assert "doctor does not take '--jsno'. Did you mean '--json'?" in capsys.readouterr().err


def test_a_missing_value_is_a_sentence(capsys):
    assert main(["doctor", "--out"]) == 2
    assert "expected one argument" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_its_help_and_answers_in_json(name, capsys):
    assert main([name, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_an_error_of_the_package_is_one_sentence_and_no_traceback(monkeypatch, capsys):
    def refuse(options):
        raise DataError("The digits have no split 'validation'. Use 'test'.")

    monkeypatch.setattr(doctor, "run", refuse)
    assert main(["doctor"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "kernelscope: The digits have no split 'validation'. Use 'test'.\n")
    assert main(["doctor", "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {
        "error": "The digits have no split 'validation'. Use 'test'.", "kind": "DataError",
    }  # fmt: skip


def test_json_may_stand_before_the_command(capsys, tmp_path):
    assert main(["--json", "doctor", "--out", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    assert main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"commands": list(NAMES)}
    assert main(["--version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": "0.1.0"}


@pytest.mark.parametrize("words", [["record"], ["info"], ["explain", "run", "-k", "x"], ["doctor", "extra"],
                                   ["report", "run", "--sample"], ["absent"], [""]])
def test_a_line_that_cannot_be_understood_is_one_line_and_json_where_that_was_asked(words, capsys):
    assert main(words) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "..." not in said.err.partition("Usage:")[0]
    assert main([*words, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["kind"] == "Usage"


def test_an_interrupted_command_says_so(monkeypatch, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", interrupt)
    assert main(["doctor"]) == 130
    assert "stopped; files that were finished" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close otherwise there")
def test_a_reader_that_goes_away_is_no_error():
    line = f"{sys.executable} -m kernelscope --help | head -c 1"
    command = ["bash", "-o", "pipefail", "-c", line]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor_finds_a_working_machine(capsys, tmp_path):
    assert main(["doctor", "--json", "--out", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    statuses = {finding["name"]: finding["status"] for finding in found["findings"]}
    assert found["ok"]
    assert found["mend"] is None
    assert {"python", "torch", "gpu", "threads", "self-test", "writing"} <= set(statuses)
    assert list(tmp_path.iterdir()) == []


def test_doctor_gives_the_line_that_mends(monkeypatch, capsys, tmp_path):
    versions = {"torch": "2.9.1+cpu", "jinja2": None}
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: versions[name] if name in versions else real(name))
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "2.9.1+cpu is too old: 2.11 or newer is needed" in said
    assert said.rstrip().endswith("-m pip install 'torch>=2.11' 'jinja2>=3.1'")


def test_doctor_keeps_to_the_constraints_where_they_are(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("constraints.txt").write_text("torch==2.13.0\n", encoding="utf-8")
    assert "pip install -c constraints.txt scipy" in doctor.pip_line(["scipy"])


def test_doctor_names_a_folder_that_cannot_be_written_to(capsys, tmp_path):
    assert main(["doctor", "--out", str(tmp_path / "absent")]) == 1
    assert "cannot be written to" in capsys.readouterr().out


def test_doctor_asks_for_what_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [f"{name}>={least}" if least else name for name, least in doctor.NEEDED.items()]
    assert asked == project["dependencies"]
