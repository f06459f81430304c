"""Memory for large tensors: the right shape, writable, and given back."""

import gc
import weakref

import psutil
import pytest
import torch

from quant.large_memory import empty_tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 5), (3, 4), (1 << 12, 1 << 11), (2, 3, 1 << 20)])
def test_tensors_of_any_size_hold_what_is_written(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = empty_tensor(shape, dtype)
    assert tensor.shape == shape and tensor.dtype == dtype and tensor.is_contiguous()
    tensor.fill_(7)
    assert bool((tensor == 7).all())


def test_views_keep_the_memory_and_the_last_one_gives_it_back() -> None:
    nbytes = 256 << 20
    process = psutil.Process()
    tensor = empty_tensor((nbytes,), torch.uint8)
    tensor.fill_(1)
    view, gone = tensor[5:9], weakref.ref(tensor)
    del tensor
    gc.collect()
    assert view.tolist() == [1, 1, 1, 1]
    full = process.memory_info().rss
    del view
    gc.collect()
    assert gone() is None
    assert full - process.memory_info().rss > nbytes * 0.9
