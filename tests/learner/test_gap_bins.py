"""The gap between sampler and learner by position and surprise, against a loop over tokens."""

from __future__ import annotations

import numpy as np
import torch

from learner.gap_bins import POSITIONS, SURPRISES, bin_names, gap_means, gap_sums


def test_every_token_is_in_one_bin_of_each_kind() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.exponential(2.0, size) for size in (1500, 40, 3)]
    width = max(map(len, rows))
    logprobs_BR, gaps_BR = np.zeros((3, width), np.float32), rng.random((3, width)).astype(np.float32)
    mask_BR = np.zeros((3, width), bool)
    expected: dict[str, list[float]] = {}
    for row, surprises in enumerate(rows):
        mask_BR[row, width - len(surprises) :] = True  # right-aligned, as in micro-batches
        logprobs_BR[row, width - len(surprises) :] = -surprises
        for position in range(len(surprises)):
            column = width - len(surprises) + position
            for kind, edges, value in (
                ("position", POSITIONS, position),
                ("surprise", SURPRISES, float(-logprobs_BR[row, column])),
            ):
                low = max(edge for edge in edges if edge <= value)
                expected.setdefault(f"logprob_gap/{kind}_{low:g}", []).append(float(gaps_BR[row, column]))
    sums = gap_sums(*map(torch.from_numpy, (gaps_BR, logprobs_BR, mask_BR)))
    assert sums[1].tolist() == [len(expected[name]) for name in bin_names()]
    found = dict(gap_means(sums))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], np.mean(values), rtol=1e-6)


def test_bins_without_tokens_have_no_mean() -> None:
    ones_BR = torch.ones(1, 3)
    found = dict(gap_means(gap_sums(ones_BR, 1e-9 * ones_BR, ones_BR.bool())))  # log p > 0 by rounding
    assert found == {"logprob_gap/position_0": 1.0, "logprob_gap/surprise_0": 1.0}
