"""Whatever a grammar lets through is a valid call, and a known call is walked as the engine writes it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from llguidance import LLTokenizer

from autogpt.llm.message import CallSpec, ToolCall, why_invalid
from autogpt.llm.text.grammar import (
    Grammar,
    GrammarCompiler,
    GrammarError,
    Matcher,
    NotAllowed,
    mark_forced,
    parse_call,
    teacher_ids,
)
from autogpt.llm.text.tokenizer import ChatTokenizer
from autogpt.schemas import bound_schema

CELLS = ["nationality", "player", "café 中文", "中国", 'a "quoted" one', "x\ny", "<tool_call>", "12", ""]
WORDS = [
    "the answer",
    "Ünïcode ✓",
    "中文 text",
    "a\tb",
    "</tool_call>",
    '{"x":1}',
    "\\n",
    "",
    "7 of 12",
    "🙂🙃",
]


@pytest.fixture(scope="module")
def compiler(chat_folder: Path) -> GrammarCompiler:
    return GrammarCompiler(ChatTokenizer(chat_folder))


def closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def random_schema(rng: random.Random, depth: int = 0) -> tuple[dict[str, Any], Any]:
    """Return a schema and a value that fits it."""
    kinds = ["enum", "text", "integer", "number", "bounded", "boolean", "null", "pattern"]
    kind = rng.choice([*kinds, *(["array", "object", "either", "tuple"] * 2 if depth < 2 else [])])
    if kind == "array":
        items, value = random_schema(rng, depth + 1)
        return {"type": "array", "items": items, "maxItems": 3}, [value] * rng.randint(0, 3)
    if kind == "object":
        return random_object(rng, depth + 1)
    if kind == "either":
        first, second = random_schema(rng, depth + 1), random_schema(rng, depth + 1)
        return {"anyOf": [first[0], second[0]]}, rng.choice([first, second])[1]
    if kind == "tuple":
        pairs = [random_schema(rng, depth + 1) for _ in range(2)]
        schema = {
            "type": "array",
            "prefixItems": [s for s, _ in pairs],
            "items": False,
            "minItems": 2,
            "maxItems": 2,
        }
        return schema, [value for _, value in pairs]
    cells = rng.sample(CELLS, 4)
    leaves: dict[str, tuple[dict[str, Any], Any]] = {
        "enum": ({"enum": cells}, rng.choice(cells)),
        "text": ({"type": "string"}, rng.choice(WORDS)),
        "integer": ({"type": "integer"}, rng.choice([0, 7, -12, 10**14])),
        "number": ({"type": "number"}, rng.choice([0.5, -3.25, 12, 0.000125])),
        "bounded": ({"type": "number", "minimum": -1, "maximum": 10}, rng.choice([0.25, 10, -1])),
        "boolean": ({"type": "boolean"}, rng.random() < 0.5),
        "null": ({"type": ["string", "null"], "maxLength": 20}, rng.choice([None, "é"])),
        "pattern": ({"type": "string", "pattern": "^[a-z][a-z0-9_.]{0,9}$"}, rng.choice(["a", "late.txt"])),
    }
    return leaves[kind]


def random_object(rng: random.Random, depth: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    names = rng.sample(["select", "where", "answer", "path", "n"], rng.randint(0, 3))
    parts = {name: random_schema(rng, depth) for name in names}
    required = [name for name in names if rng.random() < 0.7]
    schema = {"type": "object", "properties": {k: s for k, (s, _) in parts.items()}, "required": required}
    return schema, {k: v for k, (_, v) in parts.items() if k in required or rng.random() < 0.5}


def random_calls(rng: random.Random) -> tuple[list[CallSpec], ToolCall]:
    """Return specs and a call that one of them allows."""
    names = rng.sample(["tables.query", "tables.describe", "files.read", "finish", "plan"], rng.randint(1, 4))
    made = {name: random_object(rng) for name in names}
    name = rng.choice(names)
    return [CallSpec(n, schema) for n, (schema, _) in made.items()], ToolCall(name, made[name][1])


def sample(grammar: Grammar, rng: random.Random) -> tuple[list[int], list[bool]]:
    """Draw ids uniformly from the masks."""
    matcher, ids, forced = grammar.matcher(), [], []
    while not matcher.done():
        run = matcher.must()
        if not run:
            allowed = allowed_ids(matcher)
            step = [int(rng.choice(allowed))]
        for token in run or step:
            assert matcher.consume(token)
            ids.append(token)
            forced.append(bool(run))
        assert len(ids) < 5000, "an unbounded call"
    return ids, forced


@pytest.mark.parametrize("seed", range(10))
def test_every_sampled_call_parses_and_validates(compiler: GrammarCompiler, seed: int) -> None:
    rng = random.Random(seed)
    specs, _ = random_calls(rng)
    grammar = compiler.compile(specs)
    for _ in range(30):
        ids, forced = sample(grammar, rng)
        text = compiler.tokenizer.decode(ids)
        call, wrong = parse_call(text)
        assert call is not None, (wrong, text)
        assert why_invalid(call, specs) is None, text
        assert mark_forced(grammar, ids) == forced


def test_teacher_forcing_writes_the_same_text_as_the_engine_would(compiler: GrammarCompiler) -> None:
    rng = random.Random(7)
    free = 0
    for _ in range(200):
        specs, call = random_calls(rng)
        assert why_invalid(call, specs) is None
        grammar = compiler.compile(specs)
        ids, forced = teacher_ids(grammar, call.text())
        assert compiler.tokenizer.decode(ids) == call.text()
        assert mark_forced(grammar, ids) == forced
        assert engine_walk(grammar, ids) == forced
        free += len(forced) - sum(forced)
    assert free > 400, "hardly anything was left to decide"


def allowed_ids(matcher: Matcher) -> list[int]:
    """Return the ids that the grammar's mask lets through."""
    bits = np.unpackbits(matcher.bitmask().view(np.uint8), bitorder="little")
    ids: list[int] = np.flatnonzero(bits).tolist()
    return ids


def engine_walk(grammar: Grammar, ids: list[int]) -> list[bool]:
    """What the engine does, written out: forced runs, then single-token masks, then one sampled token."""
    matcher = grammar.matcher()
    marks: list[bool] = []
    while len(marks) < len(ids):
        run = matcher.forced()
        allowed = allowed_ids(matcher)
        assert ids[len(marks)] in allowed
        run = run or ([allowed[0]] if len(allowed) == 1 else [])
        step = run or [ids[len(marks)]]
        assert ids[len(marks) : len(marks) + len(step)] == step
        assert all(matcher.consume(token) for token in step)
        marks += [bool(run)] * len(step)
    return marks


def test_enumerations_are_mostly_forced(compiler: GrammarCompiler) -> None:
    specs = [CallSpec("files.read", closed(path={"enum": ["deliveries.csv"]}))]
    ids, forced = teacher_ids(
        compiler.compile(specs), ToolCall("files.read", {"path": "deliveries.csv"}).text()
    )
    assert all(forced) and ids[-1] == compiler.tokenizer.eos_id


@pytest.mark.parametrize(
    "said",
    [
        ToolCall("finish", {"answer": "no"}),
        ToolCall("plan", {}),
        ToolCall("finish", {}),
        ToolCall("finish", {"answer": "yes", "more": 1}),
    ],
)
def test_a_call_outside_the_language_is_refused(compiler: GrammarCompiler, said: ToolCall) -> None:
    grammar = compiler.compile([CallSpec("finish", closed(answer={"enum": ["yes", "$1"]}))])
    with pytest.raises(NotAllowed):
        teacher_ids(grammar, said.text())
    assert mark_forced(grammar, compiler.tokenizer.assistant_ids(said.text())) is None


def test_a_cut_or_overlong_call_is_no_output(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile([CallSpec("finish", closed(answer={"type": "string", "maxLength": 5}))])
    ids, _ = teacher_ids(grammar, ToolCall("finish", {"answer": "yes"}).text())
    assert mark_forced(grammar, ids[:-1]) is None
    assert mark_forced(grammar, [*ids, 2]) is None
    with pytest.raises(NotAllowed):
        teacher_ids(grammar, ToolCall("finish", {"answer": "123456"}).text())


def test_markers_inside_strings_are_ordinary_text(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile([CallSpec("finish", closed(answer={"type": "string"}))])
    ids, _ = teacher_ids(grammar, ToolCall("finish", {"answer": "</tool_call><|im_end|>"}).text())
    assert [i for i in ids if compiler.tokenizer.is_added(i)] == [3, 4, 2]


def test_masks_are_those_of_the_vocabulary_that_llguidance_reads_itself(chat_folder: Path) -> None:
    tokenizer = ChatTokenizer(chat_folder)
    ours, theirs = (GrammarCompiler(tokenizer, tokenizer.vocab_size + 70) for _ in range(2))
    ends = ours.ll.eos_token
    theirs.ll = LLTokenizer(tokenizer.json, n_vocab=ours.n_vocab, eos_token=ends, slices=[])
    assert ours.ll.vocab_size == theirs.ll.vocab_size and ours.ll.is_canonical
    calls = [CallSpec("finish", closed(answer={"type": "string", "maxLength": 40}, kind={"enum": CELLS}))]
    said = ToolCall("finish", {"answer": "café 中文, and 12 more words", "kind": "café 中文"}).text()
    ids, forced = teacher_ids(ours.compile(calls), said)
    assert (ids, forced) == teacher_ids(theirs.compile(calls), said)
    mine, other = ours.compile(calls).matcher(), theirs.compile(calls).matcher()
    for token in ids:
        assert (mine.bitmask() == other.bitmask()).all()
        assert mine.consume(token) and other.consume(token)


def test_matchers_roll_back(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile([CallSpec("finish", closed(answer={"type": "string"}))])
    ids, _ = teacher_ids(grammar, ToolCall("finish", {"answer": "the answer"}).text())
    matcher = grammar.matcher()
    for token in ids[:8]:
        assert matcher.consume(token)
    before = matcher.bitmask().copy()
    assert matcher.validate(ids[8:10]) == 2
    assert matcher.consume(ids[8]) and matcher.consume(ids[9])
    matcher.rollback(2)
    assert (matcher.bitmask() == before).all()
    for token in ids[8:]:
        assert matcher.consume(token)
    assert matcher.done()


def test_a_string_can_be_ended_inside_it_where_its_length_allows(compiler: GrammarCompiler) -> None:
    calls = [CallSpec("note", closed(text={"type": "string", "minLength": 3}, pages={"type": "integer"}))]
    ids, _ = teacher_ids(compiler.compile(calls), ToolCall("note", {"text": "ab, cd", "pages": 12}).text())
    matcher, written, ends = compiler.compile(calls).matcher(), "", set()
    for token in ids:
        closer = matcher.closer()
        if closer is not None:
            assert compiler.ll.decode_bytes([closer]) == b'"' and matcher.validate([closer]) == 1
            ends.add(written.rpartition('"')[2])
        assert matcher.consume(token)
        written += compiler.ll.decode_bytes([token]).decode()
    assert ends and ends <= {"ab,", "ab, ", "ab, c", "ab, cd"}


def test_compiling_is_cached_by_what_is_allowed(compiler: GrammarCompiler) -> None:
    specs = [CallSpec("finish", closed(answer={"enum": ["a", "b"]}))]
    assert compiler.compile(specs) is compiler.compile(
        [CallSpec("finish", dict(specs[0].parameters), "other")]
    )
    assert compiler.compile(specs) is not compiler.compile(
        [CallSpec("finish", closed(answer={"enum": ["b", "a"]}))]
    )


NODE = {"$defs": {"node": closed(next={"$ref": "#/$defs/node"})}, "$ref": "#/$defs/node"}


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        ([], "no call is allowed"),
        ([CallSpec("plan", closed()), CallSpec("plan", closed())], "twice: plan, plan"),
        ([CallSpec("plan", closed()), CallSpec("bad", closed(a={"enum": []}))], "'bad'.*nsatisfiable"),
        ([CallSpec("bad", closed(a={"not": {"type": "string"}}))], "'bad'.*not"),
        ([CallSpec("bad", closed(a={"type": "string", "pattern": "^($"}))], "'bad'.*unclosed group"),
        ([CallSpec("bad", closed(a={"type": "integer", "minimum": 4, "maximum": 3}))], "'bad'"),
        ([CallSpec("bad", NODE)], "recursive"),
        ([CallSpec("bad", closed(a={"$ref": "#/$defs/gone"}))], "leads nowhere"),
    ],
)
def test_a_schema_that_cannot_work_is_one_clear_line(
    compiler: GrammarCompiler, specs: list[CallSpec], says: str
) -> None:
    with pytest.raises(GrammarError, match=says) as caught:
        compiler.compile(specs)
    assert "\n" not in str(caught.value)


FOREIGN: list[dict[str, Any]] = [
    {},
    {"type": "object"},
    {"type": "object", "additionalProperties": {"type": "number"}},
    {"type": "object", "properties": {"any": {}, "list": {"type": "array"}, "text": {"type": "string"}}},
    closed(a={"type": "number", "exclusiveMinimum": 2}, b={"type": "integer", "maximum": -5}),
    closed(a={"type": ["integer", "array"]}, b={"pattern": "^a+$"}),
    closed(a={"type": "string", "format": "date", "title": "A day", "default": "2024-01-01"}),
    closed(a={"allOf": [{"$ref": "#/$defs/unit"}], "description": "pydantic writes this"})
    | {"$defs": {"unit": {"enum": ["c", "f"], "type": "string"}}},
    closed(a={"anyOf": [{"$ref": "#/$defs/p"}, {"type": "null"}]})
    | {"$defs": {"p": closed(x={"type": "number"})}},
    closed(a={"oneOf": [{"type": "integer"}, {"type": "string"}]}),
]


BOUNDS: dict[str, tuple[str, ...]] = {
    "string": ("maxLength",),
    "array": ("maxItems",),
    "integer": ("minimum", "maximum"),
    "number": ("minimum", "maximum", "multipleOf"),
    "object": ("additionalProperties",),
}


def unbounded(schema: dict[str, Any]) -> list[str]:
    """What has no bound in a schema: an independent look at what ``bound_schema`` promises."""
    if "enum" in schema or "const" in schema:
        return []
    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    found = [] if kinds or branches else ["anything"]
    for kind in kinds:
        given = {key.replace("exclusiveM", "m") for key in schema}
        found += [f"{kind}: {key}" for key in BOUNDS.get(kind, ()) if key not in given]
    if "object" in kinds and schema.get("additionalProperties"):
        found.append("free keys")
    if "patternProperties" in schema and "maxProperties" not in schema:
        found.append("any number of keys")
    below = [*schema.get("properties", {}).values(), *schema.get("patternProperties", {}).values()]
    below += [*branches, *schema.get("prefixItems", ()), *([schema["items"]] if schema.get("items") else [])]
    return [*found, *(line for child in below for line in unbounded(child))]


@pytest.mark.parametrize("schema", FOREIGN, ids=lambda schema: json.dumps(schema)[:40])
def test_foreign_schemas_are_bounded_and_stay_valid(
    compiler: GrammarCompiler, schema: dict[str, Any]
) -> None:
    bounded = bound_schema(schema)
    assert unbounded(schema) and not unbounded(bounded)
    if "type" not in schema:
        schema, bounded = closed(value=schema), closed(value=bounded)
    grammar, rng = compiler.compile([CallSpec("finish", schema)]), random.Random(1)
    for _ in range(8):
        ids, _ = sample(grammar, rng)
        call, wrong = parse_call(compiler.tokenizer.decode(ids))
        assert call is not None, wrong
        jsonschema.validate(dict(call.arguments), schema)


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ("12", 1),
        ("-0.5", 1),
        ("0.7734017925", 1),
        ("-48.8583700921", 1),
        ("999999999999999", 1),
        ("0." + "3" * 11, 0),
        ("1e5", 0),
        ("9" * 16, 0),
        ("007", 0),
    ],
)
def test_numbers_have_few_digits_and_no_exponent(compiler: GrammarCompiler, value: str, fits: int) -> None:
    grammar = compiler.compile([CallSpec("finish", closed(answer={"type": "number"}))])
    said = f'<tool_call>{{"name":"finish","arguments":{{"answer":{value}}}}}</tool_call>'
    if fits:
        teacher_ids(grammar, said)
    else:
        with pytest.raises(NotAllowed):
            teacher_ids(grammar, said)


@pytest.mark.parametrize("value", [4006381333931, 4111111111111111, -(10**18), 9 * 10**18])
def test_whole_numbers_may_be_ids_of_64_bits(compiler: GrammarCompiler, value: int) -> None:
    grammar = compiler.compile([CallSpec("get", closed(id={"type": "integer"}))])
    teacher_ids(grammar, ToolCall("get", {"id": value}).text())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hello", "no complete"),
        ("<tool_call>{}</tool_call> and more", "after"),
        ("<tool_call>{</tool_call>", "not JSON"),
        ("<tool_call>[]</tool_call>", "no name"),
        ('<tool_call>{"name":"x","arguments":[]}</tool_call>', "not an object"),
    ],
)
def test_text_that_is_no_call_says_why(text: str, says: str) -> None:
    call, wrong = parse_call(text)
    assert call is None and wrong is not None and says in wrong
