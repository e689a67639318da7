"""What a mistaken command line says: exit code 2, one line, the key and the remedy."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateloop import validation
from gateloop.command import run_command
from gateloop.compose import compose
from gateloop.errors import Diverged, InputError, Interrupted
from gateloop.identity import identity, run_id
from gateloop.run import main
from gateloop.training.record import RunFolder

ROOT = Path(__file__).resolve().parents[1]
TEXT = "data=text"
HERE = "data.path='\"HERE\"'"  # HERE becomes a small UTF-8 file

UNKNOWN_KEY = [
    ("trainer.max_step=3", "trainer.max_step=3", "did you mean trainer.max_steps?"),
    ("lr=1e-3", "lr=1e-3", "did you mean optimizer.lr?"),
    ("model.dropot=0.1", "model.dropot", "did you mean model.dropout?"),
    ("batch_size=3", "batch_size", "did you mean data.batch_size?"),
    ("model.transition.amplitud.control=data", "amplitud", "transition.amplitude.control?"),
    ("dataset=wt103", "dataset=wt103", "did you mean data?"),
    ("optimiser=adamw", "optimiser", "did you mean optimizer?"),
    ("seeds=3", "seeds=3", "did you mean seed?"),
    ("data.tokenizer=byte", "data.tokenizer=byte", "data=wt103"),
    ("data=text data.path=x data.resets=3", "data.resets=3", "data=memory_horizon"),
    ("zzz.qqq=1", "zzz.qqq=1", "--help lists all"),
    ("model.transition=3", "model.transition=3", "set model.transition.domain=…"),
    ("trainer.max_steps.x=3", "trainer.max_steps.x", "set trainer.max_steps=…"),
    ("mode.name=scan", "mode.name=scan", "write mode=scan"),
    ("data.name=wt2", "data.name=wt2", "write data=wt2"),
]
UNKNOWN_CHOICE = [
    ("data=wt13", "data=wt13: no such data", "did you mean wt103?"),
    ("model=gatelop", "model=gatelop", "did you mean gateloop?"),
    ("mode=scann", "mode=scann", "did you mean scan?"),
    ("size=huge", "size=huge", "choose one of 125m, own, small, tiny"),
    ("tracker=null", "tracker=null", "choose one of auto, csv, none"),
    ("data=../conf/wt2", "data=../conf/wt2", "choose one of memory_horizon"),
    ("optimizer=", "optimizer=", "choose one of adamw"),
]
WRONG_TYPE = [
    ("trainer.max_steps=abc", "trainer.max_steps=abc", "a whole number ≥ 1"),
    ("trainer.max_steps=1e3", "trainer.max_steps=1e3", "write 1000"),
    ("trainer.max_steps=1.5", "trainer.max_steps=1.5", "a whole number"),
    ("seed=true", "seed=true", "a whole number"),
    ("seed=null", "seed=null", "null is not allowed"),
    ("model.tied=maybe", "model.tied=maybe", "true or false"),
    ("optimizer.lr=[1]", "optimizer.lr=[1]", "a number > 0"),
    ("model.transition.domain=complx", "domain=complx", "did you mean complex?"),
    ("model.transition.domain=null", "domain=null", "one of complex, real, signed"),
    ("data.test_lengths=3", "data.test_lengths=3", "a list such as [1, 2]"),
    ("data.test_lengths=[1,a]", "data.test_lengths=[1,a]", "whole number"),
    ("data.test_resets=[1.5,2]", "data.test_resets=[1.5,2]", "whole number"),
    ("runs_dir=", "runs_dir=", "give a text"),
    ("seed={a:1}", "seed={a:1}", "set its keys one by one"),
]
OUT_OF_RANGE = [
    ("optimizer.lr=-1", "optimizer.lr=-1", "> 0"),
    ("optimizer.lr=0", "optimizer.lr=0", "> 0"),
    ("model.dropout=1", "model.dropout=1", "≥ 0 and < 1"),
    ("seed=-1", "seed=-1", "≥ 0"),
    ("seed=2147483648", "seed=2147483648", "≤ 2147483647"),
    ("data.samples=0", "data.samples=0", "≥ 1"),
    ("data.test_lengths=[128,0]", "data.test_lengths=[128,0]", "≥ 1"),
    ("model.short_convolution=65", "model.short_convolution=65", "≤ 64"),
    ("model.layers=1001", "model.layers=1001", "≤ 1000"),
    (f"model.d_model={10**20}", f"model.d_model={10**20}", "64 bits"),
]
NOT_FINITE = [
    ("optimizer.lr=nan", "optimizer.lr=nan", "not finite"),
    ("optimizer.lr=inf", "optimizer.lr=inf", "not finite"),
    ("trainer.gradient_clip=-inf", "trainer.gradient_clip=-inf", "not finite"),
    ("optimizer.weight_decay='nan'", "optimizer.weight_decay", "not finite"),
]
CONTRADICTION = [
    ("model.heads=7", "model.heads=7", "nearest: 8"),
    ("model.heads=7 model.d_key=4", "model.heads=7", "model.d_value"),
    ("trainer.devices=3", "trainer.devices=3", "nearest: 33"),
    ("data.micro_batch_size=3", "data.micro_batch_size=3", "a divisor of 32"),
    ("trainer.devices=2 data.micro_batch_size=32", "data.micro_batch_size=32", "divisor of 16"),
    ("data.batch_tokens=500", "data.batch_tokens=500", "nearest: 512"),
    ("data.batch_size=4 data.batch_tokens=512", "data.batch_tokens=512", "keep one"),
    ("data.batch_size=null", "data.batch_size=null", "set data.batch_size or"),
    ("model.transition.domain=real model.transition.phase.control=data", "phase.control", "null"),
    (
        "model.transition.domain=signed model.transition.amplitude.control=one",
        "amplitude.control=one",
        "data or fixed",
    ),
    (
        "model.transition.domain=signed model.transition.amplitude.activation=exp_exp",
        "amplitude.activation=exp_exp",
        "leave it out",
    ),
    (
        "model.transition.parametrisation=cartesian model.transition.domain=real",
        "parametrisation=cartesian",
        "take polar",
    ),
    (
        "model.transition.parametrisation=cartesian model.transition.phase.control=fixed",
        "parametrisation=cartesian",
        "take polar",
    ),
    (
        "model.transition.parametrisation=cartesian model.transition.phase.activation=tanh",
        "phase.activation=tanh",
        "leave it out",
    ),
    ("model.transition.ring.inner=0.9995", "ring.inner=0.9995", "ring.outer=0.999"),
    ("model.tied=true", "model.tied=true", "take false"),
    ("data.test_lengths=[128]", "data.test_lengths", "one number of resets for each"),
    ("data.resets=129", "data.resets=129", "at most 128"),
    ("data.test_lengths=[8,8]", "data.test_resets=12", "at most 8"),
    ("model.output_norm=group model.output_norm_groups=7", "output_norm_groups=7", "divisor of 64"),
    ("model.output_norm=group model.output_norm_groups=64", "output_norm=group", "always zero"),
    ("optimizer.warmup_steps=1501", "optimizer.warmup_steps=1501", "at most 1500"),
    (
        "optimizer.schedule=constant optimizer.final_lr_factor=0.1",
        "optimizer.final_lr_factor=0.1",
        "optimizer.schedule=cosine",
    ),
    ("data=text", "data.path=null", "set data.path"),
    (f"{TEXT} {HERE} data.stride=8", "data.stride=8", "data.protocol=sliding"),
    (f"{TEXT} {HERE} data.protocol=sliding data.stride=257", "data.stride=257", "at most 256"),
    ("model=transformer model.heads=64", "model.heads=64", "nearest: 32"),
    ("model=gpt2 data.length=1500", "data.length=1500", "model.max_length=1500"),
    ("model=gpt2 model.max_length=200", "data.test_lengths=512", "model.max_length=512"),
    (f"{TEXT} {HERE} model=gpt2 data.length=1025", "data.length=1025", "model.position=rope"),
    (f"{TEXT} {HERE} model=gpt2 data.protocol=carry", "data.protocol=carry", "model.window=256"),
    (
        f"{TEXT} {HERE} model=transformer data.protocol=carry",
        "data.protocol=carry",
        "set model.window=256",
    ),
    (
        f"{TEXT} {HERE} model=gpt2 model.position=none data.protocol=carry",
        "data.protocol=carry",
        "set model.window=256",
    ),
    (f"{TEXT} {HERE} model=gru data.reset_at_documents=true", "model=gru cannot", "leave it out"),
    ("model=lstm mode=scan", "mode=scan", "choose one of auto, recurrent"),
]
PATHS = [
    ("runs_dir=HERE", "HERE", "give another folder"),
    ("runs_dir=HERE/runs", "HERE", "give another folder"),
    ("runs_dir=/proc/gateloop", "/proc/gateloop", "give another folder"),
]
REFUSED_SYNTAX = [
    ("+seed=1", "+seed=1", "write seed=1"),
    ("++seed=1", "++seed=1", "write seed=1"),
    ("~seed", "~seed", "null"),
    ("hydra.run.dir=x", "hydra.run.dir=x", "leave it out"),
    ("hydra/launcher=basic", "hydra/launcher=basic", "leave it out"),
    ("--multirun", "--multirun", "one command for each run"),
    ("-m", "-m", "one command for each run"),
    ("--config-dir=x", "--config-dir=x", "--help and --cfg"),
    ("seed=1,2", "seed=1,2", "one command for each"),
    ("seed=range(1,3)", "seed=range(1,3)", "one command for each"),
    ("model=gateloop,lru", "model=gateloop,lru", "one command for each"),
    ("data=[wt2,wt103]", "data=[wt2,wt103]", "one command for each"),
    ("seed=1 seed=1", "seed is given twice", "keep one"),
    ("data=wt2 data=wt103", "data is given twice", "keep one"),
    ("runs_dir=${oc.env:HOME}", "runs_dir=${oc.env:HOME}", "write the value itself"),
    ("runs_dir='${seed}'", "runs_dir=", "write the value itself"),
    ("runs_dir=???", "runs_dir=???", "write the value itself"),
    ("tiny", "tiny", "did you mean size=tiny?"),
    ("model/x=y", "model/x=y", "the groups are model, size"),
    ("data@model=wt2", "data@model=wt2", "the groups are"),
    ("=3", "''", "names joined by dots"),
    ("seed =3", "'seed '", "no spaces"),
    ("a..b=3", "'a..b'", "names joined by dots"),
    ("data=wt2 data.path=~/corpus", "data.path=~/corpus", "$HOME for ~"),
    ("data=wt2 data.path=/a=b", "data.path=/a=b", "quotes"),
    ("--cfg job", "job", "write --cfg alone"),
]
FAMILIES = {
    "unknown key": UNKNOWN_KEY,
    "unknown choice": UNKNOWN_CHOICE,
    "wrong type": WRONG_TYPE,
    "out of range": OUT_OF_RANGE,
    "not finite": NOT_FINITE,
    "contradiction": CONTRADICTION,
    "path": PATHS,
    "refused syntax": REFUSED_SYNTAX,
}
TABLE = [pytest.param(*row, id=row[0]) for rows in FAMILIES.values() for row in rows]


def split(line: str, here: Path) -> list[str]:
    """The arguments of a row: a blank parts them where the next word has the form of one."""
    words: list[str] = []
    for word in line.replace("HERE", str(here)).split(" "):
        if words and word.startswith("="):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "here.txt"
    file.write_text("one line\n" * 400, encoding="utf-8")
    return file


def outcome(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``python -m gateloop.run`` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["gateloop", *argv])
    monkeypatch.setattr("gateloop.run.execute", lambda *given: pytest.fail("it would have run"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(SystemExit) as end:
        run_command(main)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    out, err = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, out, err


def assert_one_line(err: str, *fragments: str) -> None:
    assert err.startswith("gateloop: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    for fragment in fragments:
        assert fragment in err


@pytest.mark.parametrize(("line", "named", "remedy"), TABLE)
def test_a_mistake_is_one_line_that_names_it_and_its_remedy(
    line, named, remedy, here, monkeypatch, capsys
):
    code, out, err = outcome(split(line, here), monkeypatch, capsys)
    assert code == 2
    assert out == ""
    assert_one_line(err, named.replace("HERE", str(here)), remedy)
    assert sorted(os.listdir(here.parent)) == ["here.txt"], "a mistake leaves nothing behind"


def test_the_table_has_sixty_rows_and_more():
    assert len({row.values[0] for row in TABLE}) == len(TABLE) >= 60


@pytest.mark.parametrize(
    ("argument", "package"),
    [
        ("tracker=wandb", "wandb"),
        ("tracker=tensorboard", "tensorboard"),
        ("data.tokenizer=gpt2", "tokenizers"),
        ("data.tokenizer=sentencepiece", "sentencepiece"),
    ],
)
def test_a_missing_package_is_named_with_its_remedy(argument, package, here, monkeypatch, capsys):
    monkeypatch.setattr(validation, "find_spec", lambda name: None)
    argv = [TEXT, f"data.path={here}"] if argument.startswith("data") else []
    code, _, err = outcome([*argv, argument], monkeypatch, capsys)
    assert code == 2
    assert_one_line(err, argument, f"pip install {package}")


@pytest.mark.parametrize("path", ["absent.txt", "absent/"])
def test_missing_data_are_named(path, here, monkeypatch, capsys):
    code, _, err = outcome([TEXT, f"data.path={here.parent}/{path}"], monkeypatch, capsys)
    assert code == 2
    assert_one_line(err, path.rstrip("/"))


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID"])
@pytest.mark.parametrize("value", ["x", "", "-1"])
def test_a_place_that_is_no_number_is_named(name, value, here, monkeypatch, capsys):
    for other in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(other, "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv(name, value)
    code, _, err = outcome([], monkeypatch, capsys)
    assert code == 2
    assert_one_line(err, f"{name}={value}: expected a whole number", "unset it")


@pytest.fixture
def existing(here: Path) -> Path:
    """The config.yaml of a run that stands where ``python -m gateloop.run`` would run."""
    config = compose([])
    folder = RunFolder(config.runs_dir, run_id(config))
    with folder.locked():
        folder.open(config, identity(config))
    return folder.path / "config.yaml"


def test_an_existing_run_with_other_content_is_named(existing, monkeypatch, capsys):
    existing.write_text(existing.read_text().replace("max_steps: 1500", "max_steps: 1501"))
    code, _, err = outcome([], monkeypatch, capsys)
    assert code == 2
    assert_one_line(err, "trainer.max_steps is 1501 there and 1500 here", "another runs_dir")


@pytest.mark.parametrize(
    "content", ["", "}{", "model: 3\ndata: 4\n", "- 1\n", "\x00", "seed: 2024-13-45"]
)
def test_an_existing_run_whose_config_cannot_be_read(content, existing, monkeypatch, capsys):
    existing.write_text(content)
    code, _, err = outcome([], monkeypatch, capsys)
    assert code == 2
    assert_one_line(err, "config.yaml", "rename or delete the folder")


def test_a_folder_that_is_no_run_is_left_alone(here, monkeypatch, capsys):
    stranger = here.parent / "runs" / run_id(compose([])) / "thesis.tex"
    stranger.parent.mkdir(parents=True)
    stranger.write_text("mine")
    code, _, err = outcome([], monkeypatch, capsys)
    assert code == 2
    assert_one_line(err, "thesis.tex", "another runs_dir")
    assert sorted(p.name for p in stranger.parent.iterdir()) == ["lock", "thesis.tex"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("a\nb"), 2),
        (Interrupted("c"), 75),
        (Diverged("d"), 1),
        (KeyboardInterrupt(), 75),
    ],
)
def test_each_ending_has_its_exit_code_and_one_line(error, code, monkeypatch, capsys):
    def failing(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(sys, "argv", ["gateloop"])
    with pytest.raises(SystemExit) as end:
        run_command(failing)
    assert end.value.code == code
    assert_one_line(capsys.readouterr().err)


# -- real processes ----------------------------------------------------------------------

HEAVY = """
import runpy, sys
sys.argv = ["gateloop", *sys.argv[1:]]
try:
    runpy.run_module("gateloop.run", run_name="__main__")
finally:
    print({"torch", "pytorch_lightning", "lightning"} & set(sys.modules) or "light")
"""
CRASH = "from gateloop.command import run_command\nrun_command(lambda argv: 1 // 0)"


def process(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=60,
    )


@pytest.mark.parametrize(
    "line", ["data=wt13", "lr=3", "seed=1,2", "--multirun", "optimizer.lr=nan", "model.heads=7"]
)
def test_a_mistake_in_a_real_process(line, tmp_path):
    done = process("-m", "gateloop.run", line, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert_one_line(done.stderr)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def finished(tmp_path: Path) -> None:
    """A finished run in ``runs`` under tmp_path."""
    config = compose([])
    folder = RunFolder(tmp_path / config.runs_dir, run_id(config))
    summary = {"id": folder.id, "status": "finished", "parameters": 1, "steps": 1}
    with folder.locked():
        folder.open(config, identity(config))
        folder.write_summary({**summary, "metrics": {}, "causal": True})


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    ("line", "code"), [("--help", 0), ("--cfg size=tiny", 0), ("lr=3", 2), ("", 0)]
)
def test_neither_torch_nor_lightning_is_imported(line, code, tmp_path):
    """Not for help, not for a mistake, and not to skip a run that is finished."""
    before = sorted(tmp_path.rglob("*"))
    done = process("-c", HEAVY, *line.split(), cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "light", done.stderr
    assert done.returncode == code
    assert sorted(tmp_path.rglob("*")) == before, "Hydra writes no outputs/ and no .hydra/"


def test_a_missing_device_is_named(tmp_path):
    argv = ["-m", "gateloop.run", "trainer.device=cuda"]
    done = process(*argv, cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "gateloop: trainer.device=cuda: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_crash_keeps_its_traceback_and_exits_1(tmp_path):
    done = process("-c", CRASH, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("width", [10**13, 10**18], ids=["no such memory", "no such number"])
def test_a_model_that_no_memory_holds_is_told_in_one_line(width, tmp_path):
    """Of 10^13 × 64 numbers the addresses do not reach to the end, however much memory there is."""
    argv = ["-m", "gateloop.run", "data=memory_horizon", f"model.d_channel={width}"]
    done = process(*argv, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("gateloop: more than the memory holds")


def test_help_goes_quietly_into_a_pipe_that_closes(tmp_path):
    command = f"'{sys.executable}' -m gateloop.run --help | true"
    script = f"import subprocess; subprocess.run({command!r}, shell=True)"
    done = process("-c", script, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")


def test_help_is_printed_where_the_terminal_knows_no_greek(tmp_path):
    done = process("-m", "gateloop.run", "--help", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "model.transition.domain" in done.stdout


TELLS = """
import sys
from gateloop.command import run_command

def main(argv):
    for number in range(9):
        print(number, flush=True)
        print(number, file=sys.stderr, flush=True)
    open("saved", "w").close()
    return 3

run_command(main)
"""


@pytest.fixture
def unread():
    """A pipe to write to, whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("closed", ["", "2>&-", ">&-", ">&- 2>&-"])
def test_what_nobody_reads_ends_no_command(closed, unread, tmp_path):
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", TELLS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        stdout=unread,
        stderr=unread,
    )
    assert done.returncode == 3
    assert (tmp_path / "saved").exists()


def test_a_text_ends_where_nobody_reads_it(unread, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", TELLS.replace("(main)", "(main, ends_with_reader=True)")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        stdout=unread,
        stderr=subprocess.PIPE,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert not (tmp_path / "saved").exists()
