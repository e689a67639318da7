"""The files around the code: what make installs, what the wheel holds, what the README says."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
OTHER_PACKAGE = (
    ROOT / "docs" / "add-a-model.md"
)  # its commands are tests/end_to_end's: they need it


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def make(*arguments: str) -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


# -- installation ------------------------------------------------------------------------


def direct_requirements() -> list[Requirement]:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    every = [Requirement(text) for group in groups for text in group]
    return [requirement for requirement in every if requirement.name != "gateloop"]


def pins() -> list[Requirement]:
    lines = read("constraints.txt").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("python", PYTHONS)
def test_every_direct_dependency_is_pinned_once_and_within_its_range(python: str) -> None:
    environment = {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    applying = [pin for pin in pins() if not pin.marker or pin.marker.evaluate(environment)]
    for requirement in direct_requirements():
        found = [pin for pin in applying if normal(pin.name) == normal(requirement.name)]
        assert len(found) == 1, f"{requirement}: {found}"
        (version,) = found[0].specifier
        assert version.operator == "=="
        assert requirement.specifier.contains(version.version), f"{requirement}: {version}"


def test_constraints_name_no_index_and_no_path() -> None:
    wrong = [str(pin) for pin in pins() if pin.url or len(pin.specifier) != 1]
    assert not wrong
    rules = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    assert not [line for line in rules if "/" in line or line.startswith("-")]


def test_run_installs_no_development_tools(tmp_path: Path) -> None:
    install = "install .*--editable '(.*)'"
    assert re.findall(install, make("-n", "run", f"VENV={tmp_path}/venv")) == [".[all]"]
    assert re.findall(install, make("-n", "test", f"VENV={tmp_path}/venv"))[1:] == [".[all,dev]"]


def test_what_is_installed_is_not_installed_again(tmp_path: Path) -> None:
    for stamp in ("installed", "installed-dev"):
        (tmp_path / stamp).touch()
    for target in ("run", "test", "lint"):
        assert "pip" not in make("-n", target, f"VENV={tmp_path}")
    shown = make("-n", "run", f"VENV={tmp_path}", "ARGS=seed=1 model=gateloop")
    assert shown.split()[1:] == ["-m", "gateloop.run", "seed=1", "model=gateloop"]


def test_make_says_how_much_it_fetches_before_it_fetches(tmp_path: Path) -> None:
    shown = make("-n", "run", f"VENV={tmp_path}/venv").splitlines()
    said = next(number for number, line in enumerate(shown) if "GB" in line)
    fetches = next(number for number, line in enumerate(shown) if "pip -qq" in line)
    assert said < fetches


def test_another_python_is_refused_with_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "run", f"PYTHON={old}", f"VENV={tmp_path}/venv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "needs Python 3.10 to 3.13" in done.stdout
    assert not (tmp_path / "venv").exists()


# -- files that other tools read ---------------------------------------------------------


def targets() -> set[str]:
    return set(re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.M)[1].split())


def test_commands_of_the_dockerfile_are_the_makefiles() -> None:
    lines = read("Dockerfile").splitlines()
    assert "Unbuilt" in lines[0]
    commands = [shlex.split(line[4:]) for line in lines if line.startswith("RUN ")]
    commands += [yaml.safe_load(line[4:]) for line in lines if line.startswith("CMD ")]
    assert len(commands) == 2
    for command in commands:
        assert command[0] == "make" and command[1] in targets()
        assert set(command[2:]) <= {"CPU=$CPU"}


def test_what_the_dockerfile_copies_is_there_and_enough_to_install() -> None:
    copies = re.findall(r"^COPY (.*) \S+$", read("Dockerfile"), re.M)
    copied = [name for copy in copies for name in copy.split()]
    assert not [name for name in copied if not (ROOT / name).exists()]
    ignored = read(".dockerignore").split()
    assert not set(copied) & set(ignored)
    rule = re.search(r"^\$\(VENV\)/installed: (.*)$", read("Makefile"), re.M)[1]
    assert set(rule.split()) <= set(copied)


def test_ci_and_pre_commit_run_the_makefiles_checks() -> None:
    assert re.findall(r"^make (\w+)", read(".ci/run"), re.M) == ["lint", "test"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    hooks = [
        h for r in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for h in r["hooks"]
    ]
    assert [hook["entry"] for hook in hooks] == ["make lint"]
    assert {hook["language"] for hook in hooks} == {"system"}  # fetches nothing


def yaml_files() -> list[Path]:
    folders = ("conf", "experiments", "sweeps", "results")
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.yaml"))]


def test_every_yaml_file_parses_and_names_no_code() -> None:
    assert yaml_files()
    for file in yaml_files():
        text = file.read_text(encoding="utf-8")
        yaml.safe_load(text)
        assert "_target_" not in text, file


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("not a git checkout: nothing says which files are tracked")
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    return [file for file in files if file.is_file()]


# public sites that a reader may be sent to, and this machine
HOSTS = {
    "arxiv.org",
    "github.com",
    "huggingface.co",
    "keepachangelog.com",
    "semver.org",
    "www.apache.org",
    "www.w3.org",  # with the next three: what an SVG names
    "matplotlib.org",
    "purl.org",
    "creativecommons.org",
    "localhost",
    "127.0.0.1",
}


def test_no_tracked_file_names_a_machine() -> None:
    folder = re.compile(r"(?<![\w.~-])/(?:home|root|work|mnt|opt|srv|Users)/\w")
    host = re.compile(r"https?://(?:[^/\s@]*@)?([\w.-]+)")
    wrong = []
    for file in tracked():
        text = file.read_bytes().decode("utf-8", errors="replace")
        wrong += [f"{file.name}: {found[0]}" for found in folder.finditer(text)]
        wrong += [f"{file.name}: {name}" for name in host.findall(text) if name not in HOSTS]
    assert not wrong


# -- pages -------------------------------------------------------------------------------


def commands(*pages: Path) -> Iterator[list[str]]:
    """Every ``python -m gateloop.…`` and ``make run`` of pages, split into words; else of all."""
    for page in pages or [page for page in PAGES if page != OTHER_PACKAGE]:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"^[ \t]*(?:\$ )?python -m (gateloop\.\w+[^\n#`]*)", text, re.M):
            words = shlex.split(found[1])
            if not any(word.startswith("[") for word in words):  # a synopsis, not a command
                yield words
        for found in re.finditer(r"make run ARGS=\"([^\"…]+)\"", text):
            yield ["gateloop.run", *shlex.split(found[1])]


def test_pages_have_commands() -> None:
    named = {command[0] for command in commands()}
    assert {"gateloop.run", "gateloop.generate"} <= named
    assert "make run" in read("README.md") and "make test" in read("README.md")


def test_relative_links_lead_somewhere() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_folders_the_readme_names_exist() -> None:
    named = re.findall(r"^\| `([\w/]+/)` \|", read("README.md"), re.M)
    assert len(named) >= 5
    assert not [name for name in named if not (ROOT / name).is_dir()]


def test_run_commands_on_pages_compose() -> None:
    from gateloop.compose import compose

    for module, *arguments in commands():
        if module == "gateloop.run" and not {"--help", "--cfg"} & set(arguments):
            compose(arguments)


def test_other_commands_on_pages_exist_with_their_options() -> None:
    others = [command for command in commands() if command[0] != "gateloop.run"]
    for module in sorted({command[0] for command in others}):
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        given = {word for command in others if command[0] == module for word in command[1:]}
        options = {word.split("=")[0] for word in given if word.startswith("--")}
        assert not {option for option in options if option not in done.stdout}


# -- the wheel ---------------------------------------------------------------------------

PACKED = ("conf", "experiments", "sweeps")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a source distribution of a copy: the checkout gets no build folder."""
    source = tmp_path_factory.mktemp("build") / "gateloop"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("gateloop", "results", *PACKED):
        if (ROOT / name).exists():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def core_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the wheel and what the core needs, and without any optional package.

    Nothing is fetched: the packages are links to those that run the tests.
    """
    folder = tmp_path_factory.mktemp("core")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    hidden = re.compile(
        r"(wandb|datasets|sentencepiece|tokenizers|pandas|optuna|matplotlib|mpl_toolkits|scipy|tensorboard"
        r"|pyarrow|huggingface_hub|gateloop|__editable__)([._-]|$)"
    )
    import torch

    for entry in Path(torch.__file__).parents[1].iterdir():
        if not hidden.match(entry.name) and entry.suffix != ".pth":
            (site / entry.name).symlink_to(entry)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*install, "--no-index", "--no-deps", str(wheel)], check=True)
    return python


def outside(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), *arguments], cwd=folder, capture_output=True, text=True, timeout=200
    )


@pytest.mark.slow
def test_the_wheel_holds_every_yaml_file(wheel: Path, core_python: Path, tmp_path: Path) -> None:
    code = "import gateloop; print(gateloop.__file__)"
    package = Path(outside(core_python, tmp_path, "-c", code).stdout.strip()).parent
    assert ROOT not in package.parents
    packed = [file for file in yaml_files() if file.relative_to(ROOT).parts[0] in PACKED]
    for file in packed:
        assert (package / file.relative_to(ROOT)).read_bytes() == file.read_bytes()
    assert not list(package.parent.glob("tests")) and not list(package.parent.glob("conf"))


@pytest.mark.slow
def test_every_module_imports_where_optional_packages_are_missing(
    core_python: Path, tmp_path: Path
) -> None:
    code = """
import importlib, pkgutil, gateloop
for module in pkgutil.walk_packages(gateloop.__path__, "gateloop."):
    importlib.import_module(module.name)
    print(module.name)
for name in ("wandb", "datasets", "tokenizers", "sentencepiece", "pandas", "matplotlib", "optuna"):
    assert not importlib.util.find_spec(name), name
"""
    done = outside(core_python, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "gateloop.models.gateloop" in done.stdout.split()


@pytest.mark.slow
def test_the_wheel_runs_outside_a_checkout(core_python: Path, tmp_path: Path) -> None:
    for flag, word in (("--help", "model"), ("--cfg", "d_model")):
        done = outside(core_python, tmp_path, "-m", "gateloop.run", flag)
        assert done.returncode == 0, done.stderr
        assert word in done.stdout
    wrong = outside(core_python, tmp_path, "-m", "gateloop.run", "model.d_modl=3")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
    planned = outside(core_python, tmp_path, "-m", "gateloop.reproduce", "blow_up", "--dry-run")
    assert planned.returncode == 0 and "30 runs to do" in planned.stdout, planned.stderr
    sweep = [core_python, tmp_path, "-m", "gateloop.sweep", "gateloop_memory_horizon"]
    checked = outside(*sweep, "--dry-run")
    assert checked.returncode == 0 and "60 trials" in checked.stdout, checked.stderr
    for arguments, package in ((["--local"], "optuna"), ([], "wandb")):
        refused = outside(*sweep, *arguments)
        assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
        assert f"pip install {package}" in refused.stderr
    tables = outside(core_python, tmp_path, "-m", "gateloop.tables", "blow_up")
    assert (tables.returncode, tables.stdout) == (2, "")
    assert "pip install" in tables.stderr and len(tables.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_core_trains_where_optional_packages_are_missing(
    core_python: Path, tmp_path: Path
) -> None:
    small = """
        model.d_model=8 data.length=16 data.resets=1 data.batch_size=4 data.validation_samples=4
        data.test_samples=4 data.test_lengths=[16] data.test_resets=[1]
        trainer.max_steps=2 trainer.device=cpu
    """.split()
    done = outside(core_python, tmp_path, "-m", "gateloop.run", *small)
    assert done.returncode == 0, done.stderr
    (summary,) = tmp_path.glob("runs/*/summary.json")
    assert "test/accuracy" in json.loads(summary.read_text(encoding="utf-8"))["metrics"]
    for wish, package in (("tracker=wandb", "wandb"), ("tracker=tensorboard", "tensorboard")):
        refused = outside(core_python, tmp_path, "-m", "gateloop.run", *small, wish)
        assert refused.returncode == 2
        assert f"pip install {package}" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
