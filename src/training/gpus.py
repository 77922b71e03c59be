# SPDX-License-Identifier: Apache-2.0
"""What GPUs can do at most, from their vendors' data sheets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """Dense bf16 products in TFLOP/s, memory bandwidth in TB/s, memory in GiB (which data sheets call GB)."""

    tflops: float
    bandwidth: float
    memory: float


GPUS = {  # by the first name that a device's contains
    "B300": Gpu(2250.0, 8.0, 288.0),
    "B200": Gpu(2250.0, 8.0, 180.0),
    "GH200": Gpu(989.0, 4.0, 96.0),
    "H200": Gpu(989.0, 4.8, 141.0),
    "H100 PCIe": Gpu(756.0, 2.0, 80.0),
    "H100": Gpu(989.0, 3.35, 80.0),
    "H20": Gpu(148.0, 4.0, 96.0),
    "A100": Gpu(312.0, 2.04, 80.0),
    "A800": Gpu(312.0, 2.04, 80.0),
    "L40S": Gpu(362.0, 0.864, 48.0),
    "A40": Gpu(150.0, 0.696, 48.0),
    "RTX 4090": Gpu(165.0, 1.008, 24.0),
}


def find_gpu(device_name: str) -> Gpu | None:
    """The GPU whose name a device's contains; None for one that is not in the table."""
    return next((gpu for name, gpu in GPUS.items() if name in device_name), None)


def peak_flops(device_name: str) -> float | None:
    """FLOP/s that a GPU can do at most, by its name; None for one that is not in the table."""
    gpu = find_gpu(device_name)
    return None if gpu is None else 1e12 * gpu.tflops
