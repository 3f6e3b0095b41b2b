"""MurmurHash3's finaliser (Appleby 2011, fmix64) as a kernel for other kernels: five operations."""

from numba import uint64

from tasks.core.kernels import njit


@njit
def mix(value):  # type: ignore[no-untyped-def]
    """A uint64 of which every bit depends on every bit of the given one."""
    value = uint64(value ^ (value >> uint64(33))) * uint64(0xFF51AFD7ED558CCD)
    value = uint64(value ^ (value >> uint64(33))) * uint64(0xC4CEB9FE1A85EC53)
    return uint64(value ^ (value >> uint64(33)))
