import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import kernelscope as ks

ROOT = Path(__file__).parents[1]


def in_a_new_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy():
    heavy = "{'torch', 'numpy', 'scipy', 'pandas', 'matplotlib', 'jinja2', 'safetensors'}"
    assert in_a_new_process(f"import sys, kernelscope; print({heavy} & set(sys.modules))") == "set()"


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(AttributeError, match="kernelscope has no 'recrod'. It has .*record"):
        ks.recrod  # noqa: B018


def test_every_public_name_is_listed():
    assert set(ks.__all__) <= set(dir(ks))
    assert "__version__" in dir(ks)


def test_the_setup_files_name_no_package_index():
    for name in ("pyproject.toml", "constraints.txt", "README.md", ".ci/run"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "index-url" not in text
        assert "find-links" not in text.lower().replace("_", "-")


def test_the_constraint_is_one_version_of_torch():
    assert (ROOT / "constraints.txt").read_text(encoding="utf-8") == "torch==2.13.0\n"


def test_the_checks_run_the_commands_of_the_readme():
    readme, checks = ((ROOT / name).read_text(encoding="utf-8").splitlines() for name in ("README.md", ".ci/run"))
    commands = [line for line in readme if line.startswith(("python3 -m venv", ".venv/bin/python -m pytest"))]
    assert len(commands) == 2
    assert all(command in checks for command in commands)


def test_the_package_says_its_version_and_its_script():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"kernelscope": "kernelscope.cli:main"}
    assert ks.__version__.count(".") == 2


def test_every_public_name_resolves():
    for name in ks.__all__:
        assert getattr(ks, name) is not None
    assert callable(ks.record)
    assert ks.load.__module__.startswith("kernelscope.run")


def test_the_lines_of_the_readme_run(tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code, *later = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 16
    assert code.count("range(5)") == 1
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code.replace("range(5)", "range(1)"), "README.md", "exec"), names)
    assert (tmp_path / "digit.html").is_file()
    assert names["why"].check().ok
    assert len(ks.load("runs/digits")) == 23
    for more in later:
        exec(compile(more, "README.md", "exec"), names)
    assert names["d"].check().ok
    assert names["d"].on_chords
