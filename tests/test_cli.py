"""The command line: what it makes, what it says when it cannot, and what it leaves behind."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import stt2v
from stt2v import cli
from stt2v.engine.commands.output import say
from stt2v.engine.errors import Stt2vError, UsageError
from stt2v.engine.runs.restart import SCRIPT

PICTURE = Path(__file__).parent / "data" / "landscape.jpg"
COMMANDS = ("generate", "serve", "build-engines", "pull", "plan", "mawe", "models", "doctor", "engines")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line in an empty folder; returns its exit code, stdout and stderr."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def assert_one_line(err: str) -> None:
    assert re.fullmatch(r"stt2v: error: [^\n]+\n", err), err


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help(words: list[str]) -> None:
    result = CliRunner().invoke(cli.app, words, env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert "Usage" in result.stdout
    assert "…" not in result.stdout  # nothing is cut off


def test_help_lists_every_command(run: Run) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    assert set(re.findall(r"^│ ([a-z-]+) ", out, re.MULTILINE)) >= set(COMMANDS)


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"stt2v {stt2v.__version__}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    command = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    assert all(option.help for option in command.params), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "set STT2V_TOKEN"),
        (["--host", "0.0.0.0", "--token", "short"], "the token has 5 letters"),
        (["--port", "0", "--model", "sora"], "model is 'sora'"),
    ],
)
def test_where_no_server_starts(words: list[str], said: str, run: Run) -> None:
    code, out, err = run("serve", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert_one_line(err)


@pytest.mark.parametrize(
    ("encoding", "said"), [("utf-8", "caf\\udce9/Kätzchen.mp4\n"), ("ascii", "caf\\udce9/K\\xe4tzchen.mp4\n")]
)
def test_any_name_can_be_printed_and_is_read_at_once(encoding: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    with io.TextIOWrapper(written, encoding=encoding) as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        say(os.fsdecode(b"caf\xe9/K\xc3\xa4tzchen.mp4"))
        assert written.getvalue().decode(encoding) == said


def test_public_names_are_found() -> None:
    for name in stt2v.__all__:
        assert getattr(stt2v, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = stt2v.nothing


def test_models(run: Run) -> None:
    code, out, _ = run("models")
    assert code == 0
    assert "mini (default)" in out
    assert "untrained" in out
    assert "256x256 (720x720 after vid2vid), 80 frames at 8 fps, seed 33\n" in out
    declared = json.loads(run("models", "--json")[1])
    assert declared["streaming-svd"]["num_frames"] == 200


def test_plan(run: Run) -> None:
    code, out, _ = run("plan", "--model", "tiny", "--image", PICTURE, "--model", "streaming-svd", "--json")
    planned = json.loads(out)
    assert code == 0
    assert (planned["num_frames"], planned["base_frames"], len(planned["chunks"])) == (200, 100, 6)
    assert (
        "streaming-svd: 200 frames" in run("plan", "--model", "tiny", "--image", PICTURE, "--model", "streaming-svd")[1]
    )


def test_plan_of_pictures(run: Run, tmp_path: Path) -> None:
    code, out, err = run("plan", "--image", "nowhere.png")
    assert (code, out) == (2, "")
    assert "image nowhere.png does not exist" in err
    assert_one_line(err)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copyfile(PICTURE, folder / name)
    assert run("plan", "--image", folder)[1].startswith("2 videos, one for each picture; of each:\nmini: 80 frames")
    assert json.loads(run("plan", "--image", folder, "--json")[1])["videos"] == 2


def test_plan_of_fewer_stages(run: Run) -> None:
    words = ("plan", "--model", "tiny", "--image", PICTURE, "--model", "streaming-svd", "--num-frames", 43, "--json")
    planned = json.loads(run(*words, "--no-interpolate", "--no-enhance")[1])
    assert (planned["base_frames"], len(planned["chunks"])) == (43, 2)
    assert (planned["width"], planned["height"], planned["enhancing"]) == (1024, 576, None)


def test_plan_of_a_prompt(run: Run) -> None:
    words = ("plan", "--prompt", "a cat", "--model", "streaming-t2v")
    planned = json.loads(run(*words, "--json")[1])
    assert (planned["num_frames"], planned["fps"], planned["interpolate"], len(planned["chunks"])) == (80, 8, False, 9)
    assert (planned["width"], planned["height"], planned["enhancing"]["name"]) == (720, 720, "vid2vid")
    assert planned["windows"] == [0, 16, 32, 48, 56]
    assert "enhancer i2vgen-xl" in run(*words, "--enhancer", "i2vgen-xl")[1]
    assert "enhancer" not in run(*words, "--enhancer", "none")[1]
    assert "expected one of i2vgen-xl, vid2vid, none" in run(*words, "--enhancer", "esrgan")[2]


def test_plan_of_a_prompt_schedule(run: Run) -> None:
    words = ("plan", "--prompt", "a cat; 0: it walks; 6s: it sleeps", "--model", "streaming-t2v")
    parts = json.loads(run(*words, "--json")[1])["prompts"]
    assert [(part["text"], part["frame"], part["chunk"]) for part in parts] == [
        ("a cat, it walks", 0, 0),
        ("a cat, it sleeps", 48, 5),
    ]
    assert "prompt from frame 48 (chunk 5): a cat, it sleeps\n" in run(*words)[1]
    assert "first chunk by svd" in run(*words, "--first-chunk", "svd", "--image", PICTURE)[1]


def test_doctor(run: Run) -> None:
    code, out, _ = run("doctor")
    assert code in (0, 1)
    assert code == (1 if re.search("^BAD", out, re.MULTILINE) else 0)
    assert "python" in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "neither a prompt nor an image"),
        (["--prompt", "a cat"], 2, "starts from --image"),
        (["--image", PICTURE, "--num-frames", "0"], 2, "0"),
        (["--image", PICTURE, "--num-frames", "-5"], 2, "-5"),
        (["--image", PICTURE, "--num-frames", "many"], 2, "--num-frames"),
        (["--image", PICTURE, "--fps", "0"], 2, "frame rate"),
        (["--image", PICTURE, "--fps", "nan"], 2, "frame rate"),
        (["--image", PICTURE, "--seed", "-1"], 2, "seed"),
        (["--image", PICTURE, "--steps", "0"], 2, "steps"),
        (["--image", PICTURE, "--guidance", "much"], 2, "--guidance"),
        (["--image", PICTURE, "--fit", "stretch"], 2, "stretch"),
        (["--image", PICTURE, "--model", "huge"], 2, "streaming-svd, streaming-t2v"),
        (["--image", PICTURE, "--backend", "abacus"], 2, "abacus"),
        (["--image", PICTURE, "--backend", "tensorrt-rtx"], 1, "build-engines --model tiny --backend tensorrt-rtx"),
        (["--image", PICTURE, "--enhancer", "vid2vid"], 1, "build-engines --model tiny --enhancer vid2vid"),
        (["--image", PICTURE, "--frames", "5"], 2, "--frames"),
        (["--prompt", "0: a cat; 80: a dog", "--model", "streaming-t2v"], 2, "0 to 79"),
        (["--prompt", "a cat", "--model", "streaming-t2v", "--first-chunk", "sora"], 2, "modelscope, animatediff, svd"),
        (["--image", "missing.jpg"], 2, "missing.jpg"),
        (["--image", PICTURE, "--engines", "nowhere"], 1, "nowhere"),
        (["--image", PICTURE, "--output", "no/such/folder/out.mp4"], 1, "no/such/folder"),
        (["--image", PICTURE, "--output", "out.avi"], 2, ".mp4"),
        (["--image", PICTURE, "--model", "streaming-svd"], 1, "build-engines --model streaming-svd"),
    ],
)
def test_generate_refuses(run: Run, words: list[object], code: int, said: str) -> None:
    model = [] if "--model" in words else ["--model", "tiny"]
    got, out, err = run("generate", *model, *words)
    assert_one_line(err)
    assert said in err
    assert (got, out) == (code, "")
    assert not list(Path.cwd().iterdir())


def test_a_value_of_another_kind_is_told(run: Run) -> None:
    code, _, err = run("generate", "--num-frames", "many")
    assert code == 2
    assert "'--num-frames'" in err
    assert "got 'many'" in err
    assert_one_line(err)


def _text(path: Path) -> None:
    path.write_text("this is no picture")


def _dot(path: Path) -> None:
    Image.new("RGB", (1, 1)).save(path)


def _half(path: Path) -> None:
    path.write_bytes(PICTURE.read_bytes()[:5000])


@pytest.mark.parametrize("spoil", [_text, _dot, _half])
def test_generate_refuses_pictures(run: Run, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    picture = tmp_path / "spoilt.png"
    spoil(picture)
    code, out, err = run("generate", "--model", "tiny", "--image", picture)
    assert_one_line(err)
    assert "spoilt.png" in err
    assert (code, out) == (2, "")
    assert not list(Path.cwd().iterdir())


def test_generate_refuses_a_folder_without_pictures(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = run("generate", "--model", "tiny", "--image", tmp_path / "empty")
    assert_one_line(err)
    assert code == 2
    assert not list(Path.cwd().iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_generate_refuses_a_folder_that_is_not_writable(run: Run, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    code, _, err = run("generate", "--model", "tiny", "--image", PICTURE, "--output", tmp_path / "closed" / "out.mp4")
    assert_one_line(err)
    assert code == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [(Stt2vError("went\nwrong"), 1), (UsageError("asked too much"), 2), (ZeroDivisionError("oops"), 1)],
)
def test_errors_are_one_line_and_debug_shows_more(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr("stt2v.engine.commands.plan.find_model", fail)
    got, _, err = run("plan", "--model", "tiny", "--image", PICTURE)
    assert_one_line(err)
    assert got == code
    for words in (("--debug", "plan"), ("plan", "--debug")):
        got, _, err = run(*words, "--model", "tiny", "--image", PICTURE)
        assert "Traceback" in err
        assert got == code


def test_ctrl_c(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stt2v.engine.commands.plan.find_model", stop)
    assert run("plan", "--model", "tiny", "--image", PICTURE) == (130, "", "stt2v: stopped\n")


def test_build_engines_refuses(run: Run) -> None:
    for words in (["--model", "huge"], ["--model", "tiny", "--backend", "abacus"], ["--model", "tiny", "--size", "9"]):
        code, out, err = run("build-engines", *words, "--random-weights")
        assert_one_line(err)
        assert (code, out) == (2, "")


def test_generate(run: Run) -> None:
    words = ("generate", "--model", "tiny", "--image", PICTURE, "--num-frames", 3, "--steps", 1)
    code, out, err = run(*words)
    assert (code, out) == (0, "out.mp4\n")
    assert "untrained" in err
    assert "peak memory" in err
    assert [path.name for path in Path.cwd().iterdir()] == ["out.mp4"]
    first = Path("out.mp4").read_bytes()

    code, out, _ = run(*words, "--output", "again.mp4", "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["files"], result["num_frames"], result["seed"]) == (["again.mp4"], 3, 33)
    assert Path("again.mp4").read_bytes() == first


def test_generate_from_a_folder(run: Run, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("b", "a"):
        Image.new("RGB", (128, 64), "navy").save(pictures / f"{name}.png")
    (pictures / "notes.txt").write_text("no picture")
    code, out, _ = run("generate", "--model", "tiny", "--image", pictures, "--num-frames", 1)
    assert (code, out) == (0, "out/a.mp4\nout/b.mp4\n")
    assert sorted(path.name for path in Path("out").iterdir()) == [".stt2v-batch", "a.mp4", "b.mp4"]


def test_installed_script(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("stt2v")
    words = [script, "generate", "--model", "tiny", "--image", "photo.jpg", "--num-frames", "0"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert_one_line(done.stderr)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_at_its_beginning_leaves_nothing_behind(
    sent: signal.Signals, code: int, tmp_path: Path
) -> None:
    words = [
        "generate",
        "--model",
        "tiny",
        "--image",
        str(PICTURE),
        "--num-frames",
        "400",
        "--output",
        str(tmp_path / "out.mp4"),
    ]
    environment = {**os.environ, "STT2V_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", SCRIPT, *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if line.startswith("generate:"):
                break
        for _ in range(2):  # the first one asks to end with this chunk
            run.send_signal(sent)
            time.sleep(0.05)
        _, said = run.communicate(timeout=60)
    assert run.returncode == code, said
    assert said.endswith("stt2v: stopped\n")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert not list((tmp_path / "home" / "runs").iterdir())


def test_a_bad_picture_of_a_folder_does_not_stop_the_others(run: Run, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a.png", "a.jpg", "c.png"):
        Image.new("RGB", (128, 64), "navy").save(pictures / name)
    (pictures / "b.png").write_text("no picture")
    code, out, err = run(
        "generate", "--model", "tiny", "--image", pictures, "--num-frames", 1, "--no-enhance", "--no-interpolate"
    )
    assert (code, out) == (1, "out/a.jpg.mp4\nout/a.png.mp4\nout/c.mp4\n")
    assert "1 of 4 jobs failed: out/b.mp4: " in err.splitlines()[-1]


@pytest.mark.parametrize("output", ["/proc/out", "file"])
def test_a_folder_that_cannot_be_made_is_refused(run: Run, tmp_path: Path, output: str) -> None:
    Path("file").write_text("in the way")
    Image.new("RGB", (128, 64)).save(tmp_path / "a.png")
    code, _, err = run("generate", "--model", "tiny", "--image", tmp_path, "-o", output)
    assert code == 1
    assert "cannot be made" in err.splitlines()[-1]


def test_the_file_carries_what_is_needed_to_make_it_again(run: Run) -> None:
    import av

    run(
        "generate",
        "--model",
        "tiny",
        "--image",
        PICTURE,
        "--num-frames",
        2,
        "--steps",
        2,
        "--guidance",
        "1:2",
        "--no-enhance",
        "--seed",
        5,
    )
    with av.open("out.mp4") as file:
        made = json.loads(file.metadata["comment"])
    assert made["seed"] == 5
    assert made["streaming"] == {"schedule": "align-your-steps", "steps": 2, "guidance": [1.0, 2.0]}
    assert made["enhancing"] is None
    assert len(made["image"]) == len(made["weights"]) == 64
    run(
        "generate",
        "--model",
        "tiny",
        "--image",
        PICTURE,
        "--num-frames",
        1,
        "--no-enhance",
        "--no-interpolate",
        "--no-metadata",
    )
    with av.open("out.mp4") as file:
        assert "comment" not in file.metadata


def test_a_video_is_made_again_from_its_file(run: Run, tmp_path: Path) -> None:
    words = ("--num-frames", 2, "--steps", 1, "--no-enhance", "--no-interpolate")
    picture = tmp_path / "picture.png"
    Image.new("RGB", (128, 64), "navy").save(picture)
    run("generate", "--model", "tiny", "--image", picture, *words, "--seed", 5)
    first = Path("out.mp4").read_bytes()

    code, _, err = run("generate", "--from", "out.mp4", "-o", "again.mp4")
    assert (code, Path("again.mp4").read_bytes()) == (0, first)
    assert "was made with" not in err
    code, _, err = run("generate", "--from", "out.mp4", "--seed", 6, "-o", "other.mp4")
    assert "out.mp4 was made with seed 5, here it is 6\n" in err
    run("generate", "--model", "tiny", "--image", picture, *words, "--seed", 6, "-o", "fresh.mp4")
    assert Path("other.mp4").read_bytes() == Path("fresh.mp4").read_bytes()
    assert json.loads(run("plan", "--from", "out.mp4", "--json")[1])["seed"] == 5

    code, _, err = run("generate", "--from", "out.mp4")
    assert_one_line(err)
    assert (code, Path("out.mp4").read_bytes()) == (2, first)
    picture.unlink()
    code, _, err = run("generate", "--from", "out.mp4", "-o", "no.mp4")
    assert_one_line(err)
    assert (code, Path("no.mp4").exists()) == (2, False)
    assert "give it by --image" in err


def test_a_run_can_be_watched_and_measured(run: Run) -> None:
    import av

    words = (
        "generate",
        "--model",
        "tiny",
        "--image",
        PICTURE,
        "--num-frames",
        30,
        "--steps",
        1,
        "--no-enhance",
        "--no-interpolate",
    )
    views = ("--preview", "live.mp4", "--contact-sheet", "sheet.png")
    code, _, err = run(*words, *views, "--on-drift", "retry", "--drift-limits", "sharpness=1")
    assert code == 0
    assert len(re.findall(r"^chunk 1: seam [\d.]+, sharpness [\d.]+, colour [\d.]+, flow [\d.]+ %$", err, re.M)) == 4
    assert "chunk 1 drifts (attempt 4 of 4), sharpness " in err
    with av.open("live.mp4") as live, av.open("out.mp4") as whole:
        assert [sum(1 for _ in file.decode(video=0)) for file in (live, whole)] == [30, 30]
        assert json.loads(whole.metadata["comment"])["drifting"]["action"] == "retry"
    with Image.open("sheet.png") as sheet:
        assert sheet.width == 960


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--preview", "out.mp4"], "out.mp4 is another file of this run"),
        (["--contact-sheet", PICTURE], "landscape.jpg is another file of this run"),
        (["--preview", "live.avi"], ".mp4"),
        (["--drift-limits", "seam=1"], "add --on-drift"),
        (["--on-drift", "warn", "--drift-limits", "size=1"], "seam, sharpness, colour, flow"),
    ],
)
def test_views_and_drift_are_refused(run: Run, words: list[object], said: str) -> None:
    code, _, err = run("generate", "--model", "tiny", "--image", PICTURE, "--num-frames", 1, *words)
    assert_one_line(err)
    assert code == 2
    assert said in err
    assert not list(Path.cwd().iterdir())


def test_a_video_ends_where_it_drifts(run: Run) -> None:
    import av

    words = ("--num-frames", 60, "--steps", 1, "--no-enhance", "--no-interpolate", "--on-drift", "stop")
    code, out, err = run("generate", "--model", "tiny", "--image", PICTURE, *words, "--drift-limits", "sharpness=1")
    assert (code, out) == (3, "out.mp4\n")
    assert "chunk 1 drifts, sharpness " in err
    assert "goes on" not in err
    with av.open("out.mp4") as whole:
        assert sum(1 for _ in whole.decode(video=0)) == 25
