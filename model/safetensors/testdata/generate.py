"""Writes reference.safetensors with the format's reference implementation.

    pip install safetensors==0.8.0
    python generate.py
"""

import ctypes
import struct

import safetensors

assert safetensors.__version__ == "0.8.0"


def f32(*v):
    return struct.pack(f"<{len(v)}f", *v)


def f16(*v):
    return struct.pack(f"<{len(v)}e", *v)


def bf16(*v):  # exact values only
    return b"".join(struct.pack("<f", x)[2:] for x in v)


tensors = {
    "model.norm.weight": ("float32", [3], f32(1.5, -2.25, 3.0e-5)),
    "a": ("bfloat16", [3, 1], bf16(1.0, -0.15625, float("inf"))),
    "zz": ("float32", [], f32(7.0)),
    "half": ("float16", [2, 2], f16(0.5, -65504.0, 6.0e-8, 0.0)),
    "empty": ("float16", [2, 0, 4], b""),
    'é "quoted"\n\u2028': ("bfloat16", [1, 1, 1], bf16(3.0)),
}
buffers = {name: ctypes.create_string_buffer(data, len(data)) for name, (_, _, data) in tensors.items()}
safetensors.serialize_file(
    {
        name: safetensors.TensorSpec(
            dtype=dtype, shape=shape, data_ptr=ctypes.addressof(buffers[name]), data_len=len(data)
        )
        for name, (dtype, shape, data) in tensors.items()
    },
    "reference.safetensors",
    {"format": "chorus/test <&> é"},
)
