"""The parts of a layer that libk2quant computes in one call each: its structs, filled once, and the calls."""

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from quant.kernels.fused import Attend, AttendHeads, ExpertRouter, LatentAttention, Route
from quant.tensor import QuantizedTensor

MOST_TOKENS = 8  # MOST_TOKENS of multiply.h

# Calls a function of the library with the pool and these arguments. Raises what the arguments deserve.
PoolCall = Callable[..., None]

_POINTER, _INT32, _INT64, _FLOAT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_float


class _Matrix(ctypes.Structure):
    """k2quant_matrix."""

    _fields_ = [("data", _POINTER), ("rows", _INT64), ("cols", _INT64), ("type", _INT32), ("unused", _INT32)]


class AttentionStruct(ctypes.Structure):
    """k2quant_attention."""

    _fields_ = [
        *((name, _INT64) for name in ("hidden", "heads", "nope", "rope", "latent", "value", "q_rank")),
        *((name, _FLOAT) for name in ("eps", "lora_eps", "scale", "unused")),
        *((name, _POINTER) for name in ("norm", "q_a_norm", "kv_a_norm")),
        *((name, _Matrix) for name in ("q_a", "q_b", "kv_a", "k_b", "v_b", "output")),
    ]


class RouterStruct(ctypes.Structure):
    """k2quant_router."""

    _fields_ = [
        *((name, _INT64) for name in ("hidden", "experts", "used", "groups", "groups_used")),
        *((name, _INT32) for name in ("softmax", "normalize")),
        *((name, _FLOAT) for name in ("scale", "eps")),
        *((name, _POINTER) for name in ("norm", "weight", "bias")),
    ]


def attention_call(call: PoolCall, attention: LatentAttention) -> Attend:
    """See FusedKernels.prepare_attention. All types must be served."""
    struct, hidden = attention_struct(attention), attention.output.rows
    reference = ctypes.byref(struct)
    latent_dim = attention.kv_a.rows

    def attend(x: Tensor, cache: Tensor, position: int, rotations: tuple[Tensor, Tensor]) -> Tensor:
        _check(x, hidden)
        if len(x) > MOST_TOKENS:
            raise ValueError(f"{len(x)} tokens: expected 1 to {MOST_TOKENS}")
        check_cache(cache, latent_dim)
        cosines, sines = rotation_tables(rotations, len(x), attention.rope_dim)
        call(
            "k2quant_attend",
            reference,
            x.data_ptr(),
            len(x),
            cache.data_ptr(),
            cache.shape[0],
            position,
            cosines.data_ptr(),
            sines.data_ptr(),
        )
        return x

    return attend  # holds `attention`, of which the struct has only addresses


def head_attention_call(call: PoolCall, attention: LatentAttention) -> AttendHeads:
    """See FusedKernels.prepare_head_attention. The types of `k_b` and `v_b` must be served."""
    struct, latent_dim = attention_struct(attention), attention.kv_a.rows
    reference = ctypes.byref(struct)

    def attend_heads(queries: Tensor, cache: Tensor, position: int, rotations: tuple[Tensor, Tensor]) -> Tensor:
        _check(queries, attention.q_b.rows)
        check_cache(cache, latent_dim)
        tokens = len(queries)
        cosines, sines = rotation_tables(rotations, tokens, attention.rope_dim)
        out = torch.empty(tokens, attention.output.cols)
        pointers = cosines.data_ptr(), sines.data_ptr(), out.data_ptr()
        where = cache.data_ptr(), cache.shape[0], position
        call("k2quant_attend_heads", reference, queries.data_ptr(), tokens, *where, *pointers)
        return out

    return attend_heads  # holds `attention`, as above


def router_call(call: PoolCall, router: ExpertRouter) -> Route:
    """See FusedKernels.prepare_router."""
    struct, hidden = router_struct(router), router.weight.shape[1]
    reference = ctypes.byref(struct)

    def route(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _check(x, hidden)
        tokens = len(x)
        if tokens > MOST_TOKENS:
            raise ValueError(f"{tokens} tokens: expected 1 to {MOST_TOKENS}")
        normed = torch.empty_like(x)
        ids = torch.empty(tokens, router.used, dtype=torch.int64)
        weights = torch.empty(tokens, router.used)
        pointers = normed.data_ptr(), ids.data_ptr(), weights.data_ptr()
        call("k2quant_route", reference, x.data_ptr(), tokens, *pointers)
        return normed, ids, weights

    return route  # holds `router`, of which the struct has only addresses


def router_struct(router: ExpertRouter) -> RouterStruct:
    """k2quant_router, which has addresses of what `router` holds."""
    experts, hidden = router.weight.shape
    return RouterStruct(
        hidden=hidden,
        experts=experts,
        used=router.used,
        groups=router.groups,
        groups_used=router.groups_used,
        softmax=router.softmax,
        normalize=router.normalize,
        scale=router.scale,
        eps=router.eps,
        norm=floats_address(router.norm, hidden),
        weight=floats_address(router.weight, experts * hidden),
        bias=None if router.bias is None else floats_address(router.bias, experts),
    )


def attention_struct(a: LatentAttention) -> AttentionStruct:
    """k2quant_attention, which has addresses of what `a` holds."""
    heads, latent, nope = a.k_b.shape
    hidden = a.output.rows
    q_rank = 0 if a.q_a is None else a.q_a.rows
    return AttentionStruct(
        hidden=hidden,
        heads=heads,
        nope=nope,
        rope=a.rope_dim,
        latent=latent,
        value=a.v_b.shape[1],
        q_rank=q_rank,
        eps=a.eps,
        lora_eps=a.lora_eps,
        scale=a.scale,
        norm=floats_address(a.norm, hidden),
        q_a_norm=None if a.q_a_norm is None else floats_address(a.q_a_norm, q_rank),
        kv_a_norm=floats_address(a.kv_a_norm, latent),
        q_a=_Matrix() if a.q_a is None else _matrix(a.q_a),
        q_b=_matrix(a.q_b),
        kv_a=_matrix(a.kv_a),
        k_b=_matrix(a.k_b),
        v_b=_matrix(a.v_b),
        output=_matrix(a.output),
    )


def _matrix(w: QuantizedTensor) -> _Matrix:
    return _Matrix(data=w.address, rows=w.rows, cols=w.cols, type=w.type.ggml_id)


def floats_address(values: Tensor, count: int) -> int:
    """The address of contiguous float32 values."""
    if values.dtype != torch.float32 or not values.is_contiguous() or values.numel() != count:
        raise ValueError(f"{count} contiguous float32 values are expected, got {values.dtype} {tuple(values.shape)}")
    return values.data_ptr()


def rotation_tables(rotations: tuple[Tensor, Tensor], tokens: int, rope_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, contiguous. Raises ValueError when they do not fit."""
    cosines, sines = rotations
    if cosines.shape != (tokens, rope_dim // 2) or sines.shape != cosines.shape:
        raise ValueError(f"rotations {tuple(cosines.shape)} do not fit {tokens} tokens")
    return cosines.contiguous(), sines.contiguous()


def check_cache(cache: Tensor, latent_dim: int) -> None:
    """Raises ValueError when it is not one of contiguous latents."""
    if cache.shape[1] != latent_dim or not cache.is_contiguous() or cache.dtype != torch.float32:
        raise ValueError(f"the cache is {cache.dtype} {tuple(cache.shape)}: expected float32 [.., {latent_dim}]")


def _check(x: Tensor, width: int) -> None:
    if x.dtype != torch.float32 or x.device.type != "cpu" or not x.is_contiguous():
        raise TypeError(f"activations must be contiguous float32 in RAM, got {x.dtype} on {x.device}")
    if x.ndim != 2 or x.shape[1] != width or len(x) == 0:
        raise ValueError(f"activations {tuple(x.shape)}: expected some tokens of {width}")
