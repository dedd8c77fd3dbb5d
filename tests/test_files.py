from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest
import torch
from torch import nn

from rarefy.errors import InputError, ModelError, RarefyError, RunError
from rarefy.files import load_tensors, model_tensors, restore, save_tensors, write_whole


def test_a_file_is_replaced_whole_with_the_usual_rights(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "f"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert [p.name for p in path.parent.iterdir()] == ["f"]


@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "tempfile.mkstemp"])
def test_on_a_full_disk_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "f"
    write_whole(path, b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(call, full)
        with pytest.raises(InputError, match=r"cannot write .*f \(3 bytes\): No space left on device; free space"):
            write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    tensors = {
        "a": shared,
        "b": shared.view(2, 3).T,  # shares memory, not contiguous
        "c": torch.tensor(3, dtype=torch.int64),
        "d": torch.randn(3).bfloat16(),
        "e": torch.empty(0, 4),
        "f": torch.tensor([True, False]),
    }
    save_tensors(tmp_path / "t", tensors, {"done": 3, "best": None})
    found, state = load_tensors(tmp_path / "t")
    assert state == {"done": 3, "best": None}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_damaged_tensors_are_refused(tmp_path: Path) -> None:
    path, draw = tmp_path / "t", random.Random(0)
    save_tensors(path, {"a": torch.randn(5, 5)}, {"done": 1})
    whole = path.read_bytes()
    for cut in (0, 5, 40, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(RunError, match="cannot be read as safetensors"):
            load_tensors(path)
    for _ in range(200):
        bad = bytearray(whole)
        bad[draw.randrange(150)] = draw.randrange(256)
        path.write_bytes(bad)
        try:
            load_tensors(path)
        except RarefyError as error:
            assert "delete it and run again" in str(error)  # noqa: PT017
    with pytest.raises(RunError, match="nothing"):
        load_tensors(tmp_path / "nothing")


def test_restore_names_what_does_not_fit_and_changes_nothing() -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    with pytest.raises(ModelError, match=r"w\.pt does not fit the network: bias has shape \(5,\).*unknown other"):
        restore(model, {"weight": torch.zeros(2, 3), "bias": torch.zeros(5), "other": torch.zeros(1)}, "w.pt")
    assert torch.equal(model.weight, before)
    many = nn.Sequential(*[nn.Linear(1, 1) for _ in range(10)])
    with pytest.raises(ModelError, match="; and 12 more"):
        restore(many, {}, "w")


def test_tensors_of_a_network_are_each_there_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    model[1].register_buffer("scratch", torch.zeros(1), persistent=False)
    assert set(model_tensors(model)) == set(model.state_dict()) - {"2.weight", "1.scratch"}
