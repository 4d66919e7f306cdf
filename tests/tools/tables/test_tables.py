"""The table tools on real small files: loading, describing, querying, refusing."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from autogpt.errors import ToolError
from autogpt.labels import Label
from autogpt.tools.base import ToolContext, ToolResult, merge_facts
from autogpt.tools.tables.tools import TablesDescribe, TablesQuery, TablesSql

DELIVERIES = """supplier_id,late,days,month
1,yes,3,March
1,yes,9,March
2,no,0,March
2,yes,12,April
3,no,1,
1,no,0,April
"""
SUPPLIERS = 'id,name,country\n1,Nordfracht,Germany\n2,"Sudo, Inc",Spain\n3,Öst,Österreich\n4,Via,\n'
DESCRIBE, QUERY, SQL = TablesDescribe(), TablesQuery(), TablesSql()


def describe(ctx: ToolContext, path: str) -> ToolResult:
    result = DESCRIBE.run({"path": path}, ctx)
    ctx.facts = merge_facts(ctx.facts, result.facts)
    return result


def ask(ctx: ToolContext, **arguments: Any) -> ToolResult:
    """Run a query that the narrowed schema allows."""
    schema = QUERY.narrow(ctx.facts, ("$1",))
    assert schema is not None
    jsonschema.validate(arguments, schema)
    return QUERY.run(arguments, ctx)


def allowed(ctx: ToolContext, **arguments: Any) -> bool:
    schema = QUERY.narrow(ctx.facts, ("$1",))
    return schema is not None and jsonschema.Draft202012Validator(schema).is_valid(arguments)


@pytest.fixture
def ctx(tmp_path: Path) -> ToolContext:
    (tmp_path / "deliveries.csv").write_text(DELIVERIES)
    (tmp_path / "suppliers.csv").write_text(SUPPLIERS)
    return ToolContext(tmp_path, goal="Which supplier was late in march: NORDFRACHT? It took 12 days.")


@pytest.fixture
def both(ctx: ToolContext) -> ToolContext:
    describe(ctx, "deliveries.csv")
    describe(ctx, "suppliers.csv")
    return ctx


# --- describing ------------------------------------------------------------------------------


def test_describe_shows_types_values_found_cells_and_joins(ctx: ToolContext) -> None:
    first = describe(ctx, "deliveries.csv")
    assert first.value == {
        "table": "deliveries",
        "columns": [["supplier_id", "integer"], ["late", "text"], ["days", "integer"], ["month", "text"]],
        "rows": 6,
    }
    assert first.preview == (
        "table deliveries (6 rows): supplier_id integer, late yes|no, days integer, month March|April\n"
        'found: "March" in month; 12 in days\n'
        "first row: 1, yes, 3, March"
    )
    second = describe(ctx, "suppliers.csv")
    assert second.preview.splitlines()[1:] == [
        'found: "Nordfracht" in name',
        "join: deliveries on id=supplier_id",
        "first row: 1, Nordfracht, Germany",
    ]
    assert ctx.facts["tables"]["deliveries"]["joins"] == ["suppliers on supplier_id=id"]
    assert second.label is Label.UNTRUSTED


def test_found_cells_are_whole_words_longest_first_and_few(tmp_path: Path) -> None:
    cells = ["York", "New York", "or", "the", "ark", "4-6, 2-6", "köln", *[f"w{n}" for n in range(12)]]
    (tmp_path / "a.csv").write_text("place,score\n" + "".join(f'"{c}",{n}\n' for n, c in enumerate(cells)))
    goal = "the market in New  York or KÖLN after 4–6, 2–6 on 2024-10-11 with 11 " + " ".join(cells[7:])
    found = describe(ToolContext(tmp_path, goal=goal), "a.csv").preview.splitlines()[1]
    parts = found.removeprefix("found: ").split("; ")
    assert parts[:3] == ['"New York" in place', '"köln" in place', '"4-6, 2-6" in place']
    assert len(parts) == 8
    assert not any(part.startswith(('"York', '"or"', '"the"', '"ark"', "10 in")) for part in parts)


def test_cells_are_found_in_a_long_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,n\n" + "".join(f"person {n},{n}\n" for n in range(3000)))
    ctx = ToolContext(tmp_path, goal="What is the n of Person 2999?")
    assert 'found: "person 2999" in name' in describe(ctx, "a.csv").preview
    assert "values" not in ctx.facts["tables"]["a"]["columns"][0]
    assert ask(ctx, table="a", select=["n"], where=[["name", "=", "PERSON 2999"]]).value == [2999]


def test_a_wide_table_is_described_in_part(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",".join(f"c{n}" for n in range(100)) + "\n")
    preview = describe(ToolContext(tmp_path), "a.csv").preview
    assert "c23 text, … 76 more columns" in preview and "c24" not in preview


def test_describing_again_replaces_the_table(both: ToolContext) -> None:
    (both.workspace / "suppliers.csv").write_text("key,name\n7,New\n")
    result = describe(both, "suppliers.csv")
    assert result.value["table"] == "suppliers" and result.value["rows"] == 1
    assert both.facts["tables"]["deliveries"]["joins"] == []
    assert ask(both, table="suppliers", select=["name"]).value == ["New"]


def test_tables_come_back_from_facts_after_a_crash(both: ToolContext) -> None:
    both.facts = json.loads(json.dumps(both.facts))
    both.cache = {}
    answer = ask(both, table="suppliers", select=["name"], where=[["country", "=", "Spain"]])
    assert answer.value == ["Sudo, Inc"]
    both.cache = {}
    (both.workspace / "suppliers.csv").unlink()
    with pytest.raises(ToolError, match=r"there is no file suppliers\.csv"):
        QUERY.run({"table": "suppliers", "select": ["name"]}, both)


# --- narrowing -------------------------------------------------------------------------------


def test_nothing_is_offered_before_it_makes_sense() -> None:
    assert QUERY.narrow({}, ()) is None and SQL.narrow({"tables": {}}, ()) is None
    assert DESCRIBE.narrow({"files": {"a.txt": {}}}, ()) is None
    narrowed = DESCRIBE.narrow({"files": {"a.txt": {}, "B.CSV": {}, "c.xlsx": {}}}, ())
    assert narrowed is not None and narrowed["properties"]["path"]["enum"] == ["B.CSV", "c.xlsx"]
    assert DESCRIBE.parameters["properties"]["path"] == {"type": "string", "maxLength": 200}


def test_narrowing_is_pure(both: ToolContext) -> None:
    before = copy.deepcopy(both.facts)
    first = QUERY.narrow(both.facts, ("$1", "$2"))
    again = TablesQuery().narrow(json.loads(json.dumps(before)), ("$1", "$2"))
    assert json.dumps(first) == json.dumps(again)
    assert both.facts == before


def test_narrowed_schema_allows_what_is_there_and_nothing_else(both: ToolContext) -> None:
    base: dict[str, Any] = {"table": "deliveries", "select": ["month"]}
    valid: list[list[Any]] = [
        ["late", "=", "yes"],
        ["late", "!=", "no"],
        ["month", "=", None],
        ["days", ">=", -3],
        ["month", "contains", "mar"],
        ["late", "=", "$1"],
        ["month", ">", "2024-01-01"],
    ]
    for where in valid:
        assert allowed(both, **base, where=[where]), where
    invalid: list[list[Any]] = [
        ["late", "=", "maybe"],
        ["late", "=", None],
        ["days", "=", "yes"],
        ["days", "contains", "1"],
        ["name", "=", "Via"],
        ["days", "=", 1.5],
        ["month", "contains", "x" * 61],
    ]
    for where in invalid:
        assert not allowed(both, **base, where=[where]), where
    assert not allowed(both, table="nothing", select=["month"])
    assert not allowed(both, table="deliveries", select=["sum(month)"])
    assert not allowed(both, table="deliveries", select=[])
    assert not allowed(both, **base, limit=0) and not allowed(both, **base, order_by="days")
    assert not allowed(both, table="deliveries", select=["name"])
    assert allowed(both, table="deliveries", join="suppliers on supplier_id=id", select=["name"])
    jsonschema.validate({**base, "where": [["x", "=", 3.5]], "limit": 3}, QUERY.parameters)


# --- queries ---------------------------------------------------------------------------------


def test_conditions_combine_and_ignore_case(both: ToolContext) -> None:
    both_conditions = [["late", "=", "yes"], ["days", ">", 3]]
    assert ask(both, table="deliveries", select=["days"], where=both_conditions).value == [9, 12]
    shouted = {"table": "deliveries", "select": ["DAYS"], "where": [["LATE", "=", "YES"]]}
    assert QUERY.run(shouted, both).value == [3, 9, 12]
    assert ask(both, table="suppliers", select=["name"], where=[["name", "contains", "UDO,"]]).value == [
        "Sudo, Inc"
    ]
    assert ask(both, table="suppliers", select=["name"], where=[["country", "=", None]]).value == ["Via"]
    assert ask(both, table="suppliers", select=["name"], where=[["name", "contains", "%"]]).value == []


def test_aggregates_groups_order_and_limit(both: ToolContext) -> None:
    assert ask(both, table="deliveries", select=["count(*)"]).value == [6]
    assert ask(both, table="deliveries", select=["count(month)"]).value == [5]
    assert ask(both, table="deliveries", select=["sum(days)", "avg(days)"]).value == [[25, 25 / 6]]
    assert ask(both, table="deliveries", select=["month", "max(days)"]).value == [["April", 12]]
    grouped = ask(
        both,
        table="deliveries",
        select=["supplier_id"],
        where=[["late", "=", "yes"]],
        group_by="supplier_id",
        order_by="count(*) desc",
        limit=1,
    )
    assert grouped.value == [1] and grouped.preview == "1 row: 1"
    assert grouped.label is Label.STRUCTURED
    implied = ask(both, table="deliveries", select=["late", "count(*)"], order_by="late asc")
    assert implied.value == [["no", 3], ["yes", 3]]
    ordered = ask(both, table="deliveries", select=["days"], order_by="days desc", limit=2)
    assert ordered.value == [12, 9]
    assert ask(both, table="deliveries", select=["month"], order_by="month asc", limit=6).value[-1] == "March"


def test_join_names_and_results(both: ToolContext) -> None:
    late = ask(
        both,
        table="deliveries",
        join="suppliers on supplier_id=id",
        select=["name", "count(*)"],
        where=[["late", "=", "yes"]],
        group_by="name",
        order_by="count(*) desc",
    )
    assert late.value == [["Nordfracht", 2], ["Sudo, Inc", 1]]
    assert late.preview == "2 rows: Nordfracht, 2; Sudo, Inc, 1"
    turned = ask(
        both,
        table="suppliers",
        join="deliveries on id=supplier_id",
        select=["sum(days)"],
        where=[["country", "=", "Österreich"]],
    )
    assert turned.value == [1]


def test_columns_of_both_tables_are_qualified(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,size\nx,1\ny,2\nz,3\n")
    (tmp_path / "b.csv").write_text("name,size\ny,5\nz,6\nx,7\n")
    ctx = ToolContext(tmp_path)
    describe(ctx, "a.csv")
    describe(ctx, "b.csv")
    result = ask(
        ctx,
        table="a",
        join="b on name=name",
        select=["a.name", "sum(b.size)"],
        where=[["a.size", ">", 1]],
        order_by="a.name desc",
    )
    assert result.value == [["z", 6], ["y", 5]]


def test_lists_from_handles_mean_any_of_them(both: ToolContext) -> None:
    query = {"table": "suppliers", "select": ["name"]}
    assert QUERY.run({**query, "where": [["id", "=", [1, 2]]]}, both).value == ["Nordfracht", "Sudo, Inc"]
    others = QUERY.run({**query, "where": [["name", "!=", ["via", "nordfracht"]]]}, both)
    assert others.value == ["Sudo, Inc", "Öst"]
    assert QUERY.run({**query, "where": [["id", ">", [3]]]}, both).value == ["Via"]
    with pytest.raises(ToolError, match="needs one value, not 2"):
        QUERY.run({**query, "where": [["id", ">", [3, 4]]]}, both)


def test_an_empty_result_says_which_condition_failed(both: ToolContext) -> None:
    query = {"table": "deliveries", "select": ["days"]}
    none = QUERY.run({**query, "where": [["days", ">", 1], ["month", "=", "Marhc"]]}, both)
    assert none.value == [] and none.preview == '0 rows; no row has month = "Marhc" (nearest: "march")'
    together = ask(both, **query, where=[["late", "=", "no"], ["days", ">", 5]])
    assert together.preview == "0 rows; no row meets all conditions together"
    counted = ask(both, table="deliveries", select=["count(*)"], where=[["days", ">", 50]])
    assert counted.value == [0] and counted.preview == "1 row: 0; no row has days > 50"


def test_previews_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n,text\n" + "".join(f"{n},{'word ' * 100}\n" for n in range(25)))
    ctx = ToolContext(tmp_path)
    describe(ctx, "a.csv")
    assert ask(ctx, table="a", select=["n"]).preview == "25 rows: 0; 1; 2; 3; 4; 5; 6; 7; 8; 9; …"
    assert len(ask(ctx, table="a", select=["text"]).preview) < 700


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"table": "supplier", "select": ["name"]}, "no table supplier; loaded: deliveries, suppliers"),
        ({"table": "suppliers", "select": ["nam"]}, "no column nam; did you mean name?"),
        ({"table": "suppliers", "select": ["sum(name)"]}, r"no column sum\(name\)"),
        ({"table": "suppliers", "select": ["name"], "where": [["name", "like", "x"]]}, "no operator like"),
        ({"table": "suppliers", "select": ["name"], "where": ["name"]}, "each condition is"),
        ({"table": "suppliers", "select": ["name"], "where": [["id", ">", "many"]]}, "not a number"),
        ({"table": "suppliers", "select": ["name"], "join": "deliveries on a=b"}, "join must be"),
        ({"table": "suppliers", "select": ["name"], "group_by": "count(*)"}, "group_by takes a column"),
    ],
)
def test_unmasked_models_hear_what_is_wrong(both: ToolContext, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ToolError, match=says):
        QUERY.run(arguments, both)


def test_odd_names_and_cells_are_only_data(tmp_path: Path) -> None:
    name = 'x"; DROP TABLE a; --'
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[name, "n=m on b"], ['it\'s "q" %_\\', 1], ["' OR 1=1 --", 2]])
    ctx = ToolContext(tmp_path)
    describe(ctx, "a.csv")
    assert ask(ctx, table="a", select=["n=m on b"], where=[[name, "=", 'it\'s "q" %_\\']]).value == [1]
    assert ask(ctx, table="a", select=["n=m on b"], where=[[name, "contains", "%_\\"]]).value == [1]
    assert ask(ctx, table="a", select=[f"max({name})"], order_by=f"max({name}) desc").value == [
        'it\'s "q" %_\\'
    ]


@pytest.mark.parametrize(
    ("file", "table"),
    [
        ("销售.csv", "销售"),
        ("U\u0308bersicht 2025.csv", "\u00fcbersicht_2025"),
        ("order.csv", "order"),
        ("table.csv", "table"),
        ("--.csv", "t"),
    ],
)
def test_a_table_has_a_name_that_can_be_read_and_stands_in_sql(tmp_path: Path, file: str, table: str) -> None:
    (tmp_path / file).write_text("a,b\n1,2\n", encoding="utf-8")
    ctx = ToolContext(tmp_path)
    describe(ctx, file)
    assert list(ctx.facts["tables"]) == [table]
    assert SQL.run({"sql": f"SELECT b FROM {table}"}, ctx).value == [2]


def test_the_first_row_is_shown_short_and_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,b,c,d\n"x, y",,2.50,"' + "long " * 20 + '"\n')
    shown = describe(ToolContext(tmp_path, goal=""), "t.csv").preview.splitlines()[-1]
    assert shown == 'first row: "x, y", null, 2.5, long long long long lon…'


# --- sql -------------------------------------------------------------------------------------


def test_sql_reads(both: ToolContext) -> None:
    statement = "WITH s AS (SELECT * FROM suppliers) SELECT name FROM s ORDER BY id LIMIT 2"
    result = SQL.run({"sql": statement}, both)
    assert result.value == ["Nordfracht", "Sudo, Inc"] and result.preview == "2 rows: Nordfracht; Sudo, Inc"
    assert SQL.run({"sql": "SELECT 9e999, x'0f', NULL"}, both).value == [[None, "0f", None]]
    with pytest.raises(ToolError, match="no such column: nope"):
        SQL.run({"sql": "SELECT nope FROM suppliers"}, both)


def test_sql_takes_names_with_blanks_without_their_quotes(ctx: ToolContext) -> None:
    text = "Year Joined,Year,Town\n1966,1,Graz\n1970,2,Year Joined\n"
    (ctx.workspace / "odd.csv").write_text(text, encoding="utf-8")
    describe(ctx, "odd.csv")
    for statement in (
        "SELECT Town FROM odd WHERE year joined = 1966 AND Year = 1",
        'SELECT Town FROM odd WHERE "Year Joined" = 1966 AND Year Joined < 1970',
    ):
        assert SQL.run({"sql": statement}, ctx).value == ["Graz"]
    statement = "SELECT Year FROM odd WHERE Town = 'Year Joined' AND Year Joined = 1970"
    assert SQL.run({"sql": statement}, ctx).value == [2]
    with pytest.raises(ToolError, match="no such column: gone"):
        SQL.run({"sql": "SELECT gone FROM odd WHERE Year Joined = 1"}, ctx)


def test_sql_takes_names_with_underscores_for_what_they_cannot_hold(ctx: ToolContext) -> None:
    (ctx.workspace / "odd.csv").write_text("Peak (US),Open Cup\n3,yes\n5,no\n")
    describe(ctx, "odd.csv")
    for name in ("Peak_US", "Peak", "Peak (US)"):
        assert SQL.run({"sql": f"SELECT {name} FROM odd WHERE Open_Cup = 'no'"}, ctx).value == [5]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SELECT staet FROM places", 'did you mean "state"?'),
        ("SELECT places.staet FROM places", 'did you mean "state"?'),
        ("SELECT price FROM places", 'there are "places", "state", "town"'),
        ("SELECT town FROM place", 'did you mean "places"?'),
    ],
)
def test_sql_with_a_wrong_name_says_what_there_is(ctx: ToolContext, statement: str, said: str) -> None:
    (ctx.workspace / "places.csv").write_text("state,town\nTirol,Innsbruck\n")
    describe(ctx, "places.csv")
    with pytest.raises(ToolError, match=r"no such") as error:
        SQL.run({"sql": statement}, ctx)
    assert said in str(error.value)


def test_sql_without_rows_says_which_text_no_cell_has(ctx: ToolContext) -> None:
    (ctx.workspace / "places.csv").write_text("state,town\nTirol,Innsbruck\nWien,Wien\n")
    describe(ctx, "places.csv")

    def said(statement: str) -> str:
        return SQL.run({"sql": statement}, ctx).preview

    near = '0 rows; no town is "Insbruck" (nearest: "Innsbruck")'
    assert said("SELECT state FROM places WHERE town = 'Insbruck'") == near
    assert said("SELECT count(*) FROM places WHERE state LIKE '%xyzzy%'").startswith(
        '1 row: 0; no state is "xyzzy" (there are: "Tirol"'
    )
    assert said("SELECT state FROM places WHERE town = 'wien' AND state = 'Tirol'") == "0 rows"


def test_sql_takes_tables_and_columns_that_are_words_of_sql(ctx: ToolContext) -> None:
    text = "order,group,city\n1,a,St. John's\n2,b,Graz\n3,b,Graz\n"
    (ctx.workspace / "table.csv").write_text(text, encoding="utf-8")
    describe(ctx, "table.csv")
    counted = "SELECT group, count(*) FROM table GROUP BY group ORDER BY count(*) DESC LIMIT 1"
    assert SQL.run({"sql": counted}, ctx).value == [["b", 2]]
    assert SQL.run({"sql": "SELECT order FROM table WHERE city = 'St. John's'"}, ctx).value == [1]


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE suppliers",
        "UPDATE suppliers SET id = 0",
        "INSERT INTO suppliers VALUES (9, 'x', 'y')",
        "CREATE TEMP TABLE x AS SELECT 1",
        "ATTACH 'evil.db' AS evil",
        "PRAGMA writable_schema = 1",
        "VACUUM INTO 'copy.db'",
        "SELECT load_extension('evil')",
        "BEGIN",
        "SELECT 1; DELETE FROM suppliers",
        " ",
    ],
)
def test_sql_only_reads(both: ToolContext, statement: str) -> None:
    with pytest.raises(ToolError):
        SQL.run({"sql": statement}, both)
    assert ask(both, table="suppliers", select=["count(*)"]).value == [4]
    assert sorted(p.name for p in both.workspace.iterdir()) == ["deliveries.csv", "suppliers.csv"]


def test_endless_statements_are_stopped(both: ToolContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autogpt.tools.tables.query.MAX_SECONDS", 0.2)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    with pytest.raises(ToolError, match="took more than"):
        SQL.run({"sql": endless}, both)
    many = endless.replace("max(i)", "i")
    with pytest.raises(ToolError, match="more than 10,000 rows"):
        SQL.run({"sql": many}, both)
