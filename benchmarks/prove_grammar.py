"""The full grammar campaign: calls drawn at random from grammars of random schemas, all of them checked.

``tests/llm/text/test_grammar.py`` runs a sample of this with a small tokenizer. Here every drawn call must
parse, fit its schema (by jsonschema, which knows nothing of grammars) and carry the same forced
marks as a second walk; and every known call, written by teacher forcing, must give its text back.

    python benchmarks/prove_grammar.py [--calls 10000] [--tokenizer MODEL_FOLDER]
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

from autogpt import settings
from autogpt.llm.fetch import base_folder
from autogpt.llm.message import why_invalid
from autogpt.llm.text.grammar import GrammarCompiler, mark_forced, parse_call, teacher_ids
from autogpt.llm.text.tokenizer import ChatTokenizer

PER_SCHEMA = 50


def generators() -> ModuleType:
    """Return the suite's module that makes random schemas and calls."""
    path = Path(__file__).resolve().parent.parent / "tests" / "llm" / "text" / "test_grammar.py"
    spec = importlib.util.spec_from_file_location("grammar_generators", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """Run the campaign; the exit code is 1 when anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, help="a model folder (default: the fetched base)")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    made = generators()
    compiler = GrammarCompiler(ChatTokenizer(chosen.tokenizer or base_folder(settings.load().home)))
    rng = random.Random(chosen.seed)
    drawn = taught = failed = canonical = sampled = forced_count = 0
    while drawn < chosen.calls:
        specs, known = made.random_calls(rng)
        grammar = compiler.compile(specs)
        ids, forced = teacher_ids(grammar, known.text())
        taught += 1
        canonical += ids == list(compiler.tokenizer.assistant_ids(known.text()))
        failed += compiler.tokenizer.decode(ids) != known.text() or mark_forced(grammar, ids) != forced
        forced_count += sum(forced)
        sampled += len(forced) - sum(forced)
        for _ in range(min(PER_SCHEMA, chosen.calls - drawn)):
            ids, forced = made.sample(grammar, rng)
            call, _ = parse_call(compiler.tokenizer.decode(ids))
            wrong = call is None or why_invalid(call, specs) or mark_forced(grammar, ids) != forced
            failed += bool(wrong)
            drawn += 1
    print(f"{drawn} drawn and {taught} taught calls, {failed} failed")
    print(
        f"taught: {canonical} of {taught} in canonical tokens; {forced_count} tokens forced, {sampled} free"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
