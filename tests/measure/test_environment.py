from __future__ import annotations

import getpass
import platform
import subprocess
import sys
from importlib.metadata import version

import rarefy
from rarefy import measure
from rarefy.measure import environment

module = sys.modules["rarefy.measure.environment"]

X86 = """processor : 0
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu sse4_1 avx2 avx512_vnni hypervisor
"""
ARM = """processor : 0
Features\t: fp asimd asimddp i8mm sve
Hardware\t: Some board
"""


def test_what_is_said_of_this_machine():
    here = environment(processes=2, threads=3)
    assert here.machine
    assert here.cores >= 1
    assert (here.processes, here.threads) == (2, 3)
    assert here.versions["torch"] == version("torch")
    assert here.versions["rarefy"] == rarefy.__version__
    assert environment().threads == here.cores


def test_nothing_personal_is_said():
    text = environment().model_dump_json()
    assert platform.node() not in text
    assert str(sys.prefix) not in text
    assert f'"{getpass.getuser()}"' not in text


def test_descriptions_of_processors():
    assert module._model(X86) == "Some CPU @ 2.00GHz"
    assert module._features(X86) == ["sse4_1", "avx2", "avx512_vnni"]
    assert module._model(ARM) == "Some board"
    assert module._features(ARM) == ["asimd", "asimddp", "i8mm", "sve"]
    assert module._model("") != ""
    assert module._features("") == []


def test_importing_is_light_and_names_exist():
    code = "import sys, rarefy.measure; print([m for m in ('torch', 'onnx', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert all(getattr(measure, name) is not None for name in measure.__all__)
