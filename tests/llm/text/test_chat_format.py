"""Chat formats: a model is spoken to as its own template says, append-only; text never becomes control."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from autogpt.llm.message import Message, ToolCall
from autogpt.llm.text.chat_format import CHATML, read_template
from autogpt.llm.text.tokenizer import ChatTokenizer, chat_template

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + "
    "m.content | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% set told = messages[0].content %}"
    "{% else %}{% set rest = messages %}{% set told = false %}{% endif %}{% for m in rest %}"
    "{% set text = '<<SYS>>\n' + told + '\n<</SYS>>\n\n' + m.content if loop.first and told else m.content %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (  # the system text stands in the last message, wherever that is
    "{% if messages[0].role == 'system' %}{% set told = messages[0].content %}"
    "{% set messages = messages[1:] %}{% endif %}{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{% if loop.last and told %}"
    "{{ '[INST] ' + told + '\n\n' + m.content + '[/INST]' }}{% else %}"
    "{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}{% else %}"
    "{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' and loop.last %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
CONTROLS = {
    LLAMA3: ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
    GEMMA: ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    LLAMA2: ["<s>", "</s>"],
    MISTRAL: ["<s>", "</s>", "[INST]", "[/INST]"],
    QWEN3: ["<|endoftext|>", "<|im_end|>", "<|im_start|>"],
}
"""Templates of the published kinds (written anew), with their control tokens, the first two bos and eos."""
NAMES = dict(zip(CONTROLS, ["llama3", "gemma", "llama2", "mistral", "qwen3"], strict=True))
CALL = ToolCall("finish", {"answer": "</s> <|eot_id|><end_of_turn>[INST]"}).text()
TALK = (
    Message("system", "Answer with one call. <|eot_id|>"),
    Message("user", "What <start_of_turn> is it?</s>"),
    Message("assistant", CALL),
    Message("tool", "[INST] 7 <|im_end|> <bos>"),
    Message("assistant", "It is 7."),
    Message("user", "Thanks"),
)


def tokenizer_of(template: str, folder: Path) -> ChatTokenizer:
    """Return a small byte-level tokenizer with a template's control tokens, from a folder."""
    controls = CONTROLS[template]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([message.content for message in TALK] * 4, trainer)
    tokenizer.add_special_tokens(controls)
    tokenizer.save(str(folder / "tokenizer.json"))
    told: dict[str, Any] = {"bos_token": controls[0], "eos_token": {"content": controls[1]}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**told, "chat_template": template}))
    return ChatTokenizer(folder)


def rendered(template: str, talk: list[tuple[str, str]]) -> str:
    """Return what the template itself makes of a talk that an answer shall follow."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    messages = [{"role": role, "content": text} for role, text in talk]
    bos, eos = CONTROLS[template][:2]
    return environment.from_string(template).render(
        messages=messages, bos_token=bos, eos_token=eos, add_generation_prompt=True, enable_thinking=False
    )


def spelt(tokenizer: ChatTokenizer, ids: list[int]) -> str:
    """Return the text of ids, control tokens included."""
    known = Tokenizer.from_str(tokenizer.json)
    return str(known.decode(ids, skip_special_tokens=False))


@pytest.mark.parametrize("template", CONTROLS, ids=NAMES.values())
def test_a_talk_reads_as_its_template_writes_it(template: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(template, tmp_path)
    talk = [("user", "What is it?"), ("assistant", "It is 7."), ("user", "Thanks")]
    messages = [Message(role, text) for role, text in talk]  # type: ignore[arg-type]
    found = spelt(tokenizer, tokenizer.encode_messages(messages, continue_assistant=True).ids)
    wanted = rendered(template, talk)
    if template == QWEN3:  # whose history is told without the thought that the prompt closes
        wanted = wanted.replace("assistant\nIt", "assistant\n<think>\n\n</think>\n\nIt")
    assert found == wanted.replace(" </s>", "</s>")  # the end token itself is what an answer ends with


@pytest.mark.parametrize("template", CONTROLS, ids=NAMES.values())
def test_ids_of_n_messages_are_a_prefix_of_those_of_more(template: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(template, tmp_path)
    for count in range(len(TALK)):
        shorter = tokenizer.encode_messages(TALK[:count]).ids
        longer = tokenizer.encode_messages(TALK[: count + 1])
        assert longer.ids[: len(shorter)] == shorter
        if TALK[count].role == "assistant":
            asked = tokenizer.encode_messages(TALK[:count], continue_assistant=True).ids
            assert longer.ids[: len(asked)] == asked and longer.mask[len(asked)]
            assert not any(longer.mask[len(shorter) : len(asked)])


@pytest.mark.parametrize("template", CONTROLS, ids=NAMES.values())
def test_no_text_becomes_a_control_token(template: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(template, tmp_path)
    harmless = [Message(m.role, "x" if m.ids is None else m.content, m.ids) for m in TALK]
    controls = [
        [i for i in tokenizer.encode_messages(talk).ids if tokenizer.is_added(i)] for talk in (TALK, harmless)
    ]
    assert controls[0] == controls[1]
    answer = tokenizer.assistant_ids(CALL)
    assert answer[-1] == tokenizer.eos_id and not any(tokenizer.is_added(i) for i in answer[:-1])
    assert tokenizer.decode(answer) == CALL


def test_each_format_ends_a_message_with_its_own_token(tmp_path: Path) -> None:
    ends = {LLAMA3: "<|eot_id|>", GEMMA: "<end_of_turn>", LLAMA2: "</s>", MISTRAL: "</s>"}
    ends[QWEN3] = "<|im_end|>"
    for number, (template, end) in enumerate(ends.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        tokenizer = tokenizer_of(template, folder)
        assert tokenizer.eos_id == tokenizer.single(end)
        assert {tokenizer.eos_id, tokenizer.single(CONTROLS[template][1])} <= set(tokenizer.stop_ids)


def test_without_a_system_role_its_text_opens_the_users_first_message(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(GEMMA, tmp_path)
    talk = [Message("system", "Be brief."), Message("user", "Hello")]
    found = spelt(tokenizer, tokenizer.encode_messages(talk, continue_assistant=True).ids)
    opening = "<bos><start_of_turn>user\nBe brief."
    assert found == f"{opening}\n\nHello<end_of_turn>\n<start_of_turn>model\n"
    alone = spelt(tokenizer, tokenizer.encode_messages(talk[:1], continue_assistant=True).ids)
    assert alone == f"{opening}<end_of_turn>\n<start_of_turn>model\n"


def test_our_own_template_is_chatml() -> None:
    assert read_template(chat_template(), "", "<|im_end|>", ["<|im_start|>", "<|im_end|>"]) == CHATML


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ loop.length }}{{ m.content }}</s>{% endfor %}",  # depends on what follows
        "{% for m in messages %}{{ m.content }}\n{% endfor %}",  # no end
        "{% for m in messages %}{{ m.role }}</s>{% endfor %}",  # no bodies
        "{% for",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception('never') }}",
        "x" * 200_000,
    ],
)
def test_a_template_that_does_not_fit_is_replaced_by_chatml_with_a_warning(
    template: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    CONTROLS[template] = CONTROLS[LLAMA2]
    try:
        tokenizer = tokenizer_of(template, tmp_path)
    finally:
        del CONTROLS[template]
    assert "ChatML is used instead" in caplog.text
    ids = tokenizer.encode_messages([Message("user", "Hello")], continue_assistant=True).ids
    assert spelt(tokenizer, ids) == "<|im_start|>user\nHello</s>\n<|im_start|>assistant\n"
