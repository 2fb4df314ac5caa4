"""A verifier directory without training, for tests of what serves it."""

from __future__ import annotations

import json
from pathlib import Path

from verifiers.learned.classifier import CARD, FORMAT


def write_untrained_verifier(directory: Path, backbone: Path) -> Path:
    """A classifier on `backbone` whose head is random; its scores mean nothing, but they are always the same."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    model.config.pad_token_id = tokenizer.pad_token_id
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    card = {"format": FORMAT, "template": "plain", "max_tokens": 64, "platt": {"slope": 0.5, "intercept": -1.0}}
    (directory / CARD).write_text(json.dumps(card))
    return directory
