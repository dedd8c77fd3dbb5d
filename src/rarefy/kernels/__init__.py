"""Binary layers by xor and popcount: for AVX-512, AVX2, NEON and any CPU, and in NumPy where nothing was compiled.

Weights are +1 or -1, one bit each; activations are signs (+1 at zero) or unsigned integers of one to four bits. The
sum is exact, and rounded once for each product and sum after it, so that all versions give the same bits. The version
is chosen from what the CPU has; `RAREFY_KERNELS=portable|avx2|avx512|neon|numpy` forces one. No torch here:
`rarefy.kernels.torch_ops` has the operators for PyTorch.
"""

from rarefy.kernels.bits import pack_bits, pack_signs, unpack_bits
from rarefy.kernels.convolution import Convolution
from rarefy.kernels.filters import Filters
from rarefy.kernels.library import Features, custom_ops, features

__all__ = [
    "Convolution",
    "Features",
    "Filters",
    "custom_ops",
    "features",
    "pack_bits",
    "pack_signs",
    "unpack_bits",
]
