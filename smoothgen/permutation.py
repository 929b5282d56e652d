"""Random orders that cost no memory: a bijection of 0 .. n - 1 whose value at any place is computed on the spot."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from smoothgen.device import derived_seed

ROUNDS = 8


class Bijection:
    """A pseudorandom permutation of 0 .. n - 1, a pure function of (n, seed), in memory that does not depend on n.

    A number v < n is a pair (v // b, v % b), a b >= n, and every round adds a keyed hash of one half to the other, by
    turns: an alternating Feistel network. Results of n and more, less than one in sqrt(n), go through it once more
    until they fall below n.
    Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, sections 3 and 5; the hash is
    the finaliser of Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, in Stafford's
    variant 13. Not a cipher: two and three rounds fail statistics of tests/property/test_permutation.py, four pass all
    of them, and there are eight.
    """

    def __init__(self, n: int, seed: int) -> None:
        if not 1 <= n < 2**62:
            raise ValueError(f"n must be between 1 and 2^62 - 1, got {n}")
        self.n, self.seed = n, seed
        a = math.isqrt(n - 1) + 1
        self._a, self._b = np.uint64(a), np.uint64(-(-n // a))
        self._keys = [np.uint64(derived_seed(seed, "round", index)) for index in range(ROUNDS)]

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """What stands at these places, (k,) int64 -> (k,) int64, all in 0 .. n - 1."""
        return self._walk(places, self._forward)

    def inverse(self, values: np.ndarray) -> np.ndarray:
        """Where these values stand, (k,) int64 -> (k,) int64."""
        return self._walk(values, self._backward)

    def _walk(self, numbers: np.ndarray, once: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        found = once(numbers.astype(np.uint64))
        outside = np.flatnonzero(found >= self.n)
        while len(outside):
            found[outside] = once(found[outside])
            outside = outside[found[outside] >= self.n]
        return found.astype(np.int64)

    def _forward(self, numbers: np.ndarray) -> np.ndarray:
        left, right = np.divmod(numbers, self._b)
        for index, key in enumerate(self._keys):
            if index % 2 == 0:
                left = (left + _hash(right, key) % self._a) % self._a
            else:
                right = (right + _hash(left, key) % self._b) % self._b
        return left * self._b + right

    def _backward(self, numbers: np.ndarray) -> np.ndarray:
        left, right = np.divmod(numbers, self._b)
        for index, key in reversed(list(enumerate(self._keys))):
            if index % 2 == 0:
                left = (left + (self._a - _hash(right, key) % self._a)) % self._a
            else:
                right = (right + (self._b - _hash(left, key) % self._b)) % self._b
        return left * self._b + right


def _hash(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """64 well mixed bits of each value, which is itself below 2^62."""
    mixed = values ^ key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
