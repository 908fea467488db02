"""Every equation that the mathematics cites is tested by name, and the ledger says where."""

import pytest
from ledger import LEDGER, Equation, Row, citations, named, rows, table

ROWS = rows()


def test_the_ledger_is_up_to_date():
    assert LEDGER.read_text() == table(), "write it anew: python tests/ledger.py"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.equation} in {row.function}")
def test_a_cited_equation_is_cited_by_a_test_and_its_function_is_named_in_one(row: Row):
    assert row.citing, f"no test cites [{row.equation}], in its name or its docstring"
    assert row.naming, f"no test names {row.function}"


def test_citations_are_read_as_they_are_written():
    text = "First [Ho 2020, eq. 6-7], then [Song & Ermon 2020, prop. 2; alg. 3, 5], [eq. 14] and [2015, code; rel. 1]."
    assert [str(equation) for equation in citations(text, "Sohl-Dickstein 2015")] == [
        *("Ho 2020, eq. 6", "Ho 2020, eq. 7", "Song 2020, prop. 2", "Song 2020, alg. 3", "Song 2020, alg. 5"),
        *("Sohl-Dickstein 2015, eq. 14", "Sohl-Dickstein 2015, rel. 1"),
    ]
    assert Equation("Sohl-Dickstein 2015", "eq", 14).key == ("sohldickstein2015", "eq", 14)


def test_names_of_tests_are_read_as_they_are_written():
    assert list(named("test_song2021_eq9_11_12_and_eq6_of_three")) == [("song2021", "eq", n) for n in (9, 11, 12, 6)]
    assert not list(named("test_ho2020_sec32_the_two_fixed_variances")) and not list(named("test_eqs_are_equal"))


def test_the_ledger_is_not_empty():
    assert len(ROWS) >= 60 and sum(bool(row.cells) for row in ROWS) >= 40
