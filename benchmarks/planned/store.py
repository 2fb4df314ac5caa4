"""Measurements in one Parquet file, which names the plan of the comparison if there is one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as parquet

from actors.atomic_file import atomic_file

K = TypeVar("K", bound=tuple)
V = TypeVar("V")


class Measurements(Generic[K, V]):
    """The measurements in `path`, by key. Safe for threads of one process.

    Args:
        digest: of the plan; None: there is no plan.
        read, write: turn a row into key and value, and back.

    Raises:
        RuntimeError: the file belongs to another plan.
    """

    def __init__(
        self,
        path: Path,
        digest: str | None,
        schema: pa.Schema,
        read: Callable[[Mapping[str, Any]], tuple[K, V]],
        write: Callable[[K, V], dict[str, Any]],
    ) -> None:
        self.path = path
        self._schema = schema if digest is None else schema.with_metadata({"plan": digest})
        self._write = write
        self._lock = threading.Lock()
        self._found: dict[K, V] = {}
        if not path.exists():
            return
        table = parquet.read_table(path)
        if (table.schema.metadata or {}).get(b"plan", b"").decode() != (digest or ""):
            raise RuntimeError(f"{path} was measured with another plan; choose another --evidence, or restore the plan")
        self._found.update(read(row) for row in table.to_pylist(maps_as_pydicts="strict"))

    def get(self, key: K) -> V | None:
        with self._lock:
            return self._found.get(key)

    def items(self) -> Iterator[tuple[K, V]]:
        """Sorted by key."""
        with self._lock:
            return iter(sorted(self._found.items(), key=lambda pair: pair[0]))

    def add(self, found: Mapping[K, V]) -> None:
        """Store measurements; they are on disk when this returns."""
        with self._lock:
            self._found |= found
            rows = [self._write(key, value) for key, value in self._found.items()]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path, one_writer=True) as file:
                parquet.write_table(pa.Table.from_pylist(rows, schema=self._schema), file, compression="zstd")
