"""The choice of a back end, and what is told where something is missing."""

import sys

import pytest

from sb3_bcvlr.envs import doctor, rendering


@pytest.fixture
def machine(monkeypatch):
    """Makes this a machine with some OpenGL libraries and perhaps a GPU, on which nobody has chosen yet."""

    def make(libraries, has_gpu):
        for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(rendering.ctypes.util, "find_library", lambda name: name if name in libraries else None)
        monkeypatch.setattr(rendering.Path, "glob", lambda *_: iter(["nvidia0"] * has_gpu))
        return monkeypatch

    yield make
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("libraries", "has_gpu", "expected"),
    [
        (["OSMesa", "EGL"], True, "egl"),
        (["OSMesa", "EGL"], False, "osmesa"),
        (["OSMesa"], True, "osmesa"),
        (["EGL"], False, "egl"),
        ([], False, "osmesa"),
    ],
)
def test_the_back_end_suits_the_machine(machine, libraries, has_gpu, expected):
    machine(libraries, has_gpu)
    assert rendering.choose_backend() == expected
    assert rendering.os.environ["MUJOCO_GL"] == expected


def test_the_users_choice_stands(machine):
    machine(["OSMesa"], False).setenv("MUJOCO_GL", "egl")
    assert rendering.choose_backend() == "egl"


def test_a_platform_that_another_package_has_chosen_stands(machine):
    machine(["OSMesa", "EGL"], False).setenv("PYOPENGL_PLATFORM", "egl")
    assert rendering.choose_backend() == "egl"


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ImportError, match=r"pip install 'sb3_bcvlr\[dmc\]'"):
        rendering.require("dm_control", "dmc")


def test_a_missing_library_names_its_package(monkeypatch):
    monkeypatch.setattr(rendering, "import_module", lambda _: (_ for _ in ()).throw(AttributeError("no glGetError")))
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(ImportError, match=r"AttributeError: no glGetError.*apt-get install libosmesa6.*doctor"):
        rendering.require("dm_control", "dmc")


def test_code_runs_in_a_process_of_its_own():
    assert doctor.run("import os; print('noise'); print(os.environ['MUJOCO_GL'])", MUJOCO_GL="egl") == (True, "egl")
    assert doctor.run("raise RuntimeError('broken')") == (False, "RuntimeError: broken")


def test_a_back_end_that_is_there_draws():
    pytest.importorskip("mujoco")
    backend = rendering.choose_backend()
    starts, answer = doctor.run(doctor.RENDER, MUJOCO_GL=backend, PYOPENGL_PLATFORM=backend)
    assert starts and int(answer) > 0, answer


def test_the_report_tells_what_works_and_what_to_install(monkeypatch, capsys):
    def run(code, MUJOCO_GL="", **_):
        return (True, "500") if MUJOCO_GL == "osmesa" or "procgen" in code else (False, "ImportError: nothing there")

    monkeypatch.setattr(doctor, "run", run)
    assert doctor.main() == 0
    report = capsys.readouterr().out
    assert "osmesa     500 frames/s" in report
    assert "egl        does not start (ImportError: nothing there)" in report
    assert "apt-get install libegl1" in report
    assert "procgen    works" in report
    assert "pip install 'sb3_bcvlr[metaworld]'" in report


def test_no_back_end_at_all_is_a_failure(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "run", lambda *_, **__: (False, "broken"))
    assert doctor.main() == 1
