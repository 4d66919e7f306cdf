"""Key-value memory: whatever sessions do with it, logits equal those of a cold forward."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import tiny_loaded, tiny_shape
from torch import Tensor
from transformers import GPT2Config, LlamaConfig, MistralConfig

from autogpt.llm.engine.engine import Engine, Request
from autogpt.llm.kv import cache, prompt_cache
from autogpt.llm.kv.cache import Sessions
from autogpt.llm.kv.prefix_tree import PrefixTree, addresses, common_prefix
from autogpt.llm.kv.prompt_cache import PromptCache
from autogpt.llm.message import Sampling
from autogpt.llm.nn import attention
from autogpt.llm.nn.build import make_forward
from autogpt.llm.nn.forward import Forward
from autogpt.llm.nn.load import LoadedModel

V = 61
SHAPE = tiny_shape(V)
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SHAPE),
    "window": MistralConfig(**SHAPE, sliding_window=12),
    "module": GPT2Config(vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=512),
}


def build(name: str) -> LoadedModel:
    return tiny_loaded(CONFIGS[name], 5, name)


@pytest.fixture(scope="module")
def models() -> dict[str, LoadedModel]:
    return {name: build(name) for name in CONFIGS}


@contextmanager
def thrifty() -> Iterator[None]:
    """Share from the first position on, so that short sequences go every way that long ones go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "WORTH_COPYING", 1)
        patch.setattr(cache, "WORTH_A_PASS", 2)
        patch.setattr(attention, "WORTH_SHARING", 1)
        patch.setattr(prompt_cache, "WORTH_LOADING", 2)
        yield


class House:
    """Sessions over one model, checked against cold forwards."""

    def __init__(self, forward: Forward, folder: Path) -> None:
        self.forward = forward
        self.folder = folder
        self.restart()

    def restart(self) -> None:
        """Begin as a new process would: with nothing but what is on the disk."""
        saved = PromptCache(self.folder, "key", "cpu")
        saved.computed(1, 1000.0)  # nothing is slower to load than to compute
        self.sessions = Sessions(self.forward.new_cache, 1 << 30, saved)
        self.held: dict[str, list[int]] = {}
        self.seen: list[list[int]] = []

    def cold(self, ids: Sequence[int]) -> Tensor:
        found: Tensor = self.forward.head(self.forward.hidden([(self.forward.new_cache(), ids)]))[0]
        return found

    def run(self, wanted: dict[str, list[int]]) -> None:
        """Bring each named session to its ids, all in one forward, and compare the last logits."""
        batch = []
        for name, ids in wanted.items():
            session = self.sessions.open(name)
            session.crop(min(common_prefix(session.ids, ids), len(ids) - 1))
            session.core = len(ids) // 2
            self.sessions.adopt(session, ids[:-1])
            assert session.ids == ids[: len(session.ids)]
            batch.append((session, ids[len(session.ids) :]))
        hidden = self.forward.hidden([(session.cache, rows) for session, rows in batch])
        for session, rows in batch:
            session.ids.extend(rows)
        for row, ids in zip(self.forward.head(hidden), wanted.values(), strict=True):
            assert (row - self.cold(ids)).abs().max() < 1e-4
        self.held |= wanted
        self.seen += wanted.values()

    def check(self) -> None:
        """The tree counts right, and finds as much as comparing with everything would."""
        tree, live = self.sessions._tree, self.sessions._live.values()
        for node in [tree.root, *tree.nodes()]:
            assert node.users == sum(session.node is node for session in live)
            assert all(child.parent is node and child.start == node.end for child in node.children.values())
        paths = [[token for n in node.path() for token in n.ids] for node in tree.nodes()]
        for ids in self.seen[-3:]:
            assert tree.match(ids)[1] == max((common_prefix(path, ids) for path in paths), default=0)
        spans = [*(node.span for node in tree.nodes()), *(session.cache.memory for session in live)]
        assert self.sessions.nbytes == sum({k: v for s in spans for k, v in addresses(s).items()}.values())


NAMES = ("a", "b", "c", "d")
name_of = st.sampled_from(NAMES)
piece = st.tuples(st.integers(0, 3), st.integers(1, 20))  # which text, how much of it
step = st.one_of(
    st.tuples(st.just("run"), st.dictionaries(name_of, st.lists(piece, max_size=3), min_size=1)),
    st.tuples(st.just("run"), st.dictionaries(name_of, st.lists(piece, max_size=3), min_size=3)),
    st.tuples(st.just("crop"), name_of, st.floats(0, 1)),
    st.tuples(st.just("fork"), name_of, name_of),
    st.tuples(st.just("close"), name_of),
    st.tuples(st.just("drop"), name_of),
    st.tuples(st.just("restart")),
    st.tuples(st.just("shrink"), st.integers(0, 400_000)),
)
TEXTS = [[random.Random(i).randrange(V) for _ in range(20)] for i in range(4)]


def carry_out(house: House, op: tuple[Any, ...]) -> None:
    """One step of a random history; sessions that do not exist are made or left out."""
    kind, sessions = op[0], house.sessions
    if kind == "run":
        wanted = {}
        for name, pieces in op[1].items():
            text = [token for which, count in pieces for token in TEXTS[which][:count]]
            go_on = len(pieces) < 3  # a short answer continues the session, a long one is a new prompt
            wanted[name] = [*(house.held.get(name, []) if go_on else []), *text] or [1, 2]
        house.run({name: ids[:300] for name, ids in wanted.items()})
    elif kind == "crop":
        keep = int(op[2] * len(house.held.get(op[1], [])))
        sessions.open(op[1]).crop(keep)
        house.held[op[1]] = house.held.get(op[1], [])[:keep]
    elif kind == "fork" and op[1] != op[2]:
        sessions.fork(op[1], op[2])
        house.held[op[2]] = list(sessions.open(op[2]).ids)
    elif kind in ("close", "drop"):
        sessions.close(op[1]) if kind == "close" else sessions.drop(op[1])
        house.held.pop(op[1], None)
    elif kind == "restart":
        house.restart()
    elif kind == "shrink":
        sessions.shrink({"a"}, op[1])
        a = sessions._live.get("a")
        spans = [a.cache.memory, *(node.span for node in a.node.path())] if a else []
        needed = {address: size for span in spans for address, size in addresses(span).items()}
        assert sessions.nbytes <= op[1] + sum(needed.values())


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(history=st.lists(step, min_size=3, max_size=14))
def test_no_history_changes_logits(
    models: dict[str, LoadedModel], name: str, history: list[tuple[Any, ...]]
) -> None:
    with thrifty(), torch.inference_mode(), TemporaryDirectory() as folder:
        loaded = models[name]
        forward = make_forward(loaded.model, loaded.config)
        house = House(forward, Path(folder))
        for op in history:
            carry_out(house, op)
            house.check()
        for session in NAMES:
            house.sessions.close(session)
        house.check()
        assert not any(node.users for node in [house.sessions._tree.root, *house.sessions._tree.nodes()])
        house.sessions.shrink(set(), 0)
        assert house.sessions.nbytes == 0 and not house.sessions._tree.root.children


def test_spans_shared_at_two_levels_are_merged(models: dict[str, LoadedModel], tmp_path: Path) -> None:
    """Four sequences share 300 positions, three of them 300 more; each goes on by itself."""
    draw = random.Random(1)
    first, second = draw.choices(range(V), k=300), draw.choices(range(V), k=300)
    with torch.inference_mode():
        house = House(make_forward(models["llama"].model, models["llama"].config), tmp_path)
        house.run({"a": [*first, 1]})
        for name in "bcd":
            house.run({name: [*first, *second, ord(name) % V, *draw.choices(range(V), k=ord(name) - 90)]})
        slots: Any = [house.sessions.open(name).cache for name in "abcd"]
        like = torch.empty(0)
        plan = attention.layout(slots, [1, 2, 1, 1], {0}, like)
        assert [p.span.shape[-2] for p in plan.passes] == [300, 300]
        assert [p.rows for p in plan.passes] == [slice(0, 5), slice(1, 5)]
        house.run({name: [*house.held[name], 3, 4, 5][: None if name == "c" else -2] for name in "abcd"})
        alone = attention.layout(slots[:1], [1], {0}, like)
        assert not alone.passes and alone.spans[0].first == 0  # it computed all of it itself


def test_sharing_and_forking_copy_nothing(models: dict[str, LoadedModel], tmp_path: Path) -> None:
    text = random.Random(2).choices(range(V), k=200)
    with torch.inference_mode():
        house = House(make_forward(models["llama"].model, models["llama"].config), tmp_path)
        house.run({"a": [*text, 1]})
        before = house.sessions.nbytes
        for i in range(8):
            house.sessions.fork("a", f"f{i}")
        assert house.sessions.nbytes == before
        house.run({f"f{i}": [*text, 1, i, i + 1] for i in range(8)})
        small = cache.BUCKET * before // house.sessions.open("a").cache.memory[0].shape[3]
        assert house.sessions.nbytes == before + 8 * small
        house.check()


def test_attention_by_hand_gives_the_same_sums() -> None:
    torch.manual_seed(0)
    q, keys, values = torch.randn(1, 6, 5, 16), torch.randn(1, 3, 20, 16), torch.randn(1, 3, 20, 16)
    mask = attention._mask(15, 20, 0, q)
    cases = [(q, keys, values, mask, False), (q, keys, values, None, False)]
    cases.append((q, keys[:, :, :5], values[:, :, :5], None, True))
    for case in cases:
        for ours, theirs in zip(attention._sums_by_hand(*case), attention.attend_sums(*case), strict=True):
            assert (ours - theirs).abs().max() < 1e-5


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12), st.data())
@settings(max_examples=100, deadline=None, database=None, derandomize=True)
def test_the_tree_equals_comparing_with_everything(texts: list[list[int]], data: st.DataObject) -> None:
    tree = PrefixTree()
    kept: list[list[int]] = []
    for ids in texts:
        node, length = tree.match(ids)
        assert length == max((common_prefix(ids, other) for other in kept), default=0)
        node = tree.cut(node, length)
        if length < len(ids):
            span = (torch.tensor(ids[length:])[:, None],)
            node = tree.add(node, ids[length:], span)
        kept.append(ids)
        assert torch.cat([part for (part,) in node.spans(0, len(ids))]).flatten().tolist() == ids
        if data.draw(st.booleans()) and (leaf := tree.oldest()):
            gone = [token for n in leaf.path() for token in n.ids]
            tree.remove(leaf)
            # what went with it is forgotten: every text that had it ends where the leaf began
            kept = [o[: leaf.start] if common_prefix(o, gone) > leaf.start else o for o in kept]
            for address in addresses(leaf.span):
                tree.separate(address)
        assert tree.nbytes == sum({k: v for n in tree.nodes() for k, v in addresses(n.span).items()}.values())
    while (leaf := tree.oldest()) is not None:
        tree.remove(leaf)
    assert tree.nbytes == 0 and not tree.root.children


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut off":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = bytearray()
    elif how == "no header":
        data[8:40] = bytes(32)
    else:
        data[-7 if how == "a flipped bit at the end" else len(data) // 2] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize(
    "how", ["cut off", "empty", "no header", "a flipped bit", "a flipped bit at the end", "another model"]
)
def test_a_damaged_or_foreign_prompt_cache_is_ignored(how: str, tmp_path: Path) -> None:
    ids, span = list(range(100)), (torch.randn(2, 2, 1, 100, 4),)
    ours = PromptCache(tmp_path, "us", "cpu")
    ours.save(ids, [span])
    assert not list(tmp_path.iterdir())  # nothing was computed, so nothing is known to be slower
    ours.computed(1, 1000.0)
    ours.save(ids, [span])
    (path,) = tmp_path.iterdir()
    later = PromptCache(tmp_path, "us", "cpu")
    stored = later.find([*ids, 7], 10)
    assert stored is not None
    loaded = later.load(stored)
    assert loaded is not None and torch.equal(loaded[0], span[0])
    assert later.find([*ids, 7], 40) is None  # 60 positions more are not worth a file
    if how == "another model":
        assert PromptCache(tmp_path, "them", "cpu").find(ids, 0) is None
        them = PromptCache(tmp_path, "them", "cpu")
        them.computed(1, 1000.0)
        them.save(ids, [span])
        (other,) = set(tmp_path.iterdir()) - {path}
        path.replace(other)
        assert PromptCache(tmp_path, "them", "cpu").find(ids, 0) is None
        return
    damage(path, how)
    assert later.load(stored) is None and later.find(ids, 0) is None
    again = PromptCache(tmp_path, "us", "cpu")
    found = again.find(ids, 0)
    assert found is None or again.load(found) is None
    again.computed(1, 1000.0)
    again.save(ids, [span])  # takes the damaged one's place
    found = PromptCache(tmp_path, "us", "cpu").find(ids, 0)
    assert found is not None and again.load(found) is not None


def test_the_prompt_cache_is_written_only_where_loading_wins_and_space_allows(tmp_path: Path) -> None:
    span, limit = (torch.randn(2, 2, 1, 100, 4),), 3 * 8_000
    quick = PromptCache(tmp_path, "k", "cpu", limit)
    quick.computed(1_000_000, 1e-3)
    quick.save(range(100), [span])
    assert not list(tmp_path.iterdir())  # computing 100 positions took a tenth of a microsecond
    slow = PromptCache(tmp_path, "k", "cpu", limit)
    slow.computed(1, 1000.0)
    for i in range(5):
        slow.save([i] * 100, [span])
        for age, path in enumerate(sorted(tmp_path.iterdir(), key=lambda p: -p.stat().st_mtime)):
            os.utime(path, (1000 - age, 1000 - age))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit
    kept = PromptCache(tmp_path, "k", "cpu")
    assert kept.find([4] * 100, 0) and not kept.find([0] * 100, 0)
    bad = PromptCache(tmp_path, "k", "cpu")
    bad.computed(1, 1000.0)
    bad.save([9] * 100, [(torch.full((2, 2, 1, 100, 4), float("nan")),)])
    assert bad.find([9] * 100, 0) is None
    blocked = PromptCache(tmp_path / "file", "k", "cpu")
    (tmp_path / "file").write_text("not a folder")
    blocked.computed(1, 1000.0)
    blocked.save(range(100), [span])


def test_each_prompt_token_of_a_long_run_is_computed_once(models: dict[str, LoadedModel]) -> None:
    engine, ids, draw = Engine(models["llama"]), [*range(50)], random.Random(3)
    for turn in range(12):
        (turn_result,) = engine.generate([Request("run", ids, sampling=Sampling(max_tokens=15))])
        ids = [*ids, *turn_result.ids, *draw.choices(range(V), k=40)]
        if turn == 6:
            engine.fork("run", "side")
            engine.close("side")
    stats = engine.stats
    assert stats.rows - stats.drafted <= 1.02 * len(turn_result.log.ids)
    assert stats.prompt_tokens > 5 * len(ids)
