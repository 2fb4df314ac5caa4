"""Which class loads a model's tokenizer, so that not every process has to find it.

Importing `AutoTokenizer` takes about 2 seconds of a processor and 140 MB (transformers 5.19): with it come
scikit-learn, torch and transformers' generation. The class that it chooses for a directory needs none of them.
"""

from __future__ import annotations

from typing import Any

AUTO = "AutoTokenizer"


def tokenizer_class(tokenizer: Any) -> str:
    """The name in transformers of the class that `AutoTokenizer` chose; "AutoTokenizer" if it is not a public one."""
    import transformers

    chosen = type(tokenizer)
    return chosen.__name__ if getattr(transformers, chosen.__name__, None) is chosen else AUTO


def load_tokenizer_as(name: str, directory: str) -> Any:
    """The tokenizer of a model directory; `name`: from :func:`tokenizer_class`, for the same directory."""
    import transformers

    return getattr(transformers, name).from_pretrained(directory, local_files_only=True)
