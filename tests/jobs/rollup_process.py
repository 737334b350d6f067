"""A process of its own for ``test_rollup``: an engine, one dirty minute kept in a file, one run of the job."""

import random
import sys
from collections.abc import Mapping
from pathlib import Path

from rollup_fakes import without_time
from test_rollup import TABLES, expected, final, some_rows, write_raw

from pipeline.base.config import ClickHouseSettings, Settings
from pipeline.jobs.rollup import RollupJob
from pipeline.store.client import Store
from pipeline.store.migrate import migrate


class DirtyFile:
    """The dirty minute that outlives the process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def dirty_minutes(self) -> dict[int, int]:
        return {int(line): 1 for line in self.path.read_text().split()}

    def forget_minutes(self, seen: Mapping[int, int]) -> None:
        self.path.write_text("")


def main(step: str, directory: Path, minute: int) -> None:
    settings = Settings(data_dir=directory, clickhouse=ClickHouseSettings(dsn=f"chdb://{directory}/engine"))
    store, dirty, now_s = Store.open(settings), DirtyFile(directory / "dirty"), minute + 3000
    rows = [row | {"timestamp_ms": minute * 1000 + at} for at, row in enumerate(some_rows(random.Random(6), 50))]
    if step == "store and roll up":
        migrate(store, settings)
        write_raw(store, rows)
        dirty.path.write_text(str(minute))
    RollupJob(store, [dirty], settings.rollups).run(now_s * 1000)
    for width_s, table in TABLES.items():
        assert without_time(final(store, table)) == without_time(expected(rows, width_s, now_s))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
