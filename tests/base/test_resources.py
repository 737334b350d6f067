"""Files that travel with the package."""

import pytest

from pipeline.base import resources


def test_a_file_that_does_not_travel_is_named() -> None:
    """What neither the checkout nor the wheel has is an error with its name; what is there is found."""
    assert resources.path("sql/queries.sql").is_file()
    with pytest.raises(FileNotFoundError, match=r"sql/nowhere\.sql is neither in the checkout nor"):
        resources.path("sql/nowhere.sql")
