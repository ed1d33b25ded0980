import importlib
import json
import pkgutil

import duckdb
import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import actstore
import making
from actstore import QueryError
from actstore.format import schema
from actstore.sql import overview

SECRET = "a line that no query may show"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return making.store(tmp_path_factory.mktemp("stores") / "it's a store")


def test_rows_know_their_samples_and_the_plan(store):
    found = store.sql("select row_id, role, k, position, sample_id, condition, status, length, label from rows")
    assert found.height == 27
    assert found.sort("row_id").row(10) == ((1 << 32) + 1, "eoi", 0, 3, "b1s0", "none", "ok", 10, "dog")


def test_failed_samples_are_samples(store):
    found = store.sql("select sample_id, error, label from samples where status = 'failed' order by all")
    assert found.rows() == [
        ("b0s2", "not an image", "dog"),
        ("b1s2", "not an image", "dog"),
        ("b2s2", "not an image", "dog"),
    ]


def test_the_small_views(store):
    assert store.sql("select model, seed, d_model, layers, stored_dtype from run").rows() == [
        ("tiny", 0, 8, [0, 1, 2], "bfloat16")
    ]
    assert store.sql("select batch, samples, rows from parts order by batch").rows() == [
        (0, 4, 9),
        (1, 4, 9),
        (2, 4, 9),
    ]
    assert store.sql("from vocab order by all").rows() == [(1, "a"), (7, " dog")]
    assert store.sql("from results").columns == [
        *("name", "measure", "created", "sql", "parameters", "current", "commits", "versions", "device")
    ]


def test_answers_have_their_names(tmp_path, store):
    made = making.create(tmp_path / "s", 1, run={"answer_tokens": {"it's": 7, "no": 1}})
    content = making.content(0)
    said = pl.Series([None if one is None else [0.125, 0.5] for one in content["samples"]["answer_probabilities"]])
    made.write(0, **{**content, "samples": content["samples"].with_columns(answer_probabilities=said)})
    found = actstore.open(made.path).sql(
        "select answer, probability from answers join samples using (sample_id, condition) order by all"
    )
    assert found.rows() == [("it's", 0.125)] * 3 + [("no", 0.5)] * 3
    assert store.sql("select distinct answer, probability from answers").rows() == [(None, 0.125)]  # names not kept


@pytest.mark.parametrize(
    "card", [{}, {"nothing": None, "flag": True, "rate": 0.5, "versions": {"torch": "2"}, "é x": "'"}]
)
def test_any_run_card_is_a_view(tmp_path, card):
    store = making.create(tmp_path / "s", run=card)
    found = store.sql("from run").row(0, named=True)
    assert {name: found[name] for name in card} == {
        name: json.dumps(value) if isinstance(value, dict) else value for name, value in card.items()
    }


def test_a_store_without_rows_has_the_same_views(tmp_path, store):
    empty = making.create(tmp_path / "s")
    for view in ("rows", "samples", "answers", "plan", "parts", "vocab", "results"):
        assert empty.sql(f"from {view} limit 0").schema == store.sql(f"from {view} limit 0").schema


def test_residual_in_sql_is_that_of_python(store):
    found = store.sql("select row_id, residual(row_id, 1) as x from rows order by hash(row_id)")
    assert found.schema["x"] == pl.Array(pl.Float32, 8)
    assert_array_equal(found["x"].to_numpy(), store.residual(found, 1))


def test_residual_of_nothing_is_null(store):
    found = store.sql("select residual(case when role = 'eoi' then row_id end, 1) as x from rows")
    assert found["x"].null_count() == 18


def test_residual_at_several_layers_at_once(store):
    found = store.sql("select row_id, layer, residual(row_id, layer) as x from rows, (values (2), (0)) t(layer)")
    for layer in (0, 2):
        of_layer = found.filter(pl.col("layer") == layer)
        assert_array_equal(of_layer["x"].to_numpy(), store.residual(of_layer, layer))


def test_similarity_in_sql(store):
    found = store.sql(
        "select a.row_id as a, b.row_id as b, "
        "array_cosine_similarity(residual(a.row_id, 2), residual(b.row_id, 2)) as c "
        "from rows a, rows b where a.role = 'eoi' and b.role = 'image'"
    )
    x, y = store.residual(found["a"].to_numpy(), 2), store.residual(found["b"].to_numpy(), 2)
    expected = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert_allclose(found["c"].to_numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "query", ["describe rows", "summarize rows", "show tables", "with x as (from rows) from x", "values (1)"]
)
def test_questions_that_are_no_select_in_name(store, query):
    assert store.sql(query).height


def test_sums_of_integers_are_integers(store):
    found = store.sql("select sum(k) as k, sum(10::hugeint ** 30) as large, sum(0.5::decimal(3, 1)) as exact from rows")
    assert found.schema["k"] == pl.Int64
    assert found["k"].item() == 9
    assert found["large"].item() == pytest.approx(27e30)


@pytest.mark.parametrize(
    "query",
    [
        ";;",
        "select 1; select 2",
        "create table t as select 1",
        "insert into plan values (1)",
        "drop view rows",
        "update plan set batch = 1",
        "copy rows to '{secret}'",
        "attach '{secret}' as other",
        "install httpfs",
        "load httpfs",
        "set threads = 1",
        "reset allowed_paths",
        "pragma database_list",
        "call enable_logging()",
        "export database '{secret}'",
        "checkpoint",
        "begin",
        "explain from rows",
        "prepare x as select 1",
        "use memory",
    ],
)
def test_only_one_select(store, tmp_path, query):
    with pytest.raises(QueryError, match=r"one SELECT \(or FROM \.\.\.\) is run at a time, and nothing that writes"):
        store.sql(query.format(secret=tmp_path / "secret.csv"))
    assert not (tmp_path / "secret.csv").exists()


@pytest.mark.parametrize(
    "query",
    [
        "from '{secret}'",
        "from read_csv('{secret}')",
        "from read_text('{secret}')",
        "from read_blob('{secret}')",
        "from read_json('{secret}')",
        "from read_parquet('{secret}')",
        "from parquet_metadata('{secret}')",
        "from sniff_csv('{secret}')",
        "from glob('{folder}/*')",
        "from read_text('{store}/../{name}')",
        "from read_text('{store}/actstore.json')",
        "from read_text('{store}/parts/../../{name}')",
        "from 'https://example.org/x.parquet'",
        "from 's3://bucket/x.parquet'",
        "from enable_logging(storage = 'file', storage_path = '{folder}')",
        "from query('from read_text(''{secret}'')')",
        "from json_execute_serialized_sql(json_serialize_sql('from read_text(''{secret}'')'))",
        "select getenv('HOME')",
    ],
)
def test_no_files_no_network_no_settings(store, query):
    secret = store.path.parent / "secret.csv"
    secret.write_text(SECRET)
    link = store.path / "results" / "link.parquet"
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    with pytest.raises(QueryError, match="it has no files, network, extensions|getenv does not exist") as raised:
        store.sql(
            query.format(secret=secret, folder=secret.parent, store=store.path, name=secret.name).replace(
                "'s a", "''s a"
            )
        )
    assert SECRET not in str(raised.value)
    link.unlink()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("enable_external_access", False),
        ("lock_configuration", True),
        ("python_enable_replacements", False),
        ("autoinstall_known_extensions", False),
        ("autoload_known_extensions", False),
        ("allow_community_extensions", False),
    ],
)
def test_settings_of_the_connection(store, setting, value):
    assert store.sql(f"select current_setting('{setting}')").item() is value


def test_forbidden_things_are_explained(store):
    with pytest.raises(
        QueryError, match="SQL on a store reads its views; it has no files, network, extensions or settings"
    ):
        store.sql("from read_text('/etc/passwd')")


def test_no_variables_of_the_caller(store):
    mine = pl.DataFrame({"x": [SECRET]})
    with pytest.raises(
        QueryError, match="no view 'mine'; there are answers, parts, plan, results, rows, run, samples, vocab"
    ):
        store.sql("from mine")
    assert mine.height


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select lable from rows", r"no column 'lable'; did you mean 'label'\?"),
        ("select r.lable from rows r", r"no column 'lable'; did you mean 'label'\?"),
        ("select role from rows where sampleid = 'a'", r"no column 'sampleid'; did you mean 'sample_id'\?"),
        ("select row_idd from samples", r"^no column 'row_idd'\n"),  # samples have no row_id
        ("select row_idd from rows", r"no column 'row_idd'; did you mean 'row_id'\?"),
        ("from row", r"no view 'row'; did you mean 'rows'\? There are"),
        (
            "from stored_row",
            "no view 'stored_row'.*; there are answers, parts, plan, results, rows, run, samples, vocab; a table of",
        ),
        ("select lenght(role) from rows", 'Did you mean "length"'),
        ("selct role from rows", 'syntax error at or near "selct"'),
        ("select residual(row_id, 3) from rows", r"^layer 3 is not in this store; it has 0\.\.2$"),
        ("select residual(5::bigint << 32, 0)", "^row_id 21474836480 is not in this store"),
        ("select residual(role, 0) from rows", "No function matches .*residual"),
        ("select interval 1 day as x", "no table here holds the INTERVAL of column 'x'; cast it: x::varchar"),
    ],
)
def test_mistakes_are_named(store, query, message):
    with pytest.raises(QueryError, match=message):
        store.sql(query)


def _columns():
    return [*schema.ROWS, *schema.SAMPLES, *schema.PLAN, *schema.VOCABULARY, *overview.PARTS, *overview.RESULTS]


@pytest.mark.parametrize(
    "name",
    sorted(
        {*_columns(), "run", "answers", "answer", "probability", "rows", "samples", "plan", "parts", "vocab", "results"}
    ),
)
def test_names_need_no_quotes(name):
    reserved = duckdb.sql("select keyword_name from duckdb_keywords() where keyword_category = 'reserved'").fetchall()
    assert (name,) not in reserved
    assert duckdb.sql(f"with t({name}) as (values (1)) select {name}, t.{name} as {name} from t").fetchall() == [(1, 1)]


def test_a_changed_table_is_not_read(tmp_path):
    store = making.store(tmp_path / "s", 1)
    path = store.parts[0].folder / "rows.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(actstore.CorruptError, match=r"rows\.parquet: its bytes differ from the committed ones"):
        actstore.open(store.path).sql("from rows")


# The index file


def test_any_duckdb_reads_the_index(store):
    path = store.write_index()
    query = "select row_id, role, sample_id, label from rows order by row_id"
    with duckdb.connect(path, read_only=True) as other:
        assert other.sql(query).pl().equals(store.sql(query))
        assert other.sql("select count(*) from vocab").fetchall() == [(2,)]
    path.unlink()


@pytest.fixture(params=[("PARTS", 2), ("ROWS", 26)], ids=["parts", "rows"])
def many(store, tmp_path, monkeypatch, request):
    """The store as it is read when it has very many parts, or very many rows."""
    what, number = request.param
    monkeypatch.setattr(f"actstore.sql.connection.{what}_READ_DIRECTLY", number)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return actstore.open(store.path)


def test_many_parts_are_read_from_a_cache(many, store, tmp_path):
    for query in ("from rows order by row_id", "from samples order by sample_id", "from plan order by sample_id"):
        assert many.sql(query).equals(store.sql(query))
    rows = many.sql("select row_id, residual(row_id, 1) as x from rows")
    assert_array_equal(rows["x"].to_numpy(), store.residual(rows, 1))
    assert [path.suffix for path in (tmp_path / "cache" / "actstore").iterdir()] == [".duckdb"]
    with pytest.raises(QueryError, match="has no files"):
        many.sql("from read_text('/etc/passwd')")


def test_the_cache_of_an_older_state_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("actstore.sql.connection.PARTS_READ_DIRECTLY", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = making.create(tmp_path / "s")
    for batch in (0, 1):
        store.write(batch, **making.content(batch))
        assert actstore.open(store.path).sql("from rows").height == 9 * (batch + 1)
        assert len(list((tmp_path / "cache" / "actstore").iterdir())) == 1


def flip(file):
    content = bytearray(file.read_bytes())
    for where in range(0, len(content), 997):
        content[where] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"not a database"),
        lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
        lambda file: file.write_bytes(file.read_bytes()[:12288] + bytes(file.stat().st_size - 12288)),
    ],
    ids=["flipped", "emptied", "another file", "truncated", "zeros"],
)
def test_a_damaged_cache_is_made_anew(many, store, tmp_path, damage):
    query = "from rows order by row_id"
    many.sql("select 1")
    (file,) = (tmp_path / "cache" / "actstore").iterdir()
    damage(file)
    again = actstore.open(store.path)
    for _ in range(2):
        assert again.sql(query).equals(store.sql(query))
    assert actstore.open(store.path).sql(query).equals(store.sql(query))


def test_without_a_cache_folder_the_parts_are_read(many, store, tmp_path):
    (tmp_path / "cache").write_text("a file, where a folder is needed")
    assert many.sql("from rows order by row_id").equals(store.sql("from rows order by row_id"))


def test_an_index_that_came_with_a_store_is_never_opened(many, store):
    path = store.path / "index.duckdb"
    with duckdb.connect(path) as hostile:
        hostile.execute("create view rows as select 'evil' as role")
    assert set(many.sql("select distinct role from rows")["role"]) == {"eoi", "image"}
    assert set(actstore.open(store.path).sql("select distinct role from rows")["role"]) == {"eoi", "image"}
    path.unlink()


def test_every_module_can_be_imported():
    for module in pkgutil.iter_modules(actstore.__path__):
        importlib.import_module(f"actstore.{module.name}")


@pytest.mark.parametrize(
    "value", ["{0}", "[{0}]", "{{'a': {0}}}", "map {{{0}: 1}}"], ids=["plain", "list", "struct", "map"]
)
def test_integers_are_exact_or_refused(store, value):
    most = 10**38 - 1
    assert str(most) in str(store.sql(f"select {value.format(f'{most}::hugeint')} as x").rows())
    for number, said in (
        (f"{most + 1}::hugeint", "column 'x' has integers of more than 38 digits"),
        (f"'{-(2**127)}'::hugeint", "column 'x' has integers of more than 38 digits"),
        (f"{2**128 - 1}::uhugeint", "no table here holds the UHUGEINT of column 'x'"),
        (f"{10**50}::bignum", "the BIGNUM of column 'x'; cast it"),
        ("'101'::bit", "the BIT of column 'x'; cast it"),
    ):
        with pytest.raises(QueryError, match=said):
            store.sql(f"select {value.format(number)} as x")
    assert store.sql(f"select {2**128 - 1}::uhugeint::varchar as x").item() == str(2**128 - 1)
