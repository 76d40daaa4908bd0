"""Tokenizer files as others left them: every text comes back, or the file is refused with the reason."""

import json

import pytest

from unified_jax.modalities.bpe import PROBES, load_bpe
from unified_jax.modalities.text import learn_bpe

TEXTS = ["a red ring on a blue square", "two green spheres", "the small cube is red"] * 4


@pytest.fixture(scope="module")
def plain():
    return learn_bpe(TEXTS, 280)


def edited(plain, **fields):
    return json.dumps(json.loads(plain) | fields)


def token(content, number, **flags):
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content} | usual | flags


def test_settings_of_a_former_use_change_nothing(plain):
    """Truncation, padding, dropout and tokens around a text, all at once, behind a byte order mark."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    used = Tokenizer.from_str(plain)
    used.add_special_tokens(["<s>", "<pad>"])
    used.enable_truncation(4)
    used.enable_padding(length=12, pad_id=281, pad_token="<pad>")
    used.post_processor = TemplateProcessing(single="<s> $A <s>", special_tokens=[("<s>", 280)])
    assert len(used.encode(TEXTS[0]).ids) == 12
    content = json.loads(used.to_str())
    content["model"]["dropout"] = 0.5
    want = load_bpe(plain)
    found = load_bpe("\ufeff" + json.dumps(content))
    assert (want.size, found.size) == (280, 282)
    for text in (*TEXTS[:3], "", *PROBES):
        assert found.encode(text) == want.encode(text)
        assert found.decode(found.encode(text)) == text


def test_added_tokens_come_back_as_they_are_written(plain):
    tokens = [token("<s>", 280), token("<mask>", 281, lstrip=True, rstrip=True), token("[a b]", 282, special=False)]
    bpe = load_bpe(edited(plain, added_tokens=tokens))
    text = "<s> red  <mask> , [a b]<s>"
    assert bpe.decode(bpe.encode(text)) == text
    assert {280, 281, 282} <= set(bpe.encode(text))


def test_ids_with_gaps_have_rows_and_ids_without_end_are_refused(plain):
    content = json.loads(plain)
    content["model"]["vocab"]["!!"] = 400
    assert load_bpe(json.dumps(content)).size == 401
    content["model"]["vocab"]["!!"] = 1 << 30
    with pytest.raises(ValueError, match=r"ids up to 1073741824; number them without gaps"):
        load_bpe(json.dumps(content))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"normalizer": {"type": "Lowercase"}}, r"'UPPER lo' becomes 'upper lo'.*normalizer Lowercase"),
        ({"normalizer": {"type": "NFC"}}, "normalizer NFC changes texts"),
        ({"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}}, "normalizer Strip"),
        ({"decoder": None}, "it has no decoder"),
        (
            {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
            "add_prefix_space puts a blank before",
        ),
        ({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}, "vocabulary may lack bytes"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?"}}, "it is a WordLevel"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": []}}, "has no token in its vocabulary"),
        ({"model": {"type": "Other"}}, "is not the JSON of a tokenizer"),
        ({"model": None}, "is not the JSON of a tokenizer but an object"),
        ({"added_tokens": [3]}, "added_tokens that are not a list of tokens"),
    ],
)
def test_a_tokenizer_that_changes_texts_is_refused_with_the_reason(plain, fields, words):
    with pytest.raises(ValueError, match=words):
        load_bpe(edited(plain, **fields))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not the JSON of a tokenizer"),
        ("\ufeff", "is not the JSON of a tokenizer"),
        ("[" * 100_000, "is not the JSON of a tokenizer"),
        ("[]", "not the JSON of a tokenizer but list"),
        ('{"a": 1, "b": 2}', r"a tokenizer but an object of a, b; expected the content of tokenizer\.json"),
    ],
)
def test_what_is_no_tokenizer_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        load_bpe(text)


def test_a_file_that_was_cut_short_is_refused(plain):
    with pytest.raises(ValueError, match="is not the JSON of a tokenizer"):
        load_bpe(plain[:-20])
