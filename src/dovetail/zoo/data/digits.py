"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8x8; the default, no files needed."""

from __future__ import annotations

import numpy as np

from dovetail.zoo.data.arrays import Read, every_fifth, optional, part


def read_digits() -> Read:
    """Every fifth image of each class is the test part; the values 0..16 become 0..255."""
    data = optional("sklearn.datasets", "scikit-learn", "the data set 'digits'").load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    test = every_fifth(data.target)
    train_part, test_part = (part(images[chosen], data.target[chosen], 10, "digits") for chosen in (~test, test))
    return Read(train_part, test_part, tuple("0123456789"))
