from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rarefy.errors import InputError
from rarefy.measure import file_bytes, safetensors_bytes


def test_bytes_are_those_on_disk(tmp_path):
    file = tmp_path / "a.onnx"
    file.write_bytes(b"x" * 1234)
    assert file_bytes(file) == 1234


@pytest.mark.parametrize(("make", "words"), [(False, "does not exist"), (True, "is a folder")])
def test_no_file_is_said_so(tmp_path, make: bool, words: str):
    path = tmp_path / "a.onnx"
    if make:
        path.mkdir()
    with pytest.raises(InputError, match=rf"a\.onnx {words}; give an \.onnx or \.rfy file"):
        file_bytes(path)


def test_equal_to_the_file_that_safetensors_writes(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 5))
    save_file(net.state_dict(), tmp_path / "net.safetensors")  # one of the tensors counts batches in int64
    assert safetensors_bytes(net.state_dict()) == file_bytes(tmp_path / "net.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_floating_tensors_count_as_float32(dtype: torch.dtype):
    assert safetensors_bytes({"w": torch.ones(999, dtype=dtype)}) == safetensors_bytes({"w": torch.ones(999)})


def test_tied_tensors_count_once():
    w = torch.ones(100, 50)
    tied = safetensors_bytes({"a": w, "b": w.view(100, 50)})
    assert tied == safetensors_bytes({"a": w})
    assert safetensors_bytes({"a": w, "b": w.clone()}) > tied + w.numel() * 4


def test_a_part_of_a_tensor_is_not_tied_to_it():
    w = torch.ones(100, 50)
    assert safetensors_bytes({"a": w, "b": w[:50]}) > safetensors_bytes({"a": w}) + 50 * 50 * 4


def test_not_contiguous_empty_and_gradient_tensors():
    transposed = nn.Parameter(torch.ones(30, 40)).t()
    plain = safetensors_bytes({"w": torch.ones(40, 30), "e": torch.ones(0), "f": torch.ones(0)})
    assert safetensors_bytes({"w": transposed, "e": torch.ones(0), "f": torch.ones(0)}) == plain
